"""Raw values to tensors. THE one implementation: training imports it, and the bundle runs it on the device."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError, did_you_mean
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, ModalitySpec, TabularSpec

# A picture of more pixels than this is taken for a decompression bomb, not for an input of an edge model.
_MAX_PIXELS = 100_000_000


def tensor(spec: ModalitySpec, value: Any, name: str = "input") -> np.ndarray:
    """One raw value as the model's float32 array of ``spec.shape`` (no batch axis).

    ``value``: a path, bytes of a file, or an array: image [h, w] or [h, w, c] uint8; audio float [samples] at
    ``spec.sample_rate`` or a pair (samples, rate); tabular a sequence, or a dict by column name; array [*shape].
    Raises MmedgeError where it cannot be read, has another shape, or holds NaN or infinity.
    """
    features = normalise(spec, raw_features(spec, value, name))
    if not np.isfinite(features).all():
        raise MmedgeError(f"{name} holds NaN or infinite values after preprocessing", where=_where(value))
    return features


def raw_features(spec: ModalitySpec, value: Any, name: str = "input") -> np.ndarray:
    """``tensor`` before normalisation: what the statistics of the training split are fitted on."""
    match spec:
        case ImageSpec():
            return _image(spec, value, name)
        case AudioSpec():
            return _audio(spec, value, name)
        case TabularSpec():
            return _tabular(spec, value, name)
        case ArraySpec():
            return _array(spec, value, name)


def normalise(spec: ModalitySpec, features: np.ndarray) -> np.ndarray:
    """(features - mean) / std along the axis that the statistics belong to; unchanged where none were fitted."""
    if spec.mean is None or spec.std is None:
        return np.ascontiguousarray(features, np.float32)
    along = _statistics_shape(spec)
    mean, std = np.asarray(spec.mean, np.float32).reshape(along), np.asarray(spec.std, np.float32).reshape(along)
    return np.ascontiguousarray((features - mean) / std, np.float32)


def fit_statistics(spec: ModalitySpec, features: Iterable[np.ndarray]) -> ModalitySpec:
    """The spec with mean and std fitted on the training split's ``raw_features``, unless the recipe gives them.

    Image: per channel. Audio: per mel band. Tabular: per column. Array: one pair for all its elements.
    """
    if spec.mean is not None:
        return spec
    axes = tuple(
        axis for axis, size in enumerate((1, *_statistics_shape(spec))) if size == 1 and axis <= len(spec.shape)
    )
    count, total, squares = 0, 0.0, 0.0
    for array in features:
        block = array[None].astype(np.float64)
        count += 1
        total, squares = total + block.mean(axis=axes), squares + (block**2).mean(axis=axes)
    if count == 0:
        return spec
    mean = np.atleast_1d(total / count)
    std = np.sqrt(np.maximum(np.atleast_1d(squares / count) - mean**2, 0))
    # A constant column carries nothing; dividing by one keeps it at zero and finite.
    std = np.where(std < 1e-6, 1.0, std)
    return spec.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(std.tolist())})


def _statistics_shape(spec: ModalitySpec) -> tuple[int, ...]:
    match spec:
        case ImageSpec():
            return (spec.channels, 1, 1)
        case AudioSpec():
            return (1, spec.mels, 1)
        case TabularSpec():
            return (len(spec.columns),)
        case ArraySpec():
            return (1,) * len(spec.shape)


def _where(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, Path)) else None


def _existing(value: str | Path, name: str) -> Path:
    path = Path(value)
    if not path.is_file():
        raise MmedgeError(f"the {name} file does not exist", where=str(path))
    return path


def _image(spec: ImageSpec, value: Any, name: str) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    picture: Image.Image
    try:
        if isinstance(value, (str, Path)):
            picture = Image.open(_existing(value, name))
        elif isinstance(value, (bytes, bytearray)):
            picture = Image.open(io.BytesIO(value))
        else:
            pixels = np.asarray(value)
            if (
                pixels.ndim not in (2, 3)
                or 0 in pixels.shape
                or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4))
            ):
                raise MmedgeError(f"{name} must be [height, width] or [height, width, 1|3|4], not {list(pixels.shape)}")
            if pixels.dtype != np.uint8:
                raise MmedgeError(f"{name} must be uint8 pixels of 0 to 255, not {pixels.dtype}")
            picture = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        if picture.width * picture.height > _MAX_PIXELS:
            raise MmedgeError(
                f"{name} has {picture.width} x {picture.height} pixels, more than {_MAX_PIXELS}", where=_where(value)
            )
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16") or picture.mode == "I":  # 16-bit gray: Pillow clips it instead of scaling
            picture = Image.fromarray((np.asarray(picture, np.float32) / 257).clip(0, 255).astype(np.uint8))
        picture = picture.convert("L" if spec.channels == 1 else "RGB")
        if picture.size != (spec.width, spec.height):
            picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise MmedgeError(f"the {name} is not an image that can be read", where=_where(value)) from error
    except Image.DecompressionBombError as error:
        raise MmedgeError(f"the {name} is too large: {error}", where=_where(value)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise MmedgeError(f"the {name} cannot be decoded: {error}", where=_where(value)) from error
    array = np.asarray(picture, np.float32) / 255
    return array[None] if spec.channels == 1 else array.transpose(2, 0, 1)


def _audio(spec: AudioSpec, value: Any, name: str) -> np.ndarray:
    waveform, rate = _waveform(spec, value, name)
    if len(waveform) == 0:
        raise MmedgeError(f"the {name} has no samples", where=_where(value))
    if not np.isfinite(waveform).all():
        raise MmedgeError(f"the {name} holds NaN or infinite samples", where=_where(value))
    if rate != spec.sample_rate:
        import soxr

        waveform = soxr.resample(waveform, rate, spec.sample_rate)
    fixed = np.zeros(spec.samples, np.float32)
    kept = min(len(waveform), spec.samples)
    fixed[:kept] = waveform[:kept]
    return _log_mel(spec, fixed)[None]


def _waveform(spec: AudioSpec, value: Any, name: str) -> tuple[np.ndarray, int]:
    """Mono float32 samples and their rate."""
    if isinstance(value, (str, Path, bytes, bytearray)):
        import soundfile

        source = io.BytesIO(value) if isinstance(value, (bytes, bytearray)) else _existing(value, name)
        try:
            samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError, TypeError) as error:
            raise MmedgeError(f"the {name} is not a sound that can be read: {error}", where=_where(value)) from error
        return samples.mean(axis=1), rate
    pair = value if isinstance(value, tuple) else (value, spec.sample_rate)
    if len(pair) != 2 or not isinstance(pair[1], (int, float, np.integer, np.floating)) or not pair[1] >= 1:
        raise MmedgeError(f"{name} must be float samples [n], or a pair of them and their rate in Hz, at least 1")
    samples, rate = np.asarray(pair[0]), pair[1]
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise MmedgeError(
            f"{name} must be float samples [n] (or a pair of them and their rate), not {samples.dtype} {list(samples.shape)}"
        )
    return samples.astype(np.float32), int(rate)


def _log_mel(spec: AudioSpec, waveform: np.ndarray) -> np.ndarray:
    """[samples] -> [mels, frames]: Povey-windowed power spectrum on an HTK mel scale, natural log (Kaldi's fbank)."""
    import kaldi_native_fbank as kaldi

    options = kaldi.FbankOptions()
    options.frame_opts.samp_freq = spec.sample_rate
    options.frame_opts.frame_length_ms = spec.window_ms
    options.frame_opts.frame_shift_ms = spec.hop_ms
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = spec.mels
    extractor = kaldi.OnlineFbank(options)
    # Kaldi's scale is that of 16-bit integers; it keeps the energy floor far below speech.
    extractor.accept_waveform(spec.sample_rate, (waveform * 32768).tolist())
    extractor.input_finished()
    frames = np.stack([extractor.get_frame(index) for index in range(extractor.num_frames_ready)])
    out = np.full((spec.frames, spec.mels), np.log(options.energy_floor or np.finfo(np.float32).eps), np.float32)
    out[: len(frames)] = frames[: spec.frames]
    return out.T


def _tabular(spec: TabularSpec, value: Any, name: str) -> np.ndarray:
    if isinstance(value, dict):
        unknown, absent = sorted(value.keys() - set(spec.columns)), [c for c in spec.columns if c not in value]
        if absent:
            raise MmedgeError(f"{name} has no value for {', '.join(absent)}")
        if unknown:
            raise MmedgeError(f"{name} has no column {unknown[0]!r}{did_you_mean(unknown[0], spec.columns)}")
        value = [value[column] for column in spec.columns]
    try:
        values = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise MmedgeError(f"{name} must be numbers: {error}") from error
    return _shaped(values, spec.shape, name)


def _array(spec: ArraySpec, value: Any, name: str) -> np.ndarray:
    if isinstance(value, (str, Path)):
        try:
            value = np.load(_existing(value, name), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise MmedgeError(f"the {name} is not an array that can be read: {error}", where=_where(value)) from error
    try:
        values = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise MmedgeError(f"{name} must be numbers: {error}") from error
    return _shaped(values, spec.shape, name)


def _shaped(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    if values.shape != shape:
        raise MmedgeError(f"{name} has shape {list(values.shape)}, the model takes {list(shape)}")
    return values
