"""Which candidate is inside the budget: small numbers worked out by hand."""

import pytest

from mmedge.gate import Estimate
from mmedge.measure.budget import WHOLE, Budget
from mmedge.recipe import Quantize
from mmedge.stages.preference import LOOKS, tail_of


def lost(whole, reach=0.0, **subsets):
    """What was lost, each within ``reach`` of it."""
    return {
        name or WHOLE: Estimate(value, value - reach, value + reach, 100)
        for name, value in {"": whole, **subsets}.items()
    }


@pytest.mark.parametrize(
    ("whole", "a", "b", "expected"),
    [
        (0.00, 0.00, 0.00, -0.01),  # nothing is lost: a hundredth is left of max_drop
        (0.02, 0.00, 0.00, 0.01),  # the whole lost .02
        (0.00, 0.05, 0.00, 0.03),  # a subset lost .05, and .02 is allowed
        (0.00, 0.00, 0.10, 0.08),  # the worst subset counts, wherever it stands
        (0.00, 0.10, -0.10, 0.08),  # what another gained makes no amends
        (0.01, 0.02, 0.02, 0.00),  # all of both budgets is inside them
    ],
)
@pytest.mark.parametrize("policy", ["strict", "point"])
def test_a_budget_is_missed_by_the_whole_or_by_the_worst_subset(policy, whole, a, b, expected):
    missed = Budget(0.01, 0.02, policy).over(lost(whole, a=a, b=b))
    assert missed == pytest.approx(expected, abs=1e-6) and (missed <= 0) == (expected <= 0)


def test_the_figures_that_miss_a_budget_are_told_by_name():
    budget = Budget(0.01, 0.02)
    assert budget.missed(lost(0.00, a=0.05, b=0.02)) == ["a"]
    assert budget.missed(lost(0.02, a=0.00, b=0.03)) == [WHOLE, "b"]
    assert budget.missed(lost(0.00, a=0.01, b=0.00)) == []


def test_a_loss_that_is_not_proved_to_be_inside_is_outside_and_says_how_many_samples_would_prove_it():
    strict, point = Budget(0.02, 0.04), Budget(0.02, 0.04, "point")
    doubtful = lost(0.01, 0.02, a=0.0)
    assert strict.over(doubtful) == pytest.approx(0.01, abs=1e-6) and point.over(doubtful) < 0
    # Twice as far as the limit allows: four times the samples, and 2.29 times as many for four of five cases.
    assert (
        strict.unproven(doubtful)
        == "100 samples cannot tell that no more is lost than allowed: about 920 samples would"
    )
    assert point.unproven(doubtful) is None
    assert strict.unproven(lost(0.03, 0.02)) is None  # outside as it was measured
    assert strict.unproven(lost(0.00, 0.01)) is None  # proved


def test_all_candidates_together_use_up_no_more_doubt_than_the_confidence_leaves():
    config = Quantize()
    tried = [*config.candidates, *(each for each in config.fallbacks if each not in config.candidates), "int8-qat"]
    tails = {name: tail_of(name, config, 0.95) for name in tried if name != "fp32"}
    tails["int8-mixed"] *= LOOKS  # each mix that its search looks at has that part
    assert sum(tails.values()) == pytest.approx(0.05)
    alone = Quantize(candidates=("fp32", "fp16"), fallbacks=())
    assert tail_of("fp16", alone, 0.95) == pytest.approx(0.025)
