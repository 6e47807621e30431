"""Preprocessing: known values, and one sentence for everything that cannot be read."""

import io
import struct

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge import preprocess
from mmedge.errors import MmedgeError
from mmedge.preprocess.audio import missing_bytes
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, TabularSpec

GRAY = ImageSpec(kind="image", height=4, width=6, channels=1)
COLOUR = ImageSpec(kind="image", height=4, width=6, channels=3)
SOUND = AudioSpec(kind="audio", sample_rate=8000, mels=16, frames=24, hop_ms=16, window_ms=32)
NUMBERS = TabularSpec(kind="tabular", columns=("a", "b"))
ARRAY = ArraySpec(kind="array", shape=(2, 3))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 6), np.uint8)
WAVE = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(3072) / 8000)).astype(np.float32)


def png(pixels, format="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def wav(samples, rate=8000, subtype="FLOAT"):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype=subtype)
    return stream.getvalue()


def test_an_image_of_the_specs_size_is_its_pixels_over_255():
    x = preprocess.tensor(GRAY, PIXELS)
    assert x.dtype == np.float32 and x.shape == (1, 4, 6)
    np.testing.assert_allclose(x[0], PIXELS / 255, atol=1e-6)


def test_normalisation_is_per_channel_with_the_specs_statistics():
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    spec = COLOUR.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)})
    expected = (pixels.transpose(2, 0, 1) / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 1, 2])[
        :, None, None
    ]
    np.testing.assert_allclose(preprocess.tensor(spec, pixels), expected, atol=1e-6)


def test_a_file_its_bytes_its_path_as_text_and_its_array_are_the_same_image(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png(PIXELS))
    reference = preprocess.tensor(GRAY, PIXELS)
    for value in (file, str(file), file.read_bytes(), PIXELS[..., None]):
        np.testing.assert_array_equal(preprocess.tensor(GRAY, value), reference)


@pytest.mark.parametrize("shape", [(9, 5), (9, 5, 1), (9, 5, 3), (9, 5, 4)])
def test_any_pixel_layout_becomes_the_specs_channels(shape):
    pixels = RNG.integers(0, 256, shape, np.uint8)
    assert preprocess.tensor(GRAY, pixels).shape == (1, 4, 6)
    assert preprocess.tensor(COLOUR, pixels).shape == (3, 4, 6)


def test_sixteen_bit_gray_is_scaled_and_not_clipped():
    deep = PIXELS.astype(np.uint16) * 257
    np.testing.assert_allclose(preprocess.tensor(GRAY, png(deep))[0], PIXELS / 255, atol=1 / 255)


def test_an_images_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG", exif=exif)
    np.testing.assert_allclose(preprocess.tensor(GRAY, stream.getvalue())[0], PIXELS[::-1, ::-1] / 255, atol=1e-6)


def test_an_uncompressed_tiff_stands_upright_from_its_path_as_from_its_bytes(tmp_path):
    """Pillow maps such a file into memory with the sides that it has after turning, and turns it again."""
    spec = ImageSpec(kind="image", height=8, width=6, channels=1)
    upright = np.arange(48, dtype=np.uint8).reshape(8, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "turned.tif", exif=exif)
    for value in (tmp_path / "turned.tif", (tmp_path / "turned.tif").read_bytes()):
        np.testing.assert_array_equal(preprocess.tensor(spec, value)[0] * 255, upright)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_truncated_image_is_an_error_with_its_path(tmp_path, format):
    file = tmp_path / "cut.img"
    whole = png(RNG.integers(0, 256, (64, 64), np.uint8), format)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MmedgeError, match=r"cut\.img"):
        preprocess.tensor(GRAY, file)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", wav(WAVE)])
def test_what_is_no_image_is_an_error(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(MmedgeError, match=r"image.*\n.*x\.png"):
        preprocess.tensor(GRAY, tmp_path / "x.png", "image")


@pytest.mark.parametrize("content", [b"", b"not a sound", wav(WAVE)[:20], png(PIXELS)])
def test_what_is_no_sound_is_an_error(tmp_path, content):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(MmedgeError, match=r"sound.*\n.*x\.wav"):
        preprocess.tensor(SOUND, tmp_path / "x.wav", "audio")


def test_a_truncated_sound_is_an_error_and_not_an_answer(tmp_path):
    whole = wav(WAVE)
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    for value in (tmp_path / "cut.wav", str(tmp_path / "cut.wav"), whole[: len(whole) // 2]):
        with pytest.raises(MmedgeError, match="audio is truncated"):
            preprocess.tensor(SOUND, value, "audio")
    np.testing.assert_array_equal(preprocess.tensor(SOUND, whole), preprocess.tensor(SOUND, WAVE))


@pytest.mark.parametrize("spec", [GRAY, SOUND, ARRAY])
def test_a_missing_file_and_a_folder_are_errors(spec, tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(MmedgeError, match="does not exist"):
            preprocess.tensor(spec, path)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((4, 6), np.float32),
        np.zeros((4, 6), np.int64),
        np.zeros((0, 6), np.uint8),
        np.zeros((4, 6, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 6, 3), np.uint8),
        object(),
        3,
    ],
)
def test_a_wrong_pixel_array_is_an_error_that_says_what_is_taken(value):
    with pytest.raises(MmedgeError, match="image must be"):
        preprocess.tensor(GRAY, value, "image")


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 800), np.float32),
        np.zeros(800, np.int16),
        np.zeros(0, np.float32),
        (WAVE, 0),
        (WAVE, -8000),
        (WAVE, "fast"),
        (WAVE, 1e30),
        (WAVE, float("inf")),
        (WAVE, float("nan")),
        (WAVE, 8000, 1),
        np.full(800, np.nan, np.float32),
        np.full(800, np.inf, np.float32),
        object(),
    ],
)
def test_a_wrong_waveform_is_an_error(value):
    with pytest.raises(MmedgeError, match="audio"):
        preprocess.tensor(SOUND, value, "audio")


