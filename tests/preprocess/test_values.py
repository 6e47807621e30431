"""Which part of a longer sound or series is kept, where a regular grid begins, and what is no value."""

import io

import numpy as np
import pytest
from PIL import Image

from mmedge import preprocess
from mmedge.errors import MmedgeError
from mmedge.preprocess.values import window
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, SensorSpec


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


HIDDEN = np.ma.array(np.zeros((2, 3)), mask=[[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (ImageSpec(kind="image", height=2, width=3, channels=1), HIDDEN.astype(np.uint8)),
        (ArraySpec(kind="array", shape=(2, 3)), HIDDEN),
        (ArraySpec(kind="array", shape=(2, 3), ids=4), HIDDEN),
        (SensorSpec(kind="sensor", channels=2, length=3), HIDDEN),
        (AudioSpec(kind="audio", frames=4), HIDDEN[0].astype(np.float32)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_a_mask_hides_is_not_taken_for_values(spec, value):
    with pytest.raises(MmedgeError, match="is a masked array, [12] of whose values are hidden"):
        preprocess.tensor(spec, value)


@pytest.mark.parametrize("lowest, highest", [(-1, 5), (0, 65_536), (-70_000, 0)])
def test_pixels_beyond_sixteen_bits_are_told_and_not_clipped(lowest, highest):
    stream = io.BytesIO()
    Image.fromarray(np.array([[lowest, highest]] * 2, np.int32)).save(stream, "TIFF")
    with pytest.raises(MmedgeError, match=f"pixels of {lowest} to {highest}"):
        preprocess.tensor(ImageSpec(kind="image", height=2, width=2, channels=1), stream.getvalue())


def test_a_number_that_no_float_holds_is_told():
    with pytest.raises(MmedgeError, match="must be numbers: int too large"):
        preprocess.tensor(ArraySpec(kind="array", shape=(2,)), [10**400, 1])


def test_a_series_with_times_begins_at_its_first_time(tmp_path):
    """Rows at 5.05, 5.15, 5.35 and 5.55 s, of values 0, 1, 3 and 5: every tenth of a second from 5.05 on."""
    file = tmp_path / "series.csv"
    file.write_text("t,x\n5.05,0\n5.15,1\n5.35,3\n5.55,5\n")
    spec = SensorSpec(kind="sensor", channels=1, length=6, rate=10, time_column="t", mean=(0,), std=(1,))
    np.testing.assert_allclose(preprocess.tensor(spec, file, "motion"), [[0, 1, 2, 3, 4, 5]], atol=1e-5)
