"""Intervals cover the truth as often as they say, in simulation: a small one here, a thorough one behind ``slow``."""

import numpy as np
import pytest
from scipy.stats import binomtest

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.measure.intervals import EXACT, JACKKNIFE_GROUPS, RULE, of_figure, of_share
from mmedge.measure.quality import bounds
from mmedge.spec import ArraySpec
from mmedge.tasks import Head

LEAST = 0.93
# Samples, share of right ones, groups (None: each alone), how much those of a group are alike.
SHARES = [
    (20, 0.9, None, 0.0),
    (50, 0.98, None, 0.0),
    (200, 0.98, None, 0.0),
    (60, 0.9, 3, 0.1),
    (100, 0.95, 5, 0.2),
    (200, 0.8, 5, 0.2),
    (200, 0.98, 10, 0.1),
]


def right_answers(rng, n, share, groups, alike):
    """(right [n], group [n]): groups are better or worse by chance, of a beta distribution."""
    number = np.arange(n) if groups is None else np.arange(n) % groups
    strength = 1 / alike - 1 if alike else None
    chance = share if strength is None else rng.beta(share * strength, (1 - share) * strength, groups)[number]
    return rng.random(n) < chance, number


def share_coverage(n, share, groups, alike, trials):
    rng, covered = np.random.default_rng(n), 0
    for _ in range(trials):
        found = of_share(*right_answers(rng, n, share, groups, alike))
        assert found.high > found.low
        covered += found.low <= share <= found.high
    return covered / trials


@pytest.mark.parametrize(("n", "share", "groups", "alike"), SHARES)
def test_the_interval_of_a_share_covers_it_with_few_samples_near_one_and_in_few_groups(n, share, groups, alike):
    assert share_coverage(n, share, groups, alike, 150) >= LEAST


def test_a_share_of_single_samples_has_the_exact_interval_and_is_never_without_width():
    right, alone = np.arange(60) > 2, np.arange(60)
    expected = binomtest(57, 60).proportion_ci(method="exact")
    found = of_share(right, alone)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high)) and found.method == EXACT
    all_right = of_share(np.ones(60, bool), alone)
    assert all_right.low == pytest.approx(0.025 ** (1 / 60)) and all_right.high == 1


def test_where_nothing_varies_the_rule_of_three_says_how_far_the_truth_may_be():
    found = of_figure(lambda rows: 1.0, np.arange(60))
    assert (found.low, found.high, found.method) == (pytest.approx(0.025 ** (1 / 60)), 1.0, RULE)


def test_a_figure_over_groups_is_students_over_them():
    values = np.repeat([0.2, 0.5, 0.4, 0.8], 25) + np.tile(np.linspace(-0.01, 0.01, 25), 4)
    found = of_figure(lambda rows: float(values[rows].mean()), np.repeat(np.arange(4), 25), "difference")
    means = np.array([0.2, 0.5, 0.4, 0.8])
    reach = 3.182446 * means.std(ddof=1) / 3**0.5  # over the square root of one group fewer: see Hansen 2025
    assert (found.low, found.high) == pytest.approx((means.mean() - reach, means.mean() + reach), abs=1e-5)
    assert found.method == JACKKNIFE_GROUPS


def made(task, rng, n, groups):
    """(contract, outputs, targets, group [n]) of one head that is often right, its groups of unlike difficulty."""
    number = np.arange(n) if groups is None else np.arange(n) % groups
    hard = rng.normal(0, 0.3, n if groups is None else groups)[number] if groups else np.zeros(n)
    noise = rng.normal(0, 1, (n, 3)) * np.exp(hard)[:, None]
    if task == "regression":
        head, targets = Head(task=task), rng.normal(0, 1, n).astype(np.float32)
        output = targets[:, None] + 0.4 * noise[:, :1]
    elif task == "multilabel":
        head, targets = Head(task=task, labels=("a", "b", "c")), (rng.random((n, 3)) < 0.4).astype(np.float32)
        output = 2 * targets - 1 + 0.9 * noise
    elif task == "ordinal":
        head, targets = Head(task=task, labels=("1", "2", "3")), rng.integers(0, 3, n)
        output = 2.5 * (targets[:, None] - np.array([0.5, 1.5])) + 0.9 * noise[:, :1]
    else:
        head, targets = Head(task=task, labels=("a", "b", "c")), rng.integers(0, 3, n)
        output = 2.2 * np.eye(3)[targets] + 0.9 * noise
    contract = Contract(modalities={"x": ArraySpec(kind="array", shape=(1,))}, heads={"y": head})
    return contract, head, output, targets, number


FIGURES = [
    ("classification", "f1"), ("multilabel", "average_precision"), ("multilabel", "f1"), ("multilabel", "f1_micro"),
    ("multilabel", "all_labels_right"), ("regression", "r2"), ("regression", "mae"), ("regression", "rmse"),
    ("ordinal", "mae_ranks"), ("ordinal", "kappa"),
]  # fmt: skip


def figure_coverage(task, figure, n, groups, trials):
    def value(head, output, targets):
        kind = tasks.of(head)
        return (
            kind.score(output, targets, head) if figure == kind.METRIC else kind.others(output, targets, head)[figure]
        )

    rng = np.random.default_rng(7)
    truth = value(*made(task, rng, 200_000, groups and 20_000)[1:4])
    covered = 0
    for _ in range(trials):
        _, head, output, targets, number = made(task, rng, n, groups)
        scale = tasks.of(head).FIGURES[figure]
        found = of_figure(lambda rows: value(head, output[rows], targets[rows]), number, scale)  # noqa: B023
        assert found.high > found.low
        covered += found.low <= truth <= found.high
    return covered / trials


@pytest.mark.long
@pytest.mark.parametrize(("task", "figure"), FIGURES)
def test_the_interval_of_every_other_figure_covers_it_in_few_groups(task, figure):
    assert figure_coverage(task, figure, 100, 6, 60) >= LEAST - 0.03  # of so few trials one sees no finer


@pytest.mark.slow
@pytest.mark.parametrize(("task", "figure"), FIGURES)
@pytest.mark.parametrize(("n", "groups"), [(60, None), (60, 3), (100, 5), (200, 10)])
def test_every_figures_interval_covers_it_in_many_trials(task, figure, n, groups):
    assert figure_coverage(task, figure, n, groups, 1000) >= LEAST - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("n", "share", "groups", "alike"), SHARES)
def test_the_interval_of_a_share_covers_it_in_many_trials(n, share, groups, alike):
    assert share_coverage(n, share, groups, alike, 5000) >= LEAST


def test_the_metric_of_every_task_has_its_interval():
    for task in [name for name, task in tasks.TASKS.items() if not (task.PLACED or task.CODES)]:
        contract, head, output, targets, number = made(task, np.random.default_rng(0), 60, None)
        outputs, known = {"y": output}, {"y": targets}
        found = bounds(contract, outputs, known, number)
        assert found.low < tasks.of(head).score(output, targets, head) < found.high
        assert set(tasks.of(head).others(output, targets, head)) <= set(tasks.of(head).FIGURES)


def test_the_figure_of_one_row_is_not_asked_for_without_it():
    asked = []

    def figure(rows):
        asked.append(len(rows))
        return 0.25

    found = of_figure(figure, np.array([7]), "difference")
    assert set(asked) == {1} and found.method == RULE and (found.low, found.high) == (-0.725, 1.225)