def test_a_file_of_nan_samples_is_an_error(tmp_path):
    (tmp_path / "nan.wav").write_bytes(wav(np.full(800, np.nan, np.float32)))
    with pytest.raises(MmedgeError, match=r"NaN.*\n.*nan\.wav"):
        preprocess.tensor(SOUND, tmp_path / "nan.wav", "audio")


def test_a_tone_shows_in_the_mel_band_of_its_frequency_and_silence_in_none():
    x = preprocess.tensor(SOUND, WAVE)
    assert x.shape == (1, 16, 24) and x.dtype == np.float32
    mel = 1127 * np.log(1 + np.array([20, 1000, 4000]) / 700)
    expected = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 17 - 1
    assert abs(int(x[0].mean(axis=1).argmax()) - expected) <= 1
    silence = preprocess.tensor(SOUND, np.zeros(3072, np.float32))
    assert np.ptp(silence) == 0 and silence.max() < x.min()


def test_short_sounds_are_padded_and_long_ones_cut():
    short, long = preprocess.tensor(SOUND, WAVE[:1500]), preprocess.tensor(SOUND, np.tile(WAVE, 9))
    assert short.shape == long.shape == (1, 16, 24)
    np.testing.assert_array_equal(preprocess.tensor(SOUND, np.append(WAVE[:1500], np.zeros(1572, np.float32))), short)


def test_sounds_are_mixed_to_mono_and_resampled():
    stereo = wav(np.stack([WAVE, WAVE], axis=1))
    np.testing.assert_allclose(preprocess.tensor(SOUND, stereo), preprocess.tensor(SOUND, WAVE), atol=1e-4)
    fine = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(6144) / 16000)).astype(np.float32)
    near = preprocess.tensor(SOUND, (fine, 16000))[0, :, 2:-2]
    loudest = near.mean(axis=1).argmax()
    assert loudest == preprocess.tensor(SOUND, WAVE)[0].mean(axis=1).argmax()
    np.testing.assert_allclose(near[loudest], preprocess.tensor(SOUND, WAVE)[0, loudest, 2:-2], atol=0.05)


def test_numbers_are_taken_in_the_specs_order_and_by_name():
    np.testing.assert_array_equal(preprocess.tensor(NUMBERS, [1, 2]), [1, 2])
    np.testing.assert_array_equal(preprocess.tensor(NUMBERS, {"b": 2, "a": 1}), [1, 2])
    np.testing.assert_array_equal(preprocess.tensor(NUMBERS, ["1.5", "2"]), [1.5, 2])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "shape"),
        ([1, 2, 3], "shape"),
        (["x", 1], "must be numbers"),
        ({"a": 1}, "no value for b"),
        ({"a": 1, "b": 2, "bb": 3}, "did you mean 'b'"),
        ([float("nan"), 1], "NaN"),
        ([10**400, 1], "must be numbers"),
    ],
)
def test_wrong_numbers_are_told(value, said):
    with pytest.raises(MmedgeError, match=said):
        preprocess.tensor(NUMBERS, value, "vitals")


