"""Samples on the disk: small, and read back bit for bit as the runtime's own preprocessing gives them."""

import pickle

import numpy as np
import pytest

from mmedge import preprocess
from mmedge.data.store import rows
from mmedge.data.store.forms import bytes_of, forms, packed, restored
from mmedge.data.store.rows import Rows, Shards
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, TabularSpec, TextSpec

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 8, 8, 3), np.uint8)
SPEC = ImageSpec(kind="image", height=8, width=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
WAVE = AudioSpec(kind="audio", features="waveform", length=64)


@pytest.fixture(params=["held in memory", "read", "read from several files", "read one by one"])
def pictures(request, tmp_path, monkeypatch):
    """Nine pictures as they are kept, of which the fourth is missing."""
    if request.param != "held in memory":
        monkeypatch.setattr(rows, "_HELD", 0)
    if request.param == "read from several files":
        monkeypatch.setattr(rows, "_SHARD", 4 * 192)
    if request.param == "read one by one":
        monkeypatch.setattr(rows, "_LARGE", 10)
    shards, there = Shards(tmp_path / "x", "uint8", 9, (3, 8, 8)), np.arange(9) != 3
    for (file, count), start in zip(shards.files, range(0, 9, shards.per_file)):
        np.save(file, (PIXELS.transpose(0, 3, 1, 2) * there[:, None, None, None])[start : start + count])
    return Rows(SPEC, shards, there)


def test_a_picture_takes_a_byte_a_number_and_is_read_as_the_runtime_reads_it(pictures):
    expected = np.stack([preprocess.tensor(SPEC, picture) for picture in PIXELS])
    expected[3] = 0
    assert pictures.shape == expected.shape and pictures.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(pictures), expected)
    some = np.array([8, 3, 3, 0])
    for key in (5, -1, slice(2, 7), some, np.arange(9) % 2 == 0, (slice(None), 1), (some, 0, slice(2)), slice(0, 0)):
        np.testing.assert_array_equal(pictures[key], expected[key])
    np.testing.assert_array_equal(pictures.taken(some)[[0, 3]], expected[[8, 0]])
    np.testing.assert_array_equal(pictures.taken(some).taken(np.array([3]))[:], expected[[0]])
    np.testing.assert_array_equal(np.stack(list(pictures)), expected)


def test_a_sample_that_lacks_the_modality_is_not_read(pictures, monkeypatch):
    """Of pictures of texts that have none, gigabytes of zeros would lie in memory."""
    asked = []
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, rows: asked.extend(rows) or read(self, rows))
    kept = pictures.taken(np.array([8, 3, 0])).kept(np.array([0, 1, 1, 2]))
    np.testing.assert_array_equal(kept[[1, 2]], 0)
    np.testing.assert_array_equal(kept[[0, 3]], PIXELS.transpose(0, 3, 1, 2)[[8, 0]])
    assert asked == [8, 0]


def test_another_process_is_told_where_the_samples_are_and_not_what(pictures):
    _ = pictures[0]
    sent = pickle.dumps(pictures)
    assert len(sent) < 2500
    np.testing.assert_array_equal(pickle.loads(sent)[:], pictures[:])


@pytest.mark.parametrize(
    ("spec", "features", "form"),
    [
        (SPEC, PIXELS[0].transpose(2, 0, 1).astype(np.float32) / 255, "uint8"),
        (WAVE, RNG.integers(-(1 << 15), 1 << 15, 64).astype(np.float32) / 32768, "int16"),
        (WAVE, RNG.normal(size=64).astype(np.float32), "float32"),
        (TextSpec(kind="text", tokens=200, length=4), np.array([0, 199, 3, 4]), "uint8"),
        (TextSpec(kind="text", tokens=60_000, length=4), np.array([0, 59_999, 3, 4]), "uint16"),
        (ArraySpec(kind="array", shape=(2,), ids=1 << 20), np.array([0, (1 << 20) - 1]), "int32"),
        (ArraySpec(kind="array", shape=(2,)), np.array([0.25, -0.0], np.float32), "float16"),
        (ArraySpec(kind="array", shape=(2,)), np.array([1e30, 0.1], np.float32), "float32"),
        (TabularSpec(kind="tabular", columns=("a", "b")), np.array([np.nan, 2], np.float32), "float16"),
    ],
)
def test_the_smallest_form_that_loses_nothing_is_found(spec, features, form):
    found = next(each for each in forms(spec) if packed(spec, each, features) is not None)
    kept = packed(spec, found, features)
    back = restored(spec, kept)
    assert kept.dtype.name == found == form
    assert back.dtype == features.dtype and back.tobytes() == np.ascontiguousarray(features).tobytes()
    assert kept.nbytes <= bytes_of(spec) or spec.shape != features.shape


def test_a_batch_of_a_table_with_holes_is_normalised_as_its_rows_are():
    spec = TabularSpec(kind="tabular", columns=("a", "b"), missing_indicator=True, mean=(1.0, 2.0), std=(3.0, 4.0))
    batch = np.array([[np.nan, 3, 1, 0], [5, np.nan, 0, 1]], np.float32)
    expected = np.stack([preprocess.normalise(spec, row) for row in batch])
    np.testing.assert_array_equal(preprocess.normalise(spec, batch), expected)
    np.testing.assert_array_equal(expected[0], np.array([0, 0.25, 1, 0], np.float32))
