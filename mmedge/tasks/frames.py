"""An array a sample: frames of a sound, the next window of a sensor, a map; judged by R2 over all that it holds.

An array is [frames, ...]; its first axis may be shorter than the head's shape, which is the longest. An output is flat:
all numbers of the shape, and where lengths vary the length, in frames, behind them. A target is laid out alike, NaN
behind its end, and everywhere where it is not known.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from mmedge.tasks import alone, unlabelled
from mmedge.tasks.cells import CellFault, Cells, TargetCard, defining_splits
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "frames", "r2"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = False, False, False, False, True, False
ORDERED, AMONG, PLACED, FILES, CODES = False, False, True, True, False
FILE_KINDS: tuple[str, ...] = ("values",)
FIGURES: dict[str, Scale] = {
    "r2": "unexplained",
    "mae": "error",
    "mse": "error",
    "rmse": "error",
    "mcd_db": "error",
    "length_mae": "error",
}
grouped, further, parts = alone.grouped, alone.further, alone.parts
named, spread, weights = unlabelled.named, unlabelled.spread, unlabelled.weights
probabilities, chosen = unlabelled.probabilities, unlabelled.chosen
from_file, improbable, file_labels = unlabelled.from_file, unlabelled.improbable, unlabelled.file_labels
# Cepstral coefficients of mel-cepstral distortion, without the zeroth, which is loudness.
_CEPSTRA = 13
# The columns of ``placed`` before the sums of each place in a frame.
_KNOWN, _SQUARED, _ABSOLUTE, _SQUARES, _DISTORTION, _LENGTH = range(6)
_SUMS = 6


def width(head: Head) -> int:
    return math.prod(head.shape) + head.varies if head.shape else 0


def per_frame(head: Head) -> int:
    """How many numbers a frame has."""
    return math.prod(head.shape[1:])


def read(cell: str) -> np.ndarray:
    """float32 of a cell: the path of a .npy file, or a JSON list of lists. Raises ValueError that says what is wrong with it."""
    if cell.startswith("["):
        try:
            found = np.array(json.loads(cell), np.float64)
        except (ValueError, TypeError, RecursionError):
            raise ValueError("the target is no array: its lists are of different lengths, or hold no numbers") from None
    else:
        try:
            found = np.load(cell, allow_pickle=False)
        except FileNotFoundError:
            raise ValueError(f"the target's file does not exist: {cell}") from None
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"the target's file is no .npy file of numbers: {cell}: {error}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub" or not found.ndim:
        raise ValueError(f"the target is no array of numbers with an axis: {cell[:200]}")
    if not found.size:
        raise ValueError(f"the target is an empty array, {list(found.shape)}")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(found).all():
        place = np.argwhere(~np.isfinite(found))[0].tolist()
        raise ValueError(f"the target holds NaN or infinity, first at {place}")
    return found


def _arrays(cells: Cells) -> Sequence[np.ndarray | ValueError | None]:
    """Each cell's array, or what is wrong with it."""
    return _arrays_of(tuple(cells), tuple(map(_stamp, cells)))


@lru_cache(8)
def _arrays_of(cells: tuple[str | None, ...], stamps: tuple[object, ...]) -> list[np.ndarray | ValueError | None]:
    """They are asked for faults, for the head, and as targets: read once, unless a file is another by its stamp."""
    return [None if cell is None else _tried(cell) for cell in cells]


def _stamp(cell: str | None) -> tuple[int, int] | None:
    """What changes with a file."""
    try:
        stat = None if cell is None or cell.startswith("[") else os.stat(cell)
    except (OSError, ValueError):
        return None
    return (stat.st_mtime_ns, stat.st_size) if stat else None


def _tried(cell: str) -> np.ndarray | ValueError:
    try:
        return read(cell)
    except ValueError as error:
        return error


def head(defining: Cells, target: Target) -> Head:
    told = {"log_mel": target.log_mel, "distance": target.distance}
    arrays = [each for each in _arrays(defining) if isinstance(each, np.ndarray)]
    if not arrays:
        return Head(task=target.task, shape=target.shape, varies=bool(target.lengths), **told)
    rest = target.shape[1:] or arrays[0].shape[1:]
    fitting = [each for each in arrays if each.shape[1:] == rest]
    longest = target.shape[0] if target.shape else max(len(each) for each in fitting)
    varies = any(len(each) != longest for each in fitting) if target.lengths is None else target.lengths
    frames = np.concatenate([each.reshape(len(each), -1) for each in fitting]).astype(np.float64)
    mean, std = frames.mean(axis=0), frames.std(axis=0)
    std[std < 1e-6 * max(1e-30, float(std.max()))] = float(std.max()) or 1.0
    ours = {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}
    return Head(task=target.task, shape=(longest, *rest), varies=varies, **ours, **told)


