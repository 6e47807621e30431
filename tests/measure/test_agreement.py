"""How far two models are apart, told for every output."""

import numpy as np
import pytest

from mmedge.contract import Contract
from mmedge.measure import quality
from mmedge.measure.agreement import agreements
from mmedge.spec import ArraySpec
from mmedge.tasks import Head
from tests.heads import samples as made_samples

N = 5
SAMPLES = made_samples(
    "test",
    tuple("abcde"),
    {"x": np.arange(N, dtype=np.float32)[:, None]},
    np.ones((N, 1), bool),
    np.zeros(N),
    np.arange(N),
)


@pytest.fixture(autouse=True)
def batches_of_two(monkeypatch):
    monkeypatch.setattr(quality, "_BATCH", 2)


def compared(ours, theirs):
    """The agreements of two models that are given as {output: [N, ...]}."""
    ours, theirs = ({name: np.asarray(x) for name, x in each.items()} for each in (ours, theirs))

    def run(outputs):
        return lambda inputs: {name: x[inputs["x"][:, 0].astype(int)] for name, x in outputs.items()}

    width = ours["logits"].shape[1]
    head = Head(task="classification", labels=tuple("abc"[:width])) if width > 1 else Head(task="regression")
    contract = Contract(modalities={"x": ArraySpec(kind="array", shape=(1,))}, heads={"logits": head})
    return {each.output: each for each in agreements("x", run(ours), run(theirs), contract, SAMPLES, SAMPLES.present)}


def test_every_output_is_compared_over_all_batches():
    logits, boxes = np.eye(N, 3), np.zeros((N, 2, 4))
    moved = boxes.copy()
    moved[3, 1, 2] = 4.0
    found = compared({"boxes": boxes, "logits": logits}, {"boxes": moved, "logits": logits[:, ::-1]})
    assert list(found) == ["logits", "boxes"]  # the answer first
    assert (found["logits"].max_abs, found["logits"].same, found["logits"].n) == (1, pytest.approx(3 / 5), N)
    assert (found["boxes"].max_abs, found["boxes"].worst, found["boxes"].same) == (4.0, 3, None)
    assert found["boxes"].mean_abs == pytest.approx(4 / boxes.size)
    assert found["boxes"].record().top1 is None and found["logits"].record().top1 == pytest.approx(3 / 5)


def test_a_difference_is_held_against_the_largest_value_and_nan_fails():
    large = np.full((N, 1), 1000.0)
    found = compared({"logits": large, "y": large}, {"logits": large + 1, "y": np.full((N, 1), np.nan)})
    assert found["logits"].within(2e-3, 0.99) and not found["logits"].within(5e-4, 0.99)
    assert found["logits"].same == 1  # a regression has no classes
    assert not found["y"].within(1e9, 0)
    late = np.where(np.arange(N)[:, None] == 3, np.nan, large)
    assert compared({"logits": late}, {"logits": late})["logits"].worst == 3


def test_whole_numbers_are_compared_by_how_many_are_equal():
    kept, found = np.arange(N)[:, None], np.array([[0], [1], [2], [3], [999]])
    one = compared({"logits": np.zeros((N, 2)), "top": kept}, {"logits": np.zeros((N, 2)), "top": found})["top"]
    assert one.same == pytest.approx(4 / 5) and one.within(0, 0.8) and not one.within(1e9, 0.9)


def test_an_output_that_is_lacking_or_of_another_shape_differs_by_infinity():
    logits, y = np.zeros((N, 2)), np.zeros((N, 3))
    for theirs in ({"logits": logits}, {"logits": logits, "y": y[:, :2]}):
        assert compared({"logits": logits, "y": y}, theirs)["y"].max_abs == float("inf")
