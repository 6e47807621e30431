"""Small inputs that would fill the memory or take for ever are told in a sentence; formats that are not listed are not opened."""

import io
import resource
import struct
import time

import numpy as np
import pytest
import soundfile
from PIL import Image
from pydantic import ValidationError

from mmedge import preprocess
from mmedge.errors import MmedgeError
from mmedge.preprocess import text
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, SensorSpec, TextSpec

PICTURE = ImageSpec(kind="image", height=4, width=6, channels=3)
SOUND = AudioSpec(kind="audio", sample_rate=16000, mels=16, frames=24, hop_ms=16, window_ms=32)
NOISE = np.random.default_rng(0).standard_normal(4000).astype(np.float32) / 8


def refused(spec, value, said):
    """The sentence, within a second of work and 50 MB."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MmedgeError, match=said) as raised:
        preprocess.tensor(spec, value)
    assert time.process_time() - start < 1 and len(str(raised.value).splitlines()) <= 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_a_picture_of_a_few_bytes_and_very_many_pixels_is_refused_before_it_is_decoded(form):
    stream = io.BytesIO()
    if form == "WEBP":  # whose own limit is 16,383 a side: the header of such a picture, without its pixels
        size = struct.pack("<I", 16382)[:3]
        frame = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size + size
        stream.write(b"RIFF" + struct.pack("<I", 4 + len(frame)) + b"WEBP" + frame)
    else:
        Image.new("P", (8000, 8000)).save(stream, form)
    assert len(stream.getvalue()) < 400_000
    refused(PICTURE, stream.getvalue(), "pixels, more than|too large")


@pytest.mark.parametrize("form", ["EPS", "ICO", "PCX", "TGA", "JPEG2000", "PDF"])
def test_formats_of_pictures_that_are_not_listed_are_not_opened(form, tmp_path, monkeypatch):
    """Pillow starts Ghostscript for an EPS file, whatever its name says."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    picture = tmp_path / "x.png"
    Image.new("RGB", (16, 16)).save(picture, format=form)
    refused(PICTURE, picture, "not an image that can be read(.|\n)*PNG, JPEG, WebP")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_formats_of_pictures_that_are_listed_are_opened(form):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (255, 0, 0)).save(stream, format=form)
    assert preprocess.tensor(PICTURE, stream.getvalue()).mean(axis=(1, 2)) == pytest.approx([1, 0, 0], abs=0.02)


def sound(form, samples=NOISE, rate=16000, subtype=None):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["AU", "W64", "RF64", "CAF", "SVX", "VOC", "NIST"])
def test_formats_of_sounds_that_are_not_listed_are_not_opened(form):
    """libsndfile reads them, truncated, without a word."""
    refused(SOUND, sound(form, subtype="PCM_16"), "not a sound that can be read(.|\n)*WAV, FLAC, OGG, MP3 or AIFF")


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats_of_sounds_that_are_listed_are_opened_and_told_when_they_are_truncated(form):
    whole = sound(form, np.tile(NOISE, 8))
    assert np.isfinite(preprocess.tensor(SOUND, whole)).all()
    if form != "MP3":  # which promises nothing: a player goes on with what there is
        with pytest.raises(MmedgeError, match="truncated|that can be read"):
            preprocess.tensor(SOUND, whole[: len(whole) // 2])


def test_a_sound_that_says_a_hundred_hertz_is_refused_before_it_is_resampled():
    refused(SOUND, sound("WAV", np.zeros(500_000, np.float32), rate=100, subtype="PCM_U8"), "samples, more than")
    refused(SOUND, (np.zeros(500_000, np.float32), 100), "samples, more than")


def test_a_sound_that_promises_hours_is_refused_before_it_is_decoded():
    silence = sound("FLAC", np.zeros(61_000_000, np.int16), rate=48000)
    assert len(silence) < 2_000_000
    refused(SOUND, silence, "samples, more than")


def test_channels_are_mixed_a_block_at_a_time_to_the_same_numbers():
    many = np.random.default_rng(1).standard_normal((600_000, 3)).astype(np.float32) / 8
    spec = SOUND.model_copy(update={"frames": 2000})
    one = preprocess.tensor(spec, (many.mean(axis=1), 16000))
    np.testing.assert_array_equal(preprocess.tensor(spec, sound("WAV", many, subtype="FLOAT")), one)
    second = preprocess.tensor(spec.model_copy(update={"channel": 1}), sound("WAV", many, subtype="FLOAT"))
    np.testing.assert_array_equal(second, preprocess.tensor(spec, (many[:, 1], 16000)))


def test_a_long_text_costs_no_more_than_what_is_looked_at_and_has_the_same_tokens():
    words = "the quick brown fox jumps over the lazy dog "
    spec = text.fit(TextSpec(kind="text", length=32, vocabulary=300), [words * 4] * 4)
    start = time.process_time()
    cut = preprocess.tensor(spec, words * 250_000)  # 11 MB
    many = preprocess.tensor(spec, "\ufdfa" * 3_000_000)  # each becomes 18 characters by NFKC
    assert time.process_time() - start < 5 and len(many) == 32
    np.testing.assert_array_equal(cut, preprocess.tensor(spec, words * 100))


@pytest.mark.parametrize(
    "wrong",
    [
        {"hop_ms": 1e9},
        {"hop_ms": 1e300},
        {"window_ms": 1e6},
        {"hop_ms": float("nan")},
        {"frames": 10_000, "window_ms": 9e3},
    ],
)
def test_sounds_that_nobody_can_compute_are_refused_by_the_spec(wrong):
    with pytest.raises(ValidationError):
        AudioSpec(**{**SOUND.model_dump(), **wrong})


def test_tensors_that_fill_the_memory_or_hold_nothing_are_refused_by_the_spec():
    for wrong in (
        lambda: SensorSpec(kind="sensor", channels=4096, length=1_000_000),
        lambda: ArraySpec(kind="array", shape=(10**6, 10**6)),
        lambda: ArraySpec(kind="array", shape=(3, 0)),
    ):
        with pytest.raises(ValidationError, match="is empty, or larger than"):
            wrong()


@pytest.mark.parametrize("tokenizer", ["bpe", "wordpiece", "unigram"])
def test_a_tokenizer_learns_from_no_more_of_a_text_than_is_ever_looked_at(tokenizer):
    spec = TextSpec(kind="text", length=8, vocabulary=300, tokenizer=tokenizer)
    texts = ["red stone in a cold river", "a warm blue stone", "x" + " red river" * 7000]
    learned = preprocess.fit_vocabulary(spec, [*texts[:2], texts[2] + " zzqqzzqq" * 1_000_000])
    assert learned == preprocess.fit_vocabulary(spec, texts) and "zz" not in learned.fitted
