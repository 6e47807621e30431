"""What a cut lost and whether that is inside the budget: small numbers worked out by hand."""

import pytest

from mmedge.recipe import Prune
from mmedge.stages.prune.outcome import losses
from mmedge.stages.prune.work import Judged

CONFIG = Prune(max_drop=0.01, max_subset_drop=0.02)
BEFORE = Judged(quality=0.9, subsets={"a": 0.8, "b": 0.7}, overall=0.8)


@pytest.mark.parametrize(
    ("quality", "a", "b", "worst", "passed"),
    [
        (0.90, 0.80, 0.70, ("a", 0.0), True),
        (0.89, 0.78, 0.68, ("a", 0.02), True),  # all of both budgets is inside them
        (0.88, 0.80, 0.70, ("a", 0.0), False),
        (0.90, 0.75, 0.72, ("a", 0.05), False),  # the worst subset decides, not the best
        (0.90, 0.82, 0.60, ("b", 0.10), False),
    ],
)
def test_a_cut_is_judged_by_the_whole_and_by_the_worst_subset(quality, a, b, worst, passed):
    lost = losses(CONFIG, BEFORE, Judged(quality=quality, subsets={"a": a, "b": b}, overall=0.0))
    assert lost.drop == pytest.approx(0.9 - quality) and lost.passed is passed
    assert lost.worst_subset_drop == pytest.approx(worst[1])
    assert passed or worst[1] == 0 or lost.worst_subset == worst[0]