def stand_in() -> Head:
    return Head(task="frames", shape=(4, 2), mean=(0.0, 0.0), std=(1.0, 1.0))


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    splits = defining_splits(cells)
    described = head([cell for split in splits for cell in cells[split]], target)
    for split, of_split in cells.items():
        for row, found in enumerate(_arrays(of_split)):
            what = str(found) if isinstance(found, ValueError) else _unlike(found, described, target)
            if what:
                todo = "mend it, or empty the cell: the sample is then unlabelled"
                yield CellFault("error", "target", what, todo, split, row)
    for split in ("validation", "test"):
        known = [each for each in _arrays(cells.get(split, ())) if isinstance(each, np.ndarray)]
        if known and all(np.ptp(each) == 0 and each.flat[0] == known[0].flat[0] for each in known):
            what = f"the targets of the {split} split are one number throughout: nothing can be judged by them"
            yield CellFault("error", "constant", what, "correct data.split or data.ratios", split)


def _unlike(found: np.ndarray | None, head: Head, target: Target) -> str | None:
    """What is wrong with an array's shape."""
    if found is None or not head.shape:
        return None
    given, longest, rest = list(found.shape), head.shape[0], head.shape[1:]
    if found.shape[1:] != rest:
        return f"the target has the shape {given}, and those of other rows [frames{''.join(f', {n}' for n in rest)}]"
    if len(found) > longest:
        named = "data.shape" if target.shape else "the longest of training, unless data.shape declares more,"
        return f"the target has {len(found)} frames, and {named} has {longest}"
    if len(found) < longest and not head.varies:
        return f"the target has {len(found)} frames, and every one of training {longest}: declare data.lengths: true"
    return None


def targets(cells: Cells, head: Head, target: Target) -> np.ndarray:
    """float32 [N, W]: flat, NaN behind the end, then the length where lengths vary; NaN everywhere where it is not known."""
    found = np.full((len(cells), width(head)), np.nan, np.float32)
    for row, each in enumerate(_arrays(cells)):
        if isinstance(each, np.ndarray) and each.shape[1:] == head.shape[1:] and len(each) <= head.shape[0]:
            found[row, : each.size] = each.ravel()
            if head.varies:
                found[row, -1] = len(each)
    return found


def known(targets: np.ndarray) -> np.ndarray:
    return np.asarray(~np.isnan(targets[:, 0]))


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    targets = targets.copy()
    targets[rows] = np.nan
    return targets


def strata(cells: Cells, target: Target) -> list[str]:
    return ["" if cell is None or cell == "" else "x" for cell in cells]


def _flat(x: np.ndarray, head: Head) -> np.ndarray:
    """[N, frames * per frame]: without the length."""
    return x[:, : math.prod(head.shape)]


def lengths(output: np.ndarray, head: Head) -> np.ndarray:
    """int64 [N]: the frames that outputs, [N, W], are said to have."""
    longest = head.shape[0]
    return np.clip(output[:, -1].round(), 1, longest).astype(np.int64) if head.varies else np.full(len(output), longest)