def test_an_array_comes_from_a_file_or_as_it_is_and_is_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(preprocess.tensor(ARRAY, tmp_path / "a.npy"), np.arange(6).reshape(2, 3))
    np.save(tmp_path / "p.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(MmedgeError, match=r"cannot be read|not an array"):
        preprocess.tensor(ARRAY, tmp_path / "p.npy")
    (tmp_path / "t.npy").write_text("no array")
    with pytest.raises(MmedgeError, match=r"no \.npy file"):  # NumPy itself advises to unpickle it
        preprocess.tensor(ARRAY, tmp_path / "t.npy")
    with pytest.raises(MmedgeError, match=r"shape \[3, 2\], the model takes \[2, 3\]"):
        preprocess.tensor(ARRAY, np.zeros((3, 2)))


def test_fitted_statistics_give_zero_mean_and_unit_deviation_per_axis_of_the_kind():
    for spec, block in (
        (COLOUR, RNG.normal(3, 2, (50, 3, 4, 6))),
        (SOUND, RNG.normal(-5, 3, (50, 1, 16, 24))),
        (NUMBERS, RNG.normal(7, 4, (50, 2))),
        (ARRAY, RNG.normal(1, 9, (50, 2, 3))),
    ):
        fitted = preprocess.fit_statistics(spec, block)
        assert len(fitted.mean) == len(fitted.std) == spec.statistics
        out = np.stack([preprocess.normalise(fitted, x) for x in block])
        axes = {GRAY: (0, 2, 3), COLOUR: (0, 2, 3), SOUND: (0, 1, 3), NUMBERS: (0,), ARRAY: (0, 1, 2)}[spec]
        np.testing.assert_allclose(out.mean(axis=axes), 0, atol=1e-5)
        np.testing.assert_allclose(out.std(axis=axes), 1, atol=1e-5)


def test_a_constant_column_stays_finite():
    fitted = preprocess.fit_statistics(NUMBERS, np.array([[1.0, 5.0], [2.0, 5.0]]))
    assert np.isfinite(preprocess.tensor(fitted, [1, 5])).all() and preprocess.tensor(fitted, [1, 5])[1] == 0


@pytest.mark.parametrize("unit", [1e-13, 1e-6, 1.0, 1e9])
def test_values_of_any_unit_have_deviation_one_and_constant_ones_are_zero(unit):
    rows = np.array([[x * unit, 5 * unit] for x in (-1.0, 0.5, 2.0, 3.5)])
    arrays = [np.full((2, 3), x * unit, np.float32) for x in (-1.0, 0.5, 2.0, 3.5)]
    for spec, values in ((NUMBERS, rows), (ARRAY, arrays)):
        fitted = preprocess.fit_statistics(spec, values)
        seen = np.array([preprocess.tensor(fitted, value) for value in values]).reshape(4, -1)
        assert seen[:, 0].std() == pytest.approx(1, rel=1e-3)
    assert (
        np.abs(np.array([preprocess.tensor(preprocess.fit_statistics(NUMBERS, rows), row)[1] for row in rows])).max()
        < 1e-3
    )


def test_statistics_of_the_recipe_are_not_fitted_again():
    given = NUMBERS.model_copy(update={"mean": (1.0, 1.0), "std": (2.0, 2.0)})
    assert preprocess.fit_statistics(given, np.zeros((5, 2))) is given


def test_a_picture_is_resized_first_in_width_then_in_height_whatever_pillow_would_choose():
    """Pillow 13 resizes a tall picture in height first, older ones never: the tensor must not depend on the version."""
    spec = ImageSpec(kind="image", height=12, width=10, channels=1)
    tall = np.random.default_rng(0).integers(0, 256, (61, 33), np.uint8)
    bilinear = Image.Resampling.BILINEAR
    expected = np.asarray(Image.fromarray(tall).resize((10, 61), bilinear).resize((10, 12), bilinear), np.float32)
    np.testing.assert_array_equal(preprocess.tensor(spec, tall)[0], expected / 255)


def test_a_wav_header_that_a_stream_left_open_is_not_truncated(tmp_path):
    head = b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    (tmp_path / "open.wav").write_bytes(head + b"data" + struct.pack("<I", 0xFFFFFFFF) + b"\0" * 100)
    (tmp_path / "cut.wav").write_bytes(head + b"data" + struct.pack("<I", 500) + b"\0" * 100)
    with (tmp_path / "open.wav").open("rb") as opened, (tmp_path / "cut.wav").open("rb") as cut:
        assert missing_bytes(opened) == 0 and missing_bytes(cut) == 400


@pytest.mark.parametrize("promised", [0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFF000, 16044, 16036])
def test_a_length_that_a_writer_into_a_pipe_made_up_is_no_promise(tmp_path, promised):
    samples = (9000 * np.sin(np.arange(8000) / 6)).astype("<i2").tobytes()
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data"
    (tmp_path / "a.wav").write_bytes(
        b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + head + struct.pack("<I", promised) + samples
    )
    (tmp_path / "b.wav").write_bytes(b"RIFF" + struct.pack("<I", 16036) + head + struct.pack("<I", 16000) + samples)
    spec = AudioSpec(kind="audio", frames=50)
    taken, expected = (preprocess.raw_features(spec, str(tmp_path / name), "audio") for name in ("a.wav", "b.wav"))
    np.testing.assert_array_equal(taken, expected)


def test_a_length_of_nothing_before_samples_is_told_as_such(tmp_path):
    head = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    (tmp_path / "a.wav").write_bytes(head + b"data\0\0\0\0" + b"\1\2" * 8000)
    with pytest.raises(MmedgeError, match="says that it has no samples, and 16000 bytes follow"):
        preprocess.raw_features(AudioSpec(kind="audio", frames=50), str(tmp_path / "a.wav"), "audio")
