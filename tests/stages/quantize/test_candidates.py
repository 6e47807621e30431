"""Which candidate is inside the budget: small numbers worked out by hand."""

import numpy as np
import pytest

from mmedge.recipe import Quantize
from mmedge.stages.quantize.candidates import over
from mmedge.stages.quantize.evaluation import Scored


def scored(quality, **subsets):
    return Scored(quality, subsets, 100, np.zeros(1))


@pytest.mark.parametrize(
    ("quality", "a", "b", "expected"),
    [
        (0.90, 0.80, 0.70, -0.01),  # nothing is lost: a hundredth is left of max_drop
        (0.88, 0.80, 0.70, 0.01),  # the whole lost .02
        (0.90, 0.75, 0.70, 0.03),  # a subset lost .05, and .02 is allowed
        (0.90, 0.80, 0.60, 0.08),  # the worst subset counts, wherever it stands
        (0.90, 0.70, 0.80, 0.08),  # what another gained makes no amends
        (0.89, 0.78, 0.68, 0.00),  # all of both budgets is inside them
    ],
)
def test_a_budget_is_missed_by_the_whole_or_by_the_worst_subset(quality, a, b, expected):
    config = Quantize(max_drop=0.01, max_subset_drop=0.02)
    missed = over(scored(quality, a=a, b=b), scored(0.9, a=0.8, b=0.7), config)
    assert missed == pytest.approx(expected, abs=1e-6) and (missed <= 0) == (expected <= 0)
