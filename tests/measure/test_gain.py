"""The interval of a gain, with small numbers worked out by hand."""

import numpy as np
import pytest

from mmedge.measure.gain import paired
from tests.heads import samples


def test_the_interval_of_two_seeds_that_agree_is_students_over_the_samples():
    """Differences 0, 1 and 2 in both seeds: mean 1, variance 1 (over n - 1), of the mean 1/3.

    Resampled means vary by (n - 1) / n of that: without the correction the interval would be 1 -+ 2.03. Of three units
    Student's t has two degrees of freedom, 4.303 at 97.5 %.
    """
    three = samples("test", ("a", "b", "c"), {}, np.ones((3, 1), bool), np.zeros(3, int), np.arange(3))
    low, high = paired(lambda _, rows: float(rows.mean()), 2, three, resamples=20_000, seed=0)
    assert (low + high) / 2 == pytest.approx(1)
    assert high - low == pytest.approx(2 * 4.303 / 3**0.5, rel=0.03)