def placed(output: np.ndarray, gallery: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
    """float64 [N, 6 + per frame]: sums of each row from which every figure follows, so that no interval reads arrays again.

    How many numbers are known; of the errors the squares and the sizes; of the targets the squares, about the training
    mean; the mean mel-cepstral distortion times that; the error of the length; and the targets' sum at each place of a
    frame.
    """
    count, there = per_frame(head), ~np.isnan(_flat(targets, head))
    true = np.where(there, _flat(targets, head), 0.0).astype(np.float64)
    errors = np.where(there, _flat(output, head) - true, 0.0)
    about = (true.reshape(len(true), -1, count) - np.asarray(head.mean)) * there.reshape(len(true), -1, count)
    found = np.zeros((len(output), _SUMS + count))
    found[:, _KNOWN] = there.sum(axis=1)
    found[:, _SQUARED], found[:, _ABSOLUTE] = (errors**2).sum(axis=1), np.abs(errors).sum(axis=1)
    found[:, _SQUARES] = (about**2).sum(axis=(1, 2))
    if head.log_mel:
        found[:, _DISTORTION] = distortion(errors.reshape(len(errors), -1, count)).sum(axis=1) * count
    if head.varies:
        found[:, _LENGTH] = np.abs(lengths(output, head) - np.nan_to_num(targets[:, -1]))
    found[:, _SUMS:] = about.sum(axis=1)
    found[~np.isfinite(output).all(axis=1)] = np.nan
    return found


def distortion(errors: np.ndarray) -> np.ndarray:
    """float64 [N, frames]: the mel-cepstral distortion in dB of frames that stand beside each other.

    Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment": 10 sqrt(2) / ln 10 times the
    distance of cepstral coefficients 1 to 13, those of a cosine series of the logarithmic amplitude over mel frequency.
    ``errors``: float [N, frames, mels], of natural logarithms of mel energies, which are twice those of amplitudes;
    nothing is warped in time.
    """
    from scipy.fft import dct

    # The orthonormal transform of M logarithms of energies is sqrt(2 M) times the series' coefficients.
    cepstra = dct(errors, type=2, norm="ortho", axis=2)[:, :, 1 : 1 + _CEPSTRA] / math.sqrt(2 * errors.shape[2])
    return np.asarray(10 * math.sqrt(2) / math.log(10) * np.sqrt((cepstra**2).sum(axis=2)))


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """R2 of all numbers together, about the mean of each place in a frame. ``output``: what ``placed`` gives, as in ``others``."""
    known, sums = output[:, _KNOWN].sum(), output[:, _SUMS:].sum(axis=0)
    if not known:
        return math.nan
    varied = output[:, _SQUARES].sum() - (sums**2).sum() / (known / per_frame(head))
    return float(1 - output[:, _SQUARED].sum() / varied) if varied > 1e-9 * known else math.nan


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    """``mae``, ``mse``, ``rmse`` over all numbers; of log-mels ``mcd_db``, the mean over frames; ``length_mae`` in frames."""
    known = output[:, _KNOWN].sum()
    if not known:
        return {}
    squared = float(output[:, _SQUARED].sum() / known)
    found = {"mae": float(output[:, _ABSOLUTE].sum() / known), "mse": squared, "rmse": math.sqrt(squared)}
    if head.log_mel:
        found["mcd_db"] = float(output[:, _DISTORTION].sum() / known)
    if head.varies:
        found["length_mae"] = float(output[:, _LENGTH].mean())
    return found


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    """The mean of the known targets at each place, and of their lengths; the training mean where none reaches."""
    there = ~np.isnan(targets)
    counts = there.sum(axis=0)
    known = np.where(there, targets, 0.0).sum(axis=0, dtype=np.float64) / np.maximum(counts, 1)
    usual = np.append(np.tile(np.asarray(head.mean), head.shape[0]), [head.shape[0]] if head.varies else [])
    return np.tile(np.where(counts, known, usual).astype(np.float32), (rows, 1))


def errors(output: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
    """float [N]: the mean distance of a row's numbers, in the targets' deviations; over those that are known."""
    apart = np.abs(_flat(output, head) - _flat(targets, head)).reshape(len(output), -1, per_frame(head))
    return np.asarray(np.nanmean(apart / np.asarray(head.std), axis=(1, 2)))


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    """All of them: how far two arrays are apart is judged as a difference."""
    return 1.0


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    arrays = _flat(output, head).reshape(len(output), *head.shape)
    return [Prediction(array=each[:length]) for each, length in zip(arrays, lengths(output, head).tolist())]


def card(cells: Cells, target: Target) -> TargetCard:
    arrays = [each for each in _arrays(cells) if isinstance(each, np.ndarray)]
    if not arrays:
        return TargetCard()
    numbers = [np.array([each.min(), each.mean(), each.max()], np.float64) for each in arrays]
    low, mean, high = np.stack(numbers).T
    found = {"min": float(low.min()), "mean": float(f"{mean.mean():.4g}"), "max": float(high.max())}
    frames = [len(each) for each in arrays]
    return TargetCard(target=found | {"frames_least": min(frames), "frames_most": max(frames)})
