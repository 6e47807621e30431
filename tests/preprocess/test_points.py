"""Clouds: the same points of every kind of file, a fixed number of them with a mask, and files that are none told."""

import io

import numpy as np
import pytest

from mmedge import preprocess
from mmedge.errors import MmedgeError
from mmedge.preprocess import points
from mmedge.spec import PointsSpec

SPEC = PointsSpec(kind="points", points=32, extras=("intensity",))
CLOUD = np.random.default_rng(0).normal(size=(20, 4)).astype("<f4")
HEADER = """ply
format {} 1.0
comment by hand
element vertex {}
property float x
property float y
property float z
property float intensity
element face 1
property list uchar int vertex_indices
end_header
"""


def ply(form, body, count=20):
    return HEADER.format(form, count).encode() + body


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


ASCII = "\n".join(" ".join(repr(float(x)) for x in row) for row in CLOUD).encode() + b"\n3 0 1 2\n"


@pytest.mark.parametrize(
    "value",
    [
        CLOUD.tobytes(),
        npy(CLOUD),
        npy(CLOUD.astype(float)),
        ply("ascii", ASCII),
        ply("binary_little_endian", CLOUD.tobytes() + b"\3\0\0\0"),
        ply("binary_big_endian", CLOUD.astype(">f4").tobytes()),
    ],
    ids=["bin", "npy", "npy64", "ascii", "little", "big"],
)
def test_every_kind_of_file_gives_the_array_s_tensor(value, tmp_path):
    expected = preprocess.tensor(SPEC, CLOUD)
    (tmp_path / "cloud").write_bytes(value)
    assert np.array_equal(preprocess.tensor(SPEC, value), expected)
    assert np.array_equal(preprocess.tensor(SPEC, tmp_path / "cloud"), expected)


def test_a_cloud_is_centred_on_its_mean_within_a_sphere_and_padded_behind_its_mask():
    found = preprocess.tensor(SPEC, CLOUD)
    assert found.shape == (5, 32) and found[-1].tolist() == [1] * 20 + [0] * 12 and not found[:, 20:].any()
    assert found[:3, :20].mean(axis=1) == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(found[:3], axis=0).max() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(found[3, :20], CLOUD[:, 3])


def test_coordinates_of_a_map_keep_their_digits_until_they_are_centred():
    """A cloud of some metres at 4,000 km north: float32 has steps of half a metre there."""
    far = CLOUD.astype(float) + np.array([500_000, 4_000_000, 100, 0])
    doubles = HEADER.replace("property float", "property double").format("binary_little_endian", 20).encode()
    text = "\n".join(" ".join(repr(float(x)) for x in row) for row in far).encode() + b"\n3 0 1 2\n"
    expected = preprocess.tensor(SPEC, CLOUD)
    for value in (far, far.tolist(), npy(far), doubles + far.astype("<f8").tobytes(), ply("ascii", text)):
        assert preprocess.tensor(SPEC, value) == pytest.approx(expected, abs=1e-6)


def test_the_farthest_points_of_a_huge_cloud_are_looked_for_in_a_part_of_it(monkeypatch):
    monkeypatch.setattr(points, "_DISTANCES", 4 * 50)
    looked_at = []
    search = points._farthest
    monkeypatch.setattr(
        points, "_farthest", lambda places, count: looked_at.append(len(places)) or search(places, count)
    )
    cloud = np.random.default_rng(2).normal(size=(1000, 3))
    for count, looked in ((4, 50), (100, 100)):  # as many as are kept at least
        spec = PointsSpec(kind="points", points=count, sampling="farthest", scale="none")
        found = preprocess.tensor(spec, cloud)
        assert looked_at.pop() == looked and len({tuple(point) for point in found[:3].T.tolist()}) == count


@pytest.mark.parametrize("sampling", ["random", "farthest"])
def test_of_a_large_cloud_the_same_points_are_kept_each_time(sampling):
    spec = PointsSpec(kind="points", points=8, sampling=sampling, scale="none")
    found = preprocess.tensor(spec, CLOUD)
    assert found[-1].all() and np.array_equal(found, preprocess.tensor(spec, CLOUD.copy()))
    rows = {tuple(row) for row in CLOUD[:, :3].tolist()}
    assert len({tuple(point) for point in found[:3].T.tolist()} & rows) == 8


