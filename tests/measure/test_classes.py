"""Class sets that differ: what is added up, dropped, left alone, and refused."""

import numpy as np
import pytest

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.measure.classes import check_order, class_map
from mmedge.tasks import Head


def of(labels, task="classification"):
    """A contract whose one head has these labels."""
    return Contract(modalities={}, heads={"logits": Head(task=task, labels=labels)})


OURS = of(("animal", "car", "plane"))
P = np.array([[0.2, 0.3, 0.1, 0.4], [0.05, 0.05, 0.0, 0.9]])
LOGITS = np.log(np.maximum(P, 1e-30)) + np.array([[5.0], [-3.0]])


def test_classes_that_mean_the_same_add_up_and_dropped_ones_leave_the_rest_to_one():
    made = class_map(of(("cat", "dog", "car", "tree")), OURS, {"cat": "animal", "dog": "animal", "tree": None}, "t")
    logits, kept = made.known(LOGITS)
    assert made.columns.tolist() == [0, 1]
    np.testing.assert_allclose(np.exp(logits[0]), [0.5 / 0.6, 0.1 / 0.6], rtol=1e-6)
    np.testing.assert_allclose(kept, [0.6, 0.1], rtol=1e-6)
    spread = made.spread({"logits": LOGITS})["logits"]
    assert spread.shape == (2, 3) and spread.argmax(axis=1).tolist() == [0, 0] and (spread[:, 2] < -20).all()
    said = made.note()
    assert "3 of the teacher's 4 classes mean 2 of the data's 3" in said
    assert "dropped: tree" in said and "left to the labels: plane" in said


def test_the_same_classes_in_another_order_need_no_mapping_and_in_the_same_order_no_map():
    made = class_map(of(("plane", "animal", "car")), OURS, {}, "t")
    assert made.to == (2, 0, 1) and made.columns.tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.exp(made.known(np.log([[0.5, 0.3, 0.2]]))[0]), [[0.3, 0.2, 0.5]], rtol=1e-6)
    assert class_map(OURS, OURS, {}, "t") is None


@pytest.mark.parametrize(
    ("theirs", "mapping", "said"),
    [
        (("animals", "car", "plane"), {}, r"'animals' \(did you mean 'animal'\?\).*classes: {animals: …}"),
        (("animal", "car"), {}, "does not have the data's 'plane'"),
        (("cat", "car", "plane"), {"cta": "animal"}, r"no class 'cta' \(did you mean 'cat'\?\)"),
        (("cat", "car", "plane"), {"cat": "anmial"}, r"the data has no class 'anmial' \(did you mean 'animal'\?\)"),
        (("cat", "car", "plane"), {"cat": "animal", "car": "animal", "plane": None}, "fewer than two"),
    ],
)
def test_classes_that_do_not_fit_are_told_with_the_mapping_that_is_needed(theirs, mapping, said):
    with pytest.raises(UsageError, match=f"(?s){said}") as raised:
        class_map(of(theirs), OURS, mapping, "teacher.classes")
    assert raised.value.exit_code == 2 and "teacher.classes" in str(raised.value)


def test_labels_that_do_not_exclude_each_other_keep_their_logits():
    mapping = {"cat": "animal", "dog": "animal", "tree": None}
    ours = of(("animal", "car", "plane"), "multilabel")
    made = class_map(of(("cat", "dog", "car", "tree"), "multilabel"), ours, mapping, "t")
    logits, kept = made.known(LOGITS)
    np.testing.assert_allclose(logits, np.stack([LOGITS[:, :2].max(axis=1), LOGITS[:, 2]], axis=1), rtol=1e-6)
    assert kept.tolist() == [1, 1]


def test_outputs_in_another_order_than_the_classes_are_refused_with_the_order_that_fits():
    labels, targets = ("ABD", "ER", "PEN"), np.arange(60) % 3
    theirs = np.eye(3)[np.array([1, 2, 0])[targets]]  # output 0 is PEN, 1 ABD, 2 ER
    with pytest.raises(UsageError, match=r"(?s)right in 0% of 60.*in 100%.*classes: {PEN: PEN, ABD: ABD, ER: ER}"):
        check_order(theirs, targets, labels, "teacher.classes")


@pytest.mark.parametrize("right", [1.0, 0.5, 0.0])
def test_a_poor_teacher_whose_classes_stand_in_order_is_not_refused(right):
    rng = np.random.default_rng(0)
    targets = np.arange(300) % 10
    said = np.where(rng.random(300) < right, targets, rng.integers(10, size=300))
    check_order(np.eye(10)[said], targets, tuple("abcdefghij"), "teacher.classes")


def test_a_teacher_of_another_task_head_or_order_of_grades_is_refused():
    with pytest.raises(UsageError, match="a teacher of a regression cannot teach a classification"):
        class_map(of((), "regression"), OURS, {}, "t")
    other = Contract(modalities={}, heads={"kind": OURS.heads["logits"]})
    with pytest.raises(UsageError, match="head is called 'kind', the data's 'logits'"):
        class_map(other, OURS, {}, "t")
    grades = of(("low", "high"), "ordinal")
    with pytest.raises(UsageError, match="grades stand in one order"):
        class_map(of(("high", "low"), "ordinal"), grades, {}, "t")
    assert class_map(grades, grades, {}, "t") is None


def test_a_teacher_of_several_heads_must_have_those_of_the_data_with_their_classes():
    kind, price = OURS.heads["logits"], Head(task="regression", mean=3.0)
    ours = Contract(modalities={}, heads={"kind": kind, "price": price})
    more = Contract(modalities={}, heads={"price": Head(task="regression"), "kind": kind, "extra": price})
    assert class_map(more, ours, {}, "t") is None
    with pytest.raises(UsageError, match="no head 'price'"):
        class_map(of(kind.labels), Contract(modalities={}, heads={"logits": kind, "price": price}), {}, "t")
    with pytest.raises(UsageError, match="one head, and this one has several"):
        class_map(more, ours, {"car": None}, "t")
    swapped = Contract(modalities={}, heads={"kind": of(("car", "animal", "plane")).heads["logits"], "price": price})
    with pytest.raises(UsageError, match="classes of the head 'kind' are not the data's"):
        class_map(swapped, ours, {}, "t")
