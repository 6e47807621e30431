import numpy as np
import pytest

from mmedge.errors import MmedgeError
from mmedge.preprocess import mel
from mmedge.spec import AudioSpec

RNG = np.random.default_rng(0)


def test_the_same_sound_has_the_same_features_to_the_bit_whatever_was_heard_before():
    spec = AudioSpec(kind="audio", sample_rate=8000, mels=24)
    waveform = RNG.standard_normal(spec.samples).astype(np.float32)
    before = mel.features(spec, waveform)
    mel.features(spec, -3 * waveform[::-1])
    np.testing.assert_array_equal(mel.features(spec, waveform), before)


@pytest.mark.parametrize("keys", [{}, {"features": "mfcc"}, {"hop_ms": 50}, {"window_ms": 80, "hop_ms": 12.3}])
@pytest.mark.parametrize("length", [1, 79, 2000, 7999])
def test_a_short_sound_has_to_the_bit_the_features_of_itself_with_silence_behind_it(keys, length):
    spec = AudioSpec(kind="audio", sample_rate=8000, mels=24, **keys)
    padded = np.zeros(spec.samples, np.float32)
    padded[:length] = RNG.standard_normal(length)
    np.testing.assert_array_equal(mel.features(spec, padded[:length]), mel.features(spec, padded))


def test_a_sound_whose_energies_no_number_holds_is_an_error():
    spec = AudioSpec(kind="audio", sample_rate=8000, mels=24)
    with pytest.raises(MmedgeError, match="too loud.*1e\\+38"):
        mel.features(spec, np.full(4000, 1e38, np.float32))


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


def test_energies_are_those_of_sixteen_bit_integers_as_kaldi_reads_them():
    import kaldi_native_fbank as kaldi

    spec = AudioSpec(kind="audio", sample_rate=16000, mels=24)
    integers = RNG.integers(-20000, 20000, spec.samples)
    options = kaldi.FbankOptions()
    options.frame_opts.frame_length_ms, options.frame_opts.frame_shift_ms = spec.window_ms, spec.hop_ms
    options.frame_opts.dither, options.frame_opts.snip_edges = 0, False
    options.mel_opts.num_bins = 24
    options.mel_opts.low_freq, options.mel_opts.high_freq = spec.band_hz
    extractor = kaldi.OnlineFbank(options)
    extractor.accept_waveform(16000, integers.tolist())
    extractor.input_finished()
    found = mel.features(spec, (integers / 32768).astype(np.float32))
    # A scale of 32767 would lower each logarithm by 6e-5.
    np.testing.assert_allclose(found[:, 0], extractor.get_frame(0), atol=2e-5)
