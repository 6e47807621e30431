"""What a cut lost and whether that is inside the budget: small numbers worked out by hand."""

import pytest

from mmedge.gate import Estimate
from mmedge.measure.budget import WHOLE, Budget
from mmedge.recipe import Prune
from mmedge.stages.prune import attempts
from mmedge.stages.prune.outcome import losses

CONFIG = Prune(max_drop=0.01, max_subset_drop=0.02)


def lost(reach=0.0, **drops):
    return {
        {"whole": WHOLE}.get(name, name): Estimate(drop, drop - reach, drop + reach, 100)
        for name, drop in drops.items()
    }


@pytest.mark.parametrize(
    ("whole", "a", "b", "worst", "passed"),
    [
        (0.00, 0.00, 0.00, ("a", 0.0), True),
        (0.01, 0.02, 0.02, ("a", 0.02), True),  # all of both budgets is inside them
        (0.02, 0.00, 0.00, ("a", 0.0), False),
        (0.00, 0.05, -0.02, ("a", 0.05), False),  # the worst subset decides, not the best
        (0.00, -0.02, 0.10, ("b", 0.10), False),
    ],
)
def test_a_cut_is_judged_by_the_whole_and_by_the_worst_subset(whole, a, b, worst, passed):
    row = losses(Budget(CONFIG.max_drop, CONFIG.max_subset_drop), lost(whole=whole, a=a, b=b))
    assert row.drop == pytest.approx(whole) and row.passed is passed
    assert row.worst_subset_drop == pytest.approx(worst[1])
    assert passed or worst[1] == 0 or row.worst_subset == worst[0]


def test_a_cut_that_is_not_proved_to_lose_so_little_does_not_pass_unless_points_are_asked_for():
    measured = lost(0.02, whole=0.0, a=0.0)
    strict, point = (losses(Budget(0.01, 0.02, policy), measured) for policy in ("strict", "point"))
    assert not strict.passed and strict.drop_bound == 0.02 and "cannot tell" in strict.unproven
    assert point.passed and point.unproven is None


@pytest.mark.parametrize(("steps", "more"), [(1, {}), (4, {}), (1, {"sparsity": "2:4"})])
def test_all_attempts_together_use_up_no_more_doubt_than_there_is(steps, more):
    config = Prune(steps=steps, **more)
    numbers = [attempts.SPARSE, *range(len(attempts._powers(config)))]
    assert sum(attempts._share(number, config) for number in numbers) == pytest.approx(1)