def test_the_farthest_points_lie_farther_apart_than_random_ones():
    cloud = np.concatenate([np.random.default_rng(1).normal(0, 0.01, (500, 3)), 5 * np.eye(3)])
    spread = {}
    for sampling in ("random", "farthest"):
        spec = PointsSpec(kind="points", points=6, sampling=sampling, scale="none")
        spread[sampling] = np.linalg.norm(preprocess.tensor(spec, cloud)[:3], axis=0).max()
    assert spread["farthest"] == pytest.approx(5) and spread["random"] < 1


def test_statistics_are_those_of_the_points_and_padding_stays_zero():
    spec = PointsSpec(kind="points", points=32, extras=("intensity",), scale="none")
    fitted = preprocess.fit_statistics(
        spec, [preprocess.raw_features(spec, CLOUD), preprocess.raw_features(spec, CLOUD[:5])]
    )
    both = np.concatenate([CLOUD, CLOUD[:5]])
    assert fitted.mean == pytest.approx(both.mean(axis=0)) and fitted.std == pytest.approx(both.std(axis=0))
    batch = preprocess.normalise(fitted, np.stack([preprocess.raw_features(spec, CLOUD[:5])] * 2))
    assert not batch[:, :, 5:].any() and batch[:, -1, :5].all()
    sphere = preprocess.fit_statistics(SPEC, [preprocess.raw_features(SPEC, CLOUD)])
    assert (sphere.mean[:3], sphere.std[:3]) == ((0, 0, 0), (1, 1, 1)) and sphere.std[3] != 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (CLOUD[:0], "no point"),
        (b"", "no point"),
        (np.where(CLOUD > 2, np.nan, CLOUD), "NaN or infinite"),
        (b"abc", "no whole number of points of 4"),
        (ply("ascii", ASCII[:90]), "cut off"),
        (ply("binary_little_endian", CLOUD.tobytes()[:-3]), "19 of 20 points"),
        (ply("rot13", b""), "rot13"),
        (b"ply\nformat ascii 1.0\n", "no end"),
        (b"ply\n" + b"c" * 100_000, "header"),
        (ply("ascii", ASCII).replace(b"float intensity", b"float brightness"), "no 'intensity'"),
        (npy(CLOUD[:, :2]), "a cloud is"),
        (npy(np.zeros((4, 100), np.float32)), "transposed"),
        (npy(np.array(["a"])), "must be numbers"),
        (b"\x93NUMPY\x01\x00", "not a cloud"),
    ],
)
def test_what_is_no_cloud_is_said(value, said):
    with pytest.raises(MmedgeError, match=said) as raised:
        preprocess.tensor(SPEC, value)
    assert len(str(raised.value).splitlines()) <= 3


def test_more_points_than_any_are_refused_before_they_are_read(monkeypatch):
    many = f"{points.MOST_POINTS + 1}"
    with pytest.raises(MmedgeError, match="more than"):
        preprocess.tensor(SPEC, ply("binary_little_endian", b"", many))
    header = npy(np.zeros((10_000_000, 4), np.float32)[:0]).replace(b"(0, 4)", b"(999999999, 4)", 1)
    with pytest.raises(MmedgeError, match="more than|not a cloud"):
        preprocess.tensor(SPEC, header)
    monkeypatch.setattr(points, "MOST_POINTS", 19)
    with pytest.raises(MmedgeError, match="20 points"):
        preprocess.tensor(SPEC, CLOUD.tobytes())


@pytest.mark.parametrize("kind", ["npy", "ply"])
def test_a_header_that_says_more_than_memory_holds_is_told(kind):
    """Each count is one that may be; what they come to is not."""
    if kind == "npy":
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f8", "fortran_order": False, "shape": (19_999_999,) * 2}
        )
        value = stream.getvalue()
    else:
        many = b"".join(b"property double p%d\n" % number for number in range(3000))
        value = ply("binary_little_endian", b"", 19_999_999).replace(b"element face", many + b"element face")
    with pytest.raises(MmedgeError, match="larger than memory|not a cloud"):
        preprocess.tensor(SPEC, value)


def test_pickles_are_not_loaded():
    with pytest.raises(MmedgeError, match="not unpickled"):
        preprocess.tensor(SPEC, npy(np.array([{}], dtype=object)))
