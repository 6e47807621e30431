"""The linear baseline learns each task from each kind of modality, and what is absent is no obstacle."""

import numpy as np
import pytest

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.measure.baseline import Effort, effort_of, in_words, linear_outputs, majority_outputs
from mmedge.measure.quality import placed_outputs, score
from mmedge.spec import ArraySpec, ImageSpec, SensorSpec, TextSpec
from mmedge.tasks import Head

SPECS = {
    "picture": ImageSpec(kind="image", height=20, width=12, channels=1),
    "series": SensorSpec(kind="sensor", channels=2, length=30),
    "values": ArraySpec(kind="array", shape=(3,)),
}


def made(task, n=300, seed=0):
    """(contract, samples): each kind tells something of a hidden number, and a fifth of the rows lacks the series."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(0, 1, n)
    inputs = {
        "picture": (hidden[:, None, None, None] * 0.5 + rng.normal(0, 1, (n, 1, 20, 12))).astype(np.float32),
        "series": (hidden[:, None, None] * 0.5 + rng.normal(0, 1, (n, 2, 30))).astype(np.float32),
        "values": rng.normal(0, 1, (n, 3)).astype(np.float32),
    }
    present = np.ones((n, 3), bool)
    present[: n // 5, 1] = False
    inputs["series"][: n // 5] = np.nan
    if task == "regression":
        head, targets = Head(task=task, mean=5, std=2), (5 + 2 * hidden).astype(np.float32)
    elif task == "frames":
        head = Head(task=task, shape=(2, 2), varies=True, mean=(5, 5), std=(2, 2))
        targets = np.append(5 + 2 * hidden[:, None].repeat(4, axis=1), np.full((n, 1), 2), axis=1).astype(np.float32)
        targets[:9, 2:] = [np.nan, np.nan, 1]
    elif task == "multilabel":
        head = Head(task=task, labels=("p", "q"))
        targets = np.stack([hidden > 0.3, hidden < -0.3], axis=1).astype(np.float32)
    else:
        head = Head(task=task, labels=("low", "middle", "high"))
        targets = np.digitize(hidden, [-0.5, 0.5])
    contract = Contract(modalities=SPECS, heads={"y": head})
    ids = tuple(f"s{row}" for row in range(n))
    return contract, Samples("test", ids, inputs, present, {"y": targets}, np.arange(n), {"y": head})


@pytest.mark.parametrize("task", [name for name, task in tasks.TASKS.items() if not (task.AMONG or task.CODES)])
def test_every_task_is_learnt_by_a_linear_model_better_than_by_who_always_says_the_same(task):
    contract, train = made(task)
    _, test = made(task, seed=1)
    (outputs,) = linear_outputs(contract, train, [test], 0)
    same = majority_outputs(contract, train, len(test))
    assert outputs["y"].shape == same["y"].shape == (300, tasks.of(contract.heads["y"]).width(contract.heads["y"]))
    outputs, same = (placed_outputs(contract, given, given, test.targets) for given in (outputs, same))
    assert score(contract, outputs, test.targets) > score(contract, same, test.targets) + 0.2


def test_texts_are_bags_of_words():
    spec = TextSpec(kind="text", length=6, vocabulary=100)
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 200)
    words = rng.integers(10, 90, (200, 6))
    words[np.arange(200), rng.integers(0, 6, 200)] = np.where(targets, 7, 8)
    head = Head(task="classification", labels=("a", "b"))
    contract = Contract(modalities={"t": spec}, heads={"y": head})
    rows = tuple(map(str, range(200)))
    train = Samples("train", rows, {"t": words}, np.ones((200, 1), bool), {"y": targets}, np.arange(200), {"y": head})
    (outputs,) = linear_outputs(contract, train.taken(np.arange(100)), [train.taken(np.arange(100, 200))], 0)
    assert score(contract, outputs, {"y": targets[100:]}) > 0.9 and in_words(contract) == {"t": "bag of words"}


def test_a_head_whose_training_has_one_class_or_none_says_always_the_same():
    contract, train = made("classification")
    for targets in (np.zeros(300, int), np.full(300, -1)):
        other = Samples("train", train.ids, train.inputs, train.present, {"y": targets}, train.groups, train.heads)
        (outputs,) = linear_outputs(contract, other, [train], 0)
        assert len(np.unique(outputs["y"].argmax(axis=1))) == 1


class Counted:
    """An array that is too large to be there: what is read of it is counted, and is noise."""

    def __init__(self, n, *shape, tokens=None):
        self.shape, self.read, self._tokens = (n, *shape), 0, tokens

    def __getitem__(self, rows):
        count = len(range(self.shape[0])[rows]) if isinstance(rows, slice) else len(rows)
        self.read += count
        rng = np.random.default_rng(count)
        if self._tokens:
            return rng.integers(0, self._tokens, (count, *self.shape[1:]))
        return rng.normal(size=(count, *self.shape[1:])).astype(np.float32)

    def max(self, initial):
        return self._tokens - 1


LARGE = {
    "table": (ArraySpec(kind="array", shape=(30,)), Counted(100_000, 30), 10),
    "pictures": (ImageSpec(kind="image", height=224, width=224, channels=3), Counted(100_000, 3, 224, 224), 10),
    "pictures of a thousand": (
        ImageSpec(kind="image", height=224, width=224, channels=3),
        Counted(100_000, 3, 224, 224),
        1000,
    ),
    "texts": (TextSpec(kind="text", length=64, vocabulary=8000), Counted(100_000, 64, tokens=8000), 10),
    "texts of a thousand": (TextSpec(kind="text", length=64, vocabulary=8000), Counted(100_000, 64, tokens=8000), 1000),
}


@pytest.mark.parametrize("kind", LARGE)
def test_of_a_hundred_thousand_rows_no_more_is_learned_from_than_some_seconds_allow(kind):
    spec, values, classes = LARGE[kind]
    head = Head(task="classification", labels=tuple(map(str, range(classes))))
    contract = Contract(modalities={"x": spec}, heads={"y": head})
    n = 100_000
    rows = np.arange(n)
    train = Samples("train", rows, {"x": values}, np.ones((n, 1), bool), {"y": rows % classes}, rows, {"y": head})
    effort = effort_of(contract, train)
    columns = {"table": 30, "pictures": 3 * 64, "texts": 5 * 64}[kind.partition(" ")[0]]
    products = effort.rows * effort.iterations * columns * classes
    assert products <= 1e10 or effort == Effort(500, 50)
    assert effort.rows * np.prod(values.shape[1:]) <= 2e9
    assert effort.rows >= {"table": 4000, "pictures": 4000, "texts": 50_000}.get(kind, 500)


def test_what_is_learned_from_is_all_that_is_read_of_training():
    values = Counted(50_000, 3)
    head = Head(task="classification", labels=("a", "b"))
    contract = Contract(modalities={"x": ArraySpec(kind="array", shape=(3,))}, heads={"y": head})
    rows = np.arange(50_000)
    train = Samples("train", rows, {"x": values}, np.ones((50_000, 1), bool), {"y": rows % 2}, rows, {"y": head})
    test = train.taken(np.arange(10))
    values.read = 0
    linear_outputs(contract, train, [test], 0)
    assert values.read <= 2 * effort_of(contract, train).rows + 20 == 8020
