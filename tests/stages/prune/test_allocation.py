"""The choice among measured options: a pure function, held against every combination."""

from itertools import product

import numpy as np
import pytest

from mmedge.report.pruning import OptionRecord
from mmedge.stages.prune import allocation
from mmedge.stages.prune.allocation import choose, growing, predicted
from mmedge.stages.prune.search import smallest


def option(branch, ratio, latency, loss, macs=None):
    left = {"latency": latency, "macs": latency if macs is None else macs, "params": latency}
    return OptionRecord(branch=branch, ratio=ratio, left=left, loss=loss, quality=0.9 - loss, subsets={})


BRANCHES = {
    "image": [option("image", 0.5, 0.7, 0.001), option("image", 0.8, 0.55, 0.03)],
    "audio": [option("audio", 0.5, 0.8, 0.02), option("audio", 0.8, 0.7, 0.05)],
    "fusion": [option("fusion", 0.5, 0.99, 0.0)],
}


def ratios(choice):
    return {branch: option.ratio for branch, option in choice.items()}


def test_the_branch_that_loses_least_for_what_it_saves_goes_first():
    choice, expected = choose(BRANCHES, {"latency": 0.72})
    assert ratios(choice) == {"image": 0.5, "fusion": 0.5} and expected["latency"] == pytest.approx(0.69)
    assert ratios(choose(BRANCHES, {"latency": 0.52})[0]) == {"image": 0.5, "audio": 0.5, "fusion": 0.5}


def test_all_limits_count():
    branches = {"a": [option("a", 0.5, 0.5, 0.0, macs=1.0)], "b": [option("b", 0.5, 1.0, 0.01, macs=0.5)]}
    assert ratios(choose(branches, {"latency": 0.6})[0]) == {"a": 0.5}
    assert ratios(choose(branches, {"latency": 0.6, "macs": 0.6})[0]) == {"a": 0.5, "b": 0.5}


def test_where_nothing_meets_the_budget_the_nearest_is_chosen():
    choice, expected = choose(BRANCHES, {"latency": 0.1})
    assert ratios(choice) == {"image": 0.8, "audio": 0.8, "fusion": 0.5} and expected["latency"] > 0.1


def test_noise_that_rewards_a_larger_cut_is_not_believed():
    noisy = [option("a", 0.2, 0.9, 0.02), option("a", 0.4, 0.95, -0.01)]
    assert [(found.loss, found.left["latency"]) for found in growing(noisy)] == [(0.02, 0.9), (0.02, 0.9)]


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_of_all_combinations_and_step_by_step_meets_the_budget_too(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    branches = {
        name: [
            option(name, ratio, 1 - ratio * share, float(loss))
            for ratio, loss in zip((0.25, 0.5, 0.75), np.sort(rng.random(3) * 0.1))
        ]
        for name, share in zip("abcd", rng.dirichlet(np.ones(4)))
    }
    limits = {"latency": 0.5}
    choice, expected = choose(branches, limits)
    losses = [
        sum(found.loss for found in combination if found)
        for combination in product(*([None, *options] for options in branches.values()))
        if predicted(combination, "latency") <= 0.5
    ]
    assert expected["latency"] <= 0.5
    assert sum(found.loss for found in choice.values()) == pytest.approx(min(losses), abs=1e-4)
    monkeypatch.setattr(allocation, "_EXHAUSTIVE", 1)
    _, stepwise = choose(branches, limits)
    assert stepwise["latency"] <= 0.5


def test_the_smallest_that_meets_is_found_and_the_last_where_none_does():
    for threshold in range(1, 42):
        assert smallest(40, lambda step, threshold=threshold: step >= threshold) == min(threshold, 40)
