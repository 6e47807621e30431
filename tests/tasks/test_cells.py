"""What is wrong with the labels of splits, whatever the task."""

from mmedge.tasks.cells import label_faults


def found(**splits):
    named = {split: [frozenset(label) for label in labels] for split, labels in splits.items()}
    return {(fault.kind, fault.split, fault.what[11]) for fault in label_faults(named, ["train"], needs=2)}


def test_a_class_with_one_sample_or_none_in_a_split_that_judges_is_told():
    told = found(train="aaaaaabbbbbbcccccc", validation="aabb", test="aabccc")
    assert ("single-sample", "test", "b") in told and ("empty-class", "validation", "c") in told
    assert not [fault for fault in told if fault[2] == "a"] and len(told) == 2
