"""Log-mel energies and MFCC are Kaldi's, whose own package the tests compare with."""

import kaldi_native_fbank as kaldi
import numpy as np
import pytest

from mmedge.errors import MmedgeError
from mmedge.runtime.preprocess import mel
from mmedge.spec import AudioSpec

RNG = np.random.default_rng(0)


def of_kaldi(spec, waveform):
    options = kaldi.FbankOptions() if spec.features == "logmel" else kaldi.MfccOptions()
    frame = options.frame_opts
    frame.samp_freq, frame.frame_length_ms, frame.frame_shift_ms = spec.sample_rate, spec.window_ms, spec.hop_ms
    frame.dither, frame.snip_edges = 0, False
    options.mel_opts.num_bins = spec.mels
    if spec.features == "mfcc":
        options.num_ceps, options.use_energy = spec.coefficients, False
    extractor = (kaldi.OnlineFbank if spec.features == "logmel" else kaldi.OnlineMfcc)(options)
    extractor.accept_waveform(spec.sample_rate, (waveform * 32768).tolist())
    extractor.input_finished()
    count = min(spec.frames, extractor.num_frames_ready)
    return np.stack([extractor.get_frame(index) for index in range(count)], axis=1)


@pytest.mark.parametrize("features", ["logmel", "mfcc"])
@pytest.mark.parametrize(
    "rate, window_ms, hop_ms", [(8000, 32, 16), (16000, 25, 10), (22050, 25, 12.5), (44100, 30, 7)]
)
@pytest.mark.parametrize("frames", [4, 60])
def test_features_are_kaldis(features, rate, window_ms, hop_ms, frames):
    keys = {"sample_rate": rate, "window_ms": window_ms, "hop_ms": hop_ms, "frames": frames, "mels": 24}
    spec = AudioSpec(kind="audio", features=features, **keys)
    noise = (0.1 * RNG.standard_normal(spec.samples)).astype(np.float32)
    for waveform in (noise, np.zeros_like(noise), np.where(np.arange(len(noise)) < 30, noise, 0).astype(np.float32)):
        found, wanted = mel.features(spec, waveform), of_kaldi(spec, waveform)
        assert found.shape == (spec.bands, frames) and found.dtype == np.float32
        np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-3)


def test_the_same_sound_has_the_same_features_to_the_bit_whatever_was_heard_before():
    spec = AudioSpec(kind="audio", sample_rate=8000, mels=24)
    waveform = RNG.standard_normal(spec.samples).astype(np.float32)
    before = mel.features(spec, waveform)
    mel.features(spec, -3 * waveform[::-1])
    np.testing.assert_array_equal(mel.features(spec, waveform), before)


@pytest.mark.parametrize(
    "keys, what",
    [
        ({"mels": 64, "window_ms": 10}, "64 mel bands are too many"),
        ({"mels": 16, "hop_ms": 0.05}, "shorter than the samples"),
    ],
)
def test_options_that_no_sound_can_have_are_told(keys, what):
    spec = AudioSpec(kind="audio", sample_rate=8000, **keys)
    with pytest.raises(MmedgeError, match=what):
        mel.features(spec, np.zeros(spec.samples, np.float32))
