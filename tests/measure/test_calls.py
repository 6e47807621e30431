"""What a graph answers to calls, held against labels or FP32: a figure means what it says, or there is none."""

import numpy as np
import pytest

from mmedge.errors import UsageError
from mmedge.measure.calls import check_arrays, check_labels, column, judge_of, relative, scores
from mmedge.stages.quantize.mixed import distance

INF, NAN = np.inf, np.nan


def f(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    "actual, expected, far",
    [
        (f(3, 4), f(3, 4), 0),
        (f(3, 1), f(3, 4), 0.6),
        (f(30, 40), f(3, 4), 1),  # never more than all
        (f(1, -INF, NAN), f(1, -INF, NAN), 0),  # what is not finite and the same is no difference
        (f(2, -INF), f(1, -INF), 1),
        (f(1, 1, 1, INF), f(1, 1, 1, -INF), 0.25),
        (f(1, 2, NAN, 4), f(1, 2, 3, 4), 0.25),
        (f(1), f(1, 2), 1),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.25),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), 0.5),
        (f(), f(), 0),
    ],
)
def test_the_difference_of_an_output_counts_what_is_finite_and_the_share_that_is_not_alike(actual, expected, far):
    assert relative(actual, expected) == pytest.approx(far)


def test_fp32_agrees_with_itself_wholly_whatever_its_outputs_hold():
    answers = [{"y": np.array([[1, -INF, NAN]], np.float32)}, {"y": np.array([[-INF, -INF, 2]], np.float32)}]
    for kind in ("agreement", "difference"):
        assert scores(kind, answers, answers, "y", None).tolist() == [1, 1]
    other = [{"y": np.array([[-INF, 1, 0]], np.float32)}, {"y": np.array([[0, 9, -INF]], np.float32)}]
    assert scores("difference", other, answers, "y", None).max() < 0.7


@pytest.mark.parametrize("shape", [(1, 3), (3,), (1, 1, 3), (1, 3, 1, 1)])
def test_one_score_a_class_is_judged_by_labels(shape):
    answers = [{"y": np.zeros(shape, np.float32)}]
    check_labels(np.array([2]), answers, "y", "here")
    with pytest.raises(UsageError, match="a label is 3"):
        check_labels(np.array([3]), answers, "y", "here")


@pytest.mark.parametrize(
    "shape, told",
    [((1, 10, 3), "10 rows of 3 classes a call"), ((1, 4, 8, 8), "8 classes a call"), ((1, 10, 1), r"\[1, 10, 1\]"), ((), "no axis|shape")],
)  # fmt: skip
def test_a_map_of_scores_is_no_row_of_classes(shape, told):
    with pytest.raises(UsageError, match=told):
        check_labels(np.array([0]), [{"y": np.zeros(shape, np.float32)}], "y", "here")


def test_what_is_no_array_is_told_by_its_name():
    with pytest.raises(UsageError, match="output 'p' is a sequence of maps") as told:
        check_arrays([{"label": np.zeros(1), "p": [{0: 0.5}]}], "m.onnx")
    assert "zipmap=False" in str(told.value)
    with pytest.raises(UsageError, match="output 'q' is a sequence, not"):
        check_arrays([{"q": [np.zeros(1)]}], "m.onnx")


@pytest.mark.parametrize("answer", [np.array([2]), np.array([[True, False]]), np.array(["cat"], object)])
def test_outputs_that_are_no_floats_are_judged_by_the_share_that_is_equal(answer):
    assert judge_of([{"y": answer}], "y", labels=False) == "difference"
    same, other = column([{"y": answer}] * 2), column([{"y": answer}, {"y": np.roll(answer, 1) if answer.size > 1 else answer.astype(str)}])  # fmt: skip
    assert distance(same, same) == 0 and np.isfinite(distance(same, other))


def test_a_distance_of_what_is_not_finite_is_that_of_the_rest_or_noise():
    x = np.array([[1, 2], [3, -INF], [5, 6]], np.float32)
    assert distance(x, x) == 0
    assert distance(x, np.where(x == 1, 2, x)) == pytest.approx(1 / 16)
    assert distance(x, np.where(x == -INF, 0, x)) == 1
    assert distance(x, x[:2]) == 1
