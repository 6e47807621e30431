"""Which part of a longer sound or series is kept, and where a regular grid begins: worked out by hand."""

import numpy as np
import pytest

from mmedge import preprocess
from mmedge.preprocess.values import window
from mmedge.spec import SensorSpec


@pytest.mark.parametrize(
    ("length", "wanted", "take", "kept"),
    [
        (10, 4, "start", (0, 4)),
        (10, 4, "center", (3, 7)),
        (10, 5, "center", (2, 7)),  # of an odd rest the smaller half goes in front
        (10, 4, "end", (6, 10)),
        (3, 4, "start", (0, 3)),
        (3, 4, "center", (0, 3)),
        (3, 4, "end", (0, 3)),
        (4, 4, "center", (0, 4)),
    ],
)
def test_the_window_that_is_kept(length, wanted, take, kept):
    assert window(length, wanted, take) == slice(*kept)


@pytest.mark.parametrize(("take", "kept"), [("start", [0, 1, 2, 3]), ("center", [3, 4, 5, 6]), ("end", [6, 7, 8, 9])])
def test_a_longer_series_keeps_that_window(take, kept):
    spec = SensorSpec(kind="sensor", channels=1, length=4, take=take, mean=(0,), std=(1,))
    assert preprocess.tensor(spec, np.arange(10, dtype=np.float32)[None], "motion").tolist() == [kept]


def test_a_series_with_times_begins_at_its_first_time(tmp_path):
    """Rows at 5.05, 5.15, 5.35 and 5.55 s, of values 0, 1, 3 and 5: every tenth of a second from 5.05 on."""
    file = tmp_path / "series.csv"
    file.write_text("t,x\n5.05,0\n5.15,1\n5.35,3\n5.55,5\n")
    spec = SensorSpec(kind="sensor", channels=1, length=6, rate=10, time_column="t", mean=(0,), std=(1,))
    np.testing.assert_allclose(preprocess.tensor(spec, file, "motion"), [[0, 1, 2, 3, 4, 5]], atol=1e-5)
