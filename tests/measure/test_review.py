"""Confusion, recall, calibration, ranking and disagreement, worked out by hand."""

import numpy as np
import pytest

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.measure.classwise import ece
from mmedge.measure.review import disagreements, review
from mmedge.tasks import Head
from tests.heads import samples

LABELS = ("a", "b", "c")
CLASSES = Head(task="classification", labels=LABELS)


def contract(head):
    spec = {"kind": "tabular", "columns": ["x"], "mean": [0], "std": [1]}
    return Contract.model_validate({"modalities": {"x": spec}, "heads": {"out": head.model_dump()}})


def seen(targets, head):
    n = len(targets)
    ids = tuple(f"s{k}" for k in range(n))
    return samples("test", ids, {}, np.ones((n, 1), bool), np.asarray(targets), np.arange(n), head=head, name="out")


def reviewed(output, targets, head):
    output = np.asarray(output, np.float32)
    return review(contract(head), {"out": output}, seen(targets, head))["out"]


def logits(rows):
    return np.log(np.asarray(rows))


def test_confusion_recall_and_precision_are_counts_of_samples():
    p = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]]
    found = reviewed(logits(p), [0, 0, 1, 1, -1], CLASSES)
    assert found.n == 4 and found.split == "test"
    assert {(c.target, c.chosen): c.n for c in found.confusion} == {("a", "a"): 2, ("b", "b"): 1, ("b", "a"): 1}
    a, b, c = found.labels
    assert (a.n, a.recall, a.precision) == (2, 1.0, pytest.approx(2 / 3))
    assert (b.n, b.recall, b.precision) == (2, 0.5, 1.0) and b.recall_ci95[0] <= 0.5 <= b.recall_ci95[1]
    assert c.n == 0 and c.recall is None and c.precision is None and c.auc is None
    # Both of a stand above one of b's, and one of b's (.5) above none of a's: 4 of 4 pairs in order.
    assert a.auc == 1.0 and a.average_precision == 1.0


def test_calibration_is_the_mean_distance_of_confidence_and_share_right():
    p = [[0.91, 0.05, 0.04]] * 12 + [[0.5, 0.3, 0.2]] * 12
    targets = [0] * 9 + [1] * 3 + [0] * 6 + [1] * 6
    found = reviewed(logits(p), targets, CLASSES).reliability
    assert [(b.n, b.right, round(b.low, 6), round(b.high, 6)) for b in found.bins] == [
        (12, 0.5, 0.5, 0.5),
        (12, 0.75, 0.91, 0.91),
    ]
    assert found.ece == pytest.approx(0.5 * abs(0.91 - 0.75), abs=1e-6)
    few = reviewed(logits(p[9:15]), targets[9:15], CLASSES).reliability  # so few are one bin: 3 of 6 right
    assert [(b.n, b.right) for b in few.bins] == [(6, 0.5)]
    assert few.ece == pytest.approx((0.91 + 0.5) / 2 - 0.5, abs=1e-6)


def test_the_pages_calibration_error_is_the_gates():
    rng = np.random.default_rng(0)
    output, targets = rng.normal(size=(300, 3)), rng.integers(0, 3, 300)
    gate = ece(CLASSES, output.astype(np.float32), targets, np.arange(300), 0.05)
    found = reviewed(output, targets, CLASSES).reliability
    assert len(found.bins) == 15 and {b.n for b in found.bins} == {20}
    assert found.ece == gate.value
    assert found.ece == pytest.approx(sum(b.n * abs(b.confidence - b.right) for b in found.bins) / 300)


def test_labels_of_which_a_sample_may_have_several_have_curves_and_no_confusion():
    head = Head(task="multilabel", labels=("x", "y"))
    found = reviewed([[2, -1], [1, 1], [-1, 3], [-2, -3]], [[1, 0], [0, 1], [0, 1], [0, 0]], head)
    assert found.confusion is None and [label.recall for label in found.labels] == [1.0, 1.0]
    assert [ranking.label for ranking in found.rankings] == ["x", "y"]
    assert found.rankings[0].true_positive_rate[-1] == 1.0 and found.rankings[0].false_positive_rate[0] == 0.0
    assert found.labels[0].auc == 1.0


def test_two_classes_have_one_curve_and_a_number_has_points():
    two = Head(task="classification", labels=("no", "yes"))
    found = reviewed([[1, 0], [0, 1], [1, 0.5]], [0, 1, 1], two)
    assert [ranking.label for ranking in found.rankings] == ["yes"]
    number = reviewed([[1.0], [2.5], [9.0]], np.array([1.5, 2.0, np.nan], np.float32), Head(task="regression"))
    assert number.n == 2 and (number.scatter.target, number.scatter.predicted) == ([1.5, 2.0], [1.0, 2.5])
    assert number.labels is None and number.reliability is None


def test_a_grade_is_right_where_its_thresholds_say_so():
    grades = Head(task="ordinal", labels=("bad", "fair", "good"))
    found = reviewed([[-1, -2], [3, 1], [3, 1]], [0, 2, 1], grades)
    assert {(c.target, c.chosen): c.n for c in found.confusion} == {
        ("bad", "bad"): 1,
        ("good", "good"): 1,
        ("fair", "good"): 1,
    }


def test_what_the_student_lost_comes_before_what_merely_differs():
    first = {"out": logits([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3], [0.2, 0.2, 0.6]])}
    second = {"out": logits([[0.3, 0.6, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])}
    lost, won, found = disagreements(contract(CLASSES), first, second, seen([0, 2, 1, 2], CLASSES), most=3)
    assert (lost, won) == (1, 1)
    assert [record.row for record in found] == [1, 2, 3]  # lost; then .7 and .4 of probability moved
    assert found[0].distance == pytest.approx(0.6) and (found[0].first.given, found[0].second.given) == ("a", "b")
    assert found[0].first.right and not found[0].second.right and found[1].target == "c" and found[1].id is None


def test_every_figure_of_a_label_is_scikit_learns_and_lies_in_its_interval():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 90)
    output = np.round(np.eye(3)[targets] + rng.normal(0, 1, (90, 3)), 1)  # with ties
    p = tasks.of(CLASSES).probabilities(output.astype(np.float32))
    for k, label in enumerate(reviewed(output, targets, CLASSES).labels):
        assert label.auc == pytest.approx(roc_auc_score(targets == k, p[:, k]))
        assert label.average_precision == pytest.approx(average_precision_score(targets == k, p[:, k]))
        for figure in ("recall", "precision", "average_precision", "auc"):
            low, high = getattr(label, f"{figure}_ci95")
            assert 0 <= low < getattr(label, figure) < high <= 1
