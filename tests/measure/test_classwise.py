"""The recall of the label that fares worst, and calibration, with bounds."""

import numpy as np
import pytest

from mmedge.measure.classwise import ece, worst_class_recall
from mmedge.tasks import Head

HEAD = Head(task="classification", labels=("a", "b", "c"))


def test_the_worst_label_decides_and_its_exact_lower_bound():
    targets = np.repeat([0, 1], [80, 20])
    right = np.concatenate([np.ones(80, bool), np.arange(20) < 15])
    output = 3.0 * np.eye(3)[np.where(right, targets, 2)]
    found = worst_class_recall(HEAD, output, targets, np.arange(100), 0.05)
    assert found.value == 0.75 and found.n == 100
    assert found.low == pytest.approx(0.5444, abs=1e-3)  # Clopper-Pearson, 15 of 20, one-sided .95
    assert 0.75 < found.high < 0.95


def test_a_model_whose_worst_label_is_just_below_the_limit_passes_in_at_most_one_of_twenty():
    rng, passed = np.random.default_rng(0), 0
    for _ in range(200):
        targets = rng.integers(0, 3, 150)
        right = rng.random(150) < np.array([0.7, 0.9, 0.7])[targets]
        output = 3.0 * np.eye(3)[np.where(right, targets, (targets + 1) % 3)]
        passed += worst_class_recall(HEAD, output, targets, np.arange(150), 0.05).low >= 0.7
    assert passed / 200 <= 0.05


def test_confidence_that_is_twenty_points_too_high_is_told_and_a_fitting_one_lies_within_its_bounds():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 0.99, 2000)
    logits = np.stack([np.log(sure), np.log((1 - sure) / 2), np.log((1 - sure) / 2)], axis=1)
    fitting = np.where(rng.random(2000) < sure, 0, 1)
    boastful = np.where(rng.random(2000) < sure - 0.2, 0, 1)
    found = ece(HEAD, logits, boastful, np.arange(2000), 0.05)
    assert found.low < 0.2 < found.high and found.value == pytest.approx(0.2, abs=0.03)
    assert ece(HEAD, logits, fitting, np.arange(2000), 0.05).high < 0.06
