"""What is wrong with the labels of splits, whatever the task."""

import pytest

from mmedge.tasks import TASKS
from mmedge.tasks.cells import label_faults
from mmedge.tasks.head import Target


def found(**splits):
    named = {split: [frozenset(label) for label in labels] for split, labels in splits.items()}
    return {(fault.kind, fault.split, fault.what[11]) for fault in label_faults(named, ["train"], needs=2)}


def test_a_class_with_one_sample_or_none_in_a_split_that_judges_is_told():
    told = found(train="aaaaaabbbbbbcccccc", validation="aabb", test="aabccc")
    assert ("single-sample", "test", "b") in told and ("empty-class", "validation", "c") in told
    assert not [fault for fault in told if fault[2] == "a"] and len(told) == 2


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("task", "sound", "alike", "kind"),
    [("multilabel", ["a", "b", "a;b", ";"], [";", ";", None, ";"], "no-positives"),
     ("regression", ["1", "2", "3", "4"], ["7", "7", None, "7"], "constant")],
)  # fmt: skip
def test_a_split_that_judges_by_nothing_that_differs_is_an_error(split, task, sound, alike, kind):
    """Several labels of which no sample has any, numbers that are all the same: a run would die after training."""
    target = Target(task=task)
    cells = {"train": sound * 2, "validation": sound, "test": sound}
    assert not [found for found in TASKS[task].faults(cells, target) if found.severity == "error"]
    found = [fault for fault in TASKS[task].faults({**cells, split: alike}, target) if fault.severity == "error"]
    assert [(fault.kind, fault.split) for fault in found] == [(kind, split)]
