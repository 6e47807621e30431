"""What a recipe of texts is told before anything runs."""

import pytest

from mmedge.pipeline.check import check
from mmedge.progress import Silent
from mmedge.recipe import InvalidRecipe
from tests.conftest import parsed
from tests.data.made import write_table
from tests.pipeline.test_generation import PIXELS, values_of


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    rows = [["id", *PIXELS, "size", "caption"]]
    rows += [[f"d{n}", *range(n, n + 64), "big" if n % 2 else "small", f"number {n % 7} of {n}"] for n in range(120)]
    return write_table(tmp_path_factory.mktemp("numbers") / "m.csv", rows)


def test_check_counts_what_is_cut(manifest, tmp_path):
    values = values_of(manifest)
    values["data"]["text"]["length"] = 1
    found = check(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    assert "long-text" in {fault.kind for fault in found.faults}
    assert not [fault for fault in found.faults if fault.severity == "error"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"export": {"per_subset": True}}, "written by two engines already"),
        ({"export": {"split": True}}, "written by two engines already"),
        ({"teacher": {"model": {"factory": "own:network"}}}, "built-in network alone"),
        ({"distill": {"loss": {"sequences": "all", "labels": 0.0}}}, "give 'labels' a weight"),
    ],
)
def test_what_texts_cannot_have_is_refused_before_anything_runs(manifest, changed, said):
    values = values_of(manifest)
    for section, more in changed.items():
        values[section] = values[section] | more
    with pytest.raises(InvalidRecipe, match=said):
        parsed(values)


def test_sequences_are_of_texts_alone(values):
    values["distill"]["loss"] = {"sequences": "all"}
    with pytest.raises(InvalidRecipe, match=r"the teacher's texts, and the task is classification"):
        parsed(values)
