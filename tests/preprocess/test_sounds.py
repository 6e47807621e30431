"""Raw samples, and the log-mel of Whisper, torchaudio and librosa beside the originals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mmedge import preprocess
from mmedge.errors import MmedgeError
from mmedge.models.encoders import encoder_of
from mmedge.recipe import Encoder, Model
from mmedge.spec import AudioSpec
from tests.fixtures.log_mels import SETTINGS, stored, wave


def sound(**keys):
    return AudioSpec(kind="audio", **keys)


@pytest.mark.parametrize("library", ["torchaudio", "librosa"])
def test_log_mel_is_that_of_the_library_within_a_thousandth_of_a_decibel(library):
    with np.load(stored(library)) as expected:
        for number, (rate, fft, window, hop, mels, low, high, frames) in enumerate(SETTINGS):
            keys = {"sample_rate": rate, "fft": fft, "mels": mels, "low_hz": low, "high_hz": high, "frames": frames}
            spec = sound(preset=library, window_ms=1000 * window / rate, hop_ms=1000 * hop / rate, **keys)
            found = preprocess.raw_features(spec, wave(rate, frames * hop))[0]
            wanted = expected[str(number)][:, :frames]
            # torchaudio transforms in float32, which knows nothing 80 dB below the loudest; librosa cuts there.
            heard = wanted > wanted.max() - 80
            assert found.shape == wanted.shape and heard.mean() > 0.2
            np.testing.assert_allclose(found[heard], wanted[heard], atol=1e-3)
            np.testing.assert_array_equal(found[~heard] < wanted.max() - 79.9, True)


@pytest.mark.parametrize("mels, seconds", [(80, 0.5), (128, 33)])
def test_log_mel_is_whispers_within_a_ten_thousandth(mels, seconds):
    from transformers import WhisperFeatureExtractor

    samples = wave(16000, int(seconds * 16000))
    wanted = WhisperFeatureExtractor(feature_size=mels)(samples, sampling_rate=16000, return_tensors="np")
    found = preprocess.tensor(sound(preset="whisper", mels=mels, frames=3000), samples)
    np.testing.assert_allclose(found[0], wanted["input_features"][0], atol=1e-4)


def test_kaldis_bands_begin_and_end_where_they_are_told():
    tone = (0.5 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)).astype(np.float32)
    whole, upper = (
        preprocess.raw_features(sound(sample_rate=8000, mels=20, **keys), tone)[0]
        for keys in ({}, {"low_hz": 1000, "high_hz": 3000})
    )
    assert whole[:, 50].max() > 20 and upper[:, 50].max() < whole[:, 50].max() - 5


def test_a_waveform_is_the_samples_cut_or_padded_with_nothing():
    samples = wave(16000, 500)
    long, short = (preprocess.tensor(sound(features="waveform", length=n), samples) for n in (400, 600))
    np.testing.assert_array_equal(long, samples[:400])
    np.testing.assert_array_equal(short, np.pad(samples, (0, 100)))
    last = sound(features="waveform", length=400, take="end", mean=[0.5], std=[2.0])
    np.testing.assert_allclose(preprocess.tensor(last, samples), (samples[-400:] - 0.5) / 2, atol=1e-6)
    assert sound(features="waveform", frames=50).shape == (8000,)


def test_a_standardized_waveform_is_wav2vec2s():
    from transformers import Wav2Vec2FeatureExtractor

    samples = 3 * wave(16000, 9000) + 0.2
    original = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    keys = {"sampling_rate": 16000, "return_tensors": "np", "padding": "max_length", "truncation": True}
    for length in (8000, 10000):
        found = preprocess.tensor(sound(features="waveform", standardize=True, length=length), samples)
        np.testing.assert_allclose(found, original(samples, max_length=length, **keys)["input_values"][0], atol=1e-6)


def test_raw_samples_and_whispers_features_stay_as_they_are_and_others_are_fitted():
    features = [np.full((1, 64, 100), value, np.float32) for value in (1, 3)]
    assert preprocess.fit_statistics(sound(preset="librosa"), features).mean == (2.0,) * 64
    assert preprocess.fit_statistics(sound(preset="whisper"), features).mean is None
    assert preprocess.fit_statistics(sound(features="waveform"), [np.ones(16000, np.float32)]).mean is None


def test_one_mean_and_one_standard_deviation_are_those_of_all_bands():
    samples, keys = wave(16000, 16000), {"preset": "torchaudio", "mels": 24}
    one, each = (sound(**keys, mean=[-20.0] * n, std=[30.0] * n) for n in (1, 24))
    np.testing.assert_array_equal(preprocess.tensor(one, samples), preprocess.tensor(each, samples))
    with pytest.raises(ValidationError, match="must have 24 values each, or one"):
        sound(**keys, mean=[0.0] * 2, std=[1.0] * 2)


@pytest.mark.parametrize(
    "keys, what",
    [
        ({"features": "waveform", "mels": 32}, "'mels' has no use with features: waveform"),
        ({"features": "waveform", "preset": "whisper"}, "'preset' has no use with features: waveform"),
        ({"features": "mfcc", "preset": "librosa"}, "'preset' has no use with features: mfcc"),
        ({"fft": 1024}, "'fft' has no use with preset: kaldi"),
        ({"length": 1000}, "'length' has no use with preset: kaldi"),
        ({"preset": "whisper", "standardize": True}, "'standardize' has no use with preset: whisper"),
        ({"preset": "librosa", "fft": 256}, r"'fft' \(256\) must not be below the 400 samples"),
        ({"low_hz": 4000, "high_hz": 300}, "mel bands from 4000 to 300 Hz"),
        ({"preset": "librosa", "high_hz": 9000}, "at most half of 'sample_rate', 8000"),
        ({"preset": "librosa", "fft": 65536, "frames": 10_000}, "take too long to compute"),
        ({"preset": "mine"}, "kaldi"),
    ],
)
def test_keys_that_say_nothing_or_nothing_possible_are_refused(keys, what):
    with pytest.raises(ValidationError, match=what):
        sound(**keys)


def test_a_sound_that_uses_nothing_new_is_written_as_version_0_1_reads_it():
    written = sound(mels=32).model_dump(mode="json")
    assert not written.keys() & {"preset", "fft", "low_hz", "high_hz", "length", "standardize"}
    assert sound(preset="whisper", mels=80).model_dump(mode="json")["preset"] == "whisper"
    for spec in (sound(mels=32), sound(preset="librosa", low_hz=20), sound(features="waveform", length=99)):
        assert AudioSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("preset", ["whisper", "torchaudio", "librosa"])
def test_a_sound_of_one_sample_or_of_any_loudness_is_finite(preset):
    for samples in (np.ones(1), np.zeros(100), np.full(4000, 1e30), np.full(4000, 1e-30)):
        assert np.isfinite(preprocess.tensor(sound(preset=preset), samples.astype(np.float32))).all()
    with pytest.raises(MmedgeError, match="holds NaN or infinite samples"):
        preprocess.tensor(sound(preset=preset), np.full(100, np.inf, np.float32))


def test_the_built_in_encoder_of_a_waveform_tells_tones_apart():
    torch.manual_seed(0)
    spec, model = sound(features="waveform", sample_rate=8000, length=1600), Model(embedding=2, dropout=0.0)
    encoder = encoder_of("it", spec, Encoder(widths=(8, 8)), model)
    random, time = np.random.default_rng(0), np.arange(1600) / 8000
    high = torch.arange(64) % 2
    tones = [np.sin(2 * np.pi * (hz * time + random.random())) for hz in 400 + 900 * high.numpy()]
    x = torch.from_numpy(np.stack(tones).astype(np.float32))
    head = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(encoder(x)), high).backward()
        optimizer.step()
    assert (head(encoder.eval()(x)).argmax(1) == high).float().mean() > 0.95
