"""Grades in order: cells, probabilities, figures worked out by hand, and what is refused."""

import numpy as np
import pytest

from mmedge.tasks import ordinal
from mmedge.tasks.head import Head, Target

TARGET = Target(task="ordinal", order=("bad", "fair", "good"))
HEAD = Head(task="ordinal", labels=("bad", "fair", "good"))


def kinds(cells, target=TARGET):
    return [(found.severity, found.kind) for found in ordinal.faults(cells, target) if found.kind != "tiny-class"]


def test_grades_stand_in_the_order_of_the_recipe_and_numbers_in_their_own():
    assert ordinal.head(["good", "bad", None], TARGET).labels == ("bad", "fair", "good")
    assert ordinal.head(["10", "9", "2", "9"], Target(task="ordinal")).labels == ("2", "9", "10")
    assert ordinal.width(HEAD) == 2
    assert ordinal.targets(["good", None, "bad"], HEAD, TARGET).tolist() == [2, -1, 0]


def test_a_row_is_of_the_grade_whose_thresholds_it_more_likely_passes_than_not():
    output = np.array([[-1.0, -3.0], [2.0, -0.5], [3.0, 1.0]])
    assert ordinal.ranks(output).tolist() == [0, 1, 2]
    first, _, last = ordinal.predictions(output, HEAD)
    assert (first.label, first.rank, last.label, last.rank) == ("bad", 0, "good", 2)
    passed = 1 / (1 + np.exp(-output[0]))
    assert list(first.probabilities.values()) == pytest.approx([1 - passed[0], passed[0] - passed[1], passed[1]])
    assert first.record() == {"label": "bad", "rank": 0, "probabilities": first.probabilities}


def test_probabilities_add_up_to_one_even_where_thresholds_cross():
    crossed = ordinal.probabilities(np.array([[-2.0, 2.0], [0.0, 0.0]]))
    assert (crossed >= 0).all() and crossed.sum(axis=1) == pytest.approx([1, 1])
    assert crossed[0, 1] == 0  # the second threshold is passed no more often than the first


def test_accuracy_the_error_in_grades_and_weighted_kappa_are_those_worked_out_by_hand():
    targets = np.array([0, 1, 2, 2])
    output = np.array([[-1.0, -2.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])  # grades 0, 2, 2, 0
    assert ordinal.score(output, targets, HEAD) == 0.5
    figures = ordinal.others(output, targets, HEAD)
    assert figures["mae_ranks"] == pytest.approx((0 + 1 + 0 + 2) / 4)
    # Observed squared distances 0, 1, 0, 4; expected over all pairs of a target {0, 1, 2, 2} and a grade {0, 2, 2, 0}.
    expected = sum((t - g) ** 2 for t in (0, 1, 2, 2) for g in (0, 2, 2, 0)) / 4
    assert figures["kappa"] == pytest.approx(1 - 5 / expected)
    one = ordinal.others(output[:1], targets[:1], HEAD)
    assert "kappa" not in one and one["mae_ranks"] == 0


def test_words_without_an_order_and_grades_outside_it_are_told():
    cells = {"train": ["bad", "good", "fair"], "validation": ["fair", "bad"], "test": ["good", "bda"]}
    assert kinds(cells, Target(task="ordinal")) == [("error", "no-order")]
    found = [finding for finding in ordinal.faults(cells, TARGET) if finding.severity == "error"]
    assert [(f.kind, f.split, f.row) for f in found] == [("unknown-grade", "test", 1)]
    assert "did you mean 'bad'" in found[0].what


def test_a_listed_grade_without_a_training_sample_is_no_error():
    cells = {"train": ["bad", "good"] * 5, "validation": ["bad", "fair"], "test": ["good", "fair"]}
    assert not [kind for severity, kind in kinds(cells) if severity == "error"]


def test_two_outputs_mean_the_same_where_their_grades_are():
    first = np.array([[1.0, -1.0], [2.0, 1.0]])
    assert ordinal.same(first, first * 3) == 1 and ordinal.same(first, first - 1.5) == 0
