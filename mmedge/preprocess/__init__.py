"""Raw values to tensors. THE one implementation: training imports it, and the bundle runs it on the device.

What is fitted, on the training split only, is written into the spec: tokenizer and categories first
(``fit_vocabulary``), since the tensor's shape depends on them, then mean and standard deviation (``fit_statistics``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError
from mmedge.preprocess import audio, image, points, sensor, tabular, text, video
from mmedge.preprocess.values import divisors, where
from mmedge.spec import ModalitySpec, TextSpec


@dataclass(frozen=True)
class _Kind:
    """What is done to the raw values of a kind; ``vocabulary``, ``statistics`` and ``normalise`` where they are its own.

    ``many``: the features of many values at once, where that is faster; None where they have to be looked at one by one.
    """

    features: Callable[[Any, Any, str], np.ndarray]
    vocabulary: Callable[[Any, Iterable[Any]], Any] | None = None
    statistics: Callable[[Any, Iterable[np.ndarray]], Any] | None = None
    normalise: Callable[[Any, np.ndarray], np.ndarray] | None = None
    many: Callable[[Any, Any], np.ndarray | None] | None = None


KINDS: dict[str, _Kind] = {
    "image": _Kind(image.features),
    "audio": _Kind(audio.features),
    "text": _Kind(text.features, vocabulary=text.fit),
    "tabular": _Kind(tabular.features, tabular.fit_categories, tabular.fit_statistics, tabular.normalise, tabular.many),
    "sensor": _Kind(sensor.features),
    "array": _Kind(sensor.array),
    "points": _Kind(points.features, statistics=points.fit_statistics, normalise=points.normalise),
    "video": _Kind(video.features),
}


def tensor(spec: ModalitySpec, value: Any, name: str = "input") -> np.ndarray:
    """One raw value as the model's array of ``spec.shape`` and ``spec.dtype`` (no batch axis).

    ``value``: a path, bytes of a file, or an array: image [h, w] or [h, w, c] uint8, with a box in a pair; audio float
    [samples] at ``spec.sample_rate`` or a pair (samples, rate); text a str; tabular a sequence, or a dict by column
    name; sensor [channels, time] or a pair with its rate; array [*shape]; points [n, 3 or more]; video [time, h, w(, c)]
    uint8. Raises MmedgeError where it cannot be read,
    has another shape, or holds NaN or infinity.
    """
    features = normalise(spec, raw_features(spec, value, name))
    if not np.isfinite(features).all():
        raise MmedgeError(f"{name} holds NaN or infinite values after preprocessing", where=where(value))
    return features


def raw_features(spec: ModalitySpec, value: Any, name: str = "input") -> np.ndarray:
    """``tensor`` before normalisation: what the statistics of the training split are fitted on."""
    return KINDS[spec.kind].features(spec, value, name)


def many_features(spec: ModalitySpec, values: Sequence[Any]) -> np.ndarray | None:
    """``raw_features`` of many values, [n, *spec.shape]; None where they have to be looked at one by one."""
    many = KINDS[spec.kind].many
    return many(spec, values) if many else None


def normalise(spec: ModalitySpec, features: np.ndarray) -> np.ndarray:
    """(features - mean) / std along the axis that the statistics belong to; unchanged where none were fitted.

    ``features``: those of a sample, or of a batch.
    """
    if own := KINDS[spec.kind].normalise:
        return own(spec, features)
    if spec.mean is None or spec.std is None:
        return np.asarray(features, spec.dtype, order="C")  # of no axis too
    mean, std = _statistics(spec.mean, spec.std, _statistics_shape(spec))
    out = np.subtract(features, mean, dtype=np.float32, order="C")
    return np.divide(out, std, out=out)


def trimmed(spec: ModalitySpec, batch: np.ndarray, present: np.ndarray) -> np.ndarray:
    """A batch [n, *shape] cut to the longest of its rows where the length is dynamic. ``present``: bool [n]."""
    return text.trimmed(spec, batch, present) if isinstance(spec, TextSpec) else batch


def stand_in(spec: ModalitySpec, mean: np.ndarray | None) -> np.ndarray:
    """[*shape]: what an absent input is to a network that knows no presence: the training mean; of ids one and padding."""
    if isinstance(spec, TextSpec):
        return text.stand_in(spec)
    out = np.zeros(spec.shape, spec.dtype)
    if spec.dtype == "float32":
        return out if mean is None else np.asarray(mean, np.float32)
    # A mask of nothing but zeros would leave attention nothing to attend to.
    out.reshape(-1)[:1] = 1
    return out


def fit_vocabulary(spec: ModalitySpec, values: Iterable[Any]) -> ModalitySpec:
    """The spec with what its shape depends on, from the training split's raw values: a text's tokenizer, a table's categories."""
    own = KINDS[spec.kind].vocabulary
    return own(spec, values) if own else spec


def fit_statistics(spec: ModalitySpec, features: Iterable[np.ndarray]) -> ModalitySpec:
    """The spec with mean and std fitted on the training split's ``raw_features``, unless the recipe gives them.

    Image and video: per channel. Audio: per band. Tabular: per number column. Sensor: per channel. Points: per value of a
    point. Array: one pair for all its elements. Text has none; waveforms and Whisper's log-mel stay as they are.
    """
    if spec.mean is not None or not spec.fitted_statistics:
        return spec
    if own := KINDS[spec.kind].statistics:
        return own(spec, features)
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
    return spec.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(divisors(mean, std).tolist())})


@lru_cache(maxsize=64)
def _statistics(
    mean: tuple[float, ...], std: tuple[float, ...], along: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mean, np.float32).reshape(along), np.asarray(std, np.float32).reshape(along)


def _statistics_shape(spec: ModalitySpec) -> tuple[int, ...]:
    if len(spec.mean or ()) == 1:  # one for all
        return (1,) * len(spec.shape)
    return spec.statistics_shape
