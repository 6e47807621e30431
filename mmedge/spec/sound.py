"""What a sound is: whose features of it, and how much of it, become the tensor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mmedge.spec.base import ModalityBase

# Samples of a sound, at its own rate and at the model's: an hour at 16 kHz. Beyond it decoding fills the memory.
MOST_SAMPLES = 60_000_000
# Samples that the windows of a sound look at, all together: seconds of computing.
_MOST_LOOKED_AT = 100_000_000


class AudioSpec(ModalityBase):
    """A sound file or array -> float32 [1, mels or coefficients, frames], normalised per band; or its waveform [samples]."""

    kind: Literal["audio"] = Field(description="What the modality is.")
    sample_rate: int = Field(16000, ge=1000, le=192000, description="Hz that sounds are resampled to.")
    features: Literal["logmel", "mfcc", "waveform"] = Field(
        "logmel",
        description="Log-mel energies, coefficients of them, or the samples themselves, -1 to 1, float32 [samples].",
    )
    preset: Literal["kaldi", "whisper", "torchaudio", "librosa"] = Field(
        "kaldi",
        description="Whose log-mel, for teachers that were trained on it. kaldi: natural logarithm, HTK scale, Povey window;"
        " whisper: WhisperFeatureExtractor's; torchaudio: AmplitudeToDB of MelSpectrogram; librosa: power_to_db of"
        " melspectrogram, at most 80 dB below the loudest. The last three have centred frames, of which the first 'frames'"
        " are kept.",
    )
    fft: int | None = Field(
        None,
        ge=2,
        le=1 << 16,
        description="Points of the Fourier transform (n_fft), the window in their middle; as many as the window's samples"
        " where null. Kaldi's are fixed.",
    )
    low_hz: float | None = Field(
        None, ge=0, description="Where the lowest mel band begins, in Hz; 0 where null, and 20 of kaldi."
    )
    high_hz: float | None = Field(
        None, gt=0, description="Where the highest mel band ends, in Hz; half the sample rate where null."
    )
    length: int | None = Field(
        None,
        ge=2,
        le=MOST_SAMPLES,
        description="Samples of a waveform's tensor, at sample_rate; longer sounds are cut, shorter ones padded with 0."
        " frames x hop_ms where null.",
    )
    standardize: bool = Field(
        False,
        description="Whether each waveform is brought to mean 0 and variance 1 by itself, as Wav2Vec2FeatureExtractor does.",
    )
    mels: int = Field(64, ge=4, le=256, description="Mel bands of a frame.")
    coefficients: int = Field(13, ge=2, le=64, description="Coefficients of mfcc that are kept.")
    frames: int = Field(
        100, ge=4, le=10000, description="Frames of the tensor; longer sounds are cut, shorter ones padded."
    )
    hop_ms: float = Field(10.0, gt=0, le=60_000, description="Milliseconds from one frame to the next.")
    window_ms: float = Field(25.0, gt=0, le=10_000, description="Milliseconds that a frame looks at.")
    channel: int | None = Field(
        None, ge=0, description="The channel that is heard, from 0; the mean of all where null."
    )
    take: Literal["start", "center", "end"] = Field("start", description="Which part of a longer sound is kept.")

    @model_serializer(mode="wrap")
    def _later_keys_where_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Without the keys that version 0.1 does not know where they say nothing: it reads such bundles, and hashes agree."""
        return {
            key: value
            for key, value in handler(self).items()
            if key not in _SINCE_0_2 or value != type(self).model_fields[key].default
        }

    @model_validator(mode="after")
    def _keys_of_the_features(self) -> AudioSpec:
        useless = _USELESS[self.features if self.features != "logmel" else self.preset]
        for key in useless:
            if getattr(self, key) != type(self).model_fields[key].default:
                whose = f"features: {self.features}" if self.features != "logmel" else f"preset: {self.preset}"
                raise ValueError(f"'{key}' has no use with {whose}")
        if self.features == "mfcc" and self.coefficients > self.mels:
            raise ValueError(f"'coefficients' ({self.coefficients}) cannot be more than 'mels' ({self.mels})")
        if self.fft is not None and self.fft < self.window:
            raise ValueError(f"'fft' ({self.fft}) must not be below the {self.window} samples of 'window_ms'")
        low, high = self.band_hz
        if not low < high <= self.sample_rate / 2:
            raise ValueError(
                f"mel bands from {low:g} to {high:g} Hz: 'low_hz' must be below 'high_hz', and that at most half of"
                f" 'sample_rate', {self.sample_rate / 2:g}"
            )
        return self

    @model_validator(mode="after")
    def _no_endless_sound(self) -> AudioSpec:
        if not self.frames * self.hop_ms * self.sample_rate / 1000 <= MOST_SAMPLES:
            raise ValueError(
                f"{self.frames} frames every {self.hop_ms:g} ms at {self.sample_rate} Hz are {self.samples} samples, more"
                f" than {MOST_SAMPLES}: lower 'frames', 'hop_ms' or 'sample_rate'"
            )
        if self.frames * max(self.window, self.fft or 0) > _MOST_LOOKED_AT:
            raise ValueError(
                f"{self.frames} windows of {self.window_ms:g} ms at {self.sample_rate} Hz take too long to compute:"
                " lower 'frames', 'window_ms' or 'fft'"
            )
        return self

    @property
    def bands(self) -> int:
        """Rows of the tensor; 1 of a waveform."""
        return {"logmel": self.mels, "mfcc": self.coefficients, "waveform": 1}[self.features]

    @property
    def band_hz(self) -> tuple[float, float]:
        """Where the lowest mel band begins and the highest ends, in Hz."""
        low = self.low_hz if self.low_hz is not None else 20.0 if self.preset == "kaldi" else 0.0
        return low, self.high_hz if self.high_hz is not None else self.sample_rate / 2

    @property
    def window(self) -> int:
        """Samples that a frame looks at."""
        return round(self.window_ms * self.sample_rate / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.hop_ms * self.sample_rate / 1000))

    @property
    def step_ms(self) -> float:
        """Milliseconds from one place of the tensor's last axis to the next."""
        return 1000 / self.sample_rate if self.features == "waveform" else self.hop_ms

    @property
    def statistics(self) -> int:
        return self.bands

    @property
    def statistics_shape(self) -> tuple[int, ...]:
        return (1, self.bands, 1)

    @property
    def fitted_statistics(self) -> bool:
        return self.features != "waveform" and self.preset != "whisper"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.samples,) if self.features == "waveform" else (1, self.bands, self.frames)

    @property
    def samples(self) -> int:
        """Samples of a waveform, or of the sound that fills ``frames``; longer ones are cut, shorter ones padded."""
        if self.features == "waveform" and self.length is not None:
            return self.length
        if self.preset != "kaldi":
            return self.frames * self.hop
        return round(self.frames * self.hop_ms * self.sample_rate / 1000)


# Keys of a sound that version 0.1 did not know.
_SINCE_0_2 = ("preset", "fft", "low_hz", "high_hz", "length", "standardize")
# {features, or the preset of log-mel: keys that say nothing there}.
_OF_FRAMES = ("coefficients", "length", "standardize")
_USELESS = {
    "kaldi": (*_OF_FRAMES, "fft"),
    **dict.fromkeys(("whisper", "torchaudio", "librosa"), _OF_FRAMES),
    "mfcc": ("preset", "fft", "length", "standardize"),
    "waveform": ("preset", "fft", "low_hz", "high_hz", "mels", "coefficients", "window_ms"),
}
