"""Time series, and arrays of a fixed shape."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError, did_you_mean
from mmedge.preprocess.values import existing, load_npy, numbers, refuse_masked, shaped, where, window
from mmedge.spec import ArraySpec, SensorSpec

# More make no input of an edge model: a slip in a file's times would fill the memory.
_MOST_STEPS = 100_000_000


def features(spec: SensorSpec, value: Any, name: str) -> np.ndarray:
    """float32 [channels, length]. ``value``: a path of .npy or .csv, an array, or (array, rate in Hz).

    Arrays are [channels, time], with ``time_first`` [time, channels].
    """
    rate = spec.source_rate
    seconds: np.ndarray | None = None
    if isinstance(value, tuple) and len(value) == 2:
        value, rate = value[0], _rate(value[1], name)
    if isinstance(value, (str, Path)) and str(value).lower().endswith((".csv", ".tsv", ".txt")):
        series, seconds = _table(spec, value, name)
    else:
        given = numbers(load_npy(value, name) if isinstance(value, (str, Path, bytes)) else value, name)
        series = given.T if spec.time_first else given
    if series.ndim != 2 or series.shape[0] != spec.channels or series.shape[1] == 0:
        turned = series.ndim == 2 and series.shape[1] == spec.channels
        wanted = f"[time, {spec.channels}]" if spec.time_first else f"[{spec.channels}, time]"
        raise MmedgeError(
            f"{name} has shape {list(series.T.shape if spec.time_first else series.shape)}, the model takes {wanted}",
            where=where(value),
            todo="give the array transposed, or set time_first of the modality in the recipe" if turned else None,
        )
    if not np.isfinite(series).all():
        raise MmedgeError(f"the {name} holds NaN or infinite values", where=where(value))
    if spec.rate and seconds is not None:
        series = _on_a_grid(series, seconds, spec.rate, name, value)
    elif spec.rate and rate and rate != spec.rate:
        import soxr

        _check_steps(series.shape[1] * spec.rate / rate, name, value)
        series = soxr.resample(np.ascontiguousarray(series.T), rate, spec.rate).T
    if series.shape[1] == 0:
        raise MmedgeError(f"the {name} is shorter than one step at {spec.rate} Hz", where=where(value))
    kept = series[:, window(series.shape[1], spec.length, spec.take)]
    missing = spec.length - kept.shape[1]
    return np.ascontiguousarray(np.pad(kept, ((0, 0), (0, missing)), mode="edge"), np.float32)


def _rate(given: Any, name: str) -> float:
    rate = given if isinstance(given, (int, float, np.integer, np.floating)) else 0
    if not 0 < rate < float("inf"):
        raise MmedgeError(f"the {name}'s rate must be a number of Hz above 0, not {given!r}")
    return float(rate)


def _check_steps(steps: float, name: str, value: Any) -> None:
    """Raise MmedgeError for a series that at the model's rate has more steps than any, or none: its times are damaged."""
    if not 1 <= steps <= _MOST_STEPS:
        raise MmedgeError(
            f"the {name} would have {steps:.3g} steps at the model's rate",
            where=where(value),
            todo="correct its times, or its rate in Hz",
        )


def array(spec: ArraySpec, value: Any, name: str) -> np.ndarray:
    """float32 [*spec.shape] of a .npy file or an array; int64 of ids, which raises MmedgeError for what is none."""
    loaded = load_npy(value, name) if isinstance(value, (str, Path, bytes)) else value
    if spec.ids is None:
        return shaped(numbers(loaded, name), spec.shape, name)
    refuse_masked(loaded, name)
    try:
        given = np.asarray(loaded)
        ids = given.astype(np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MmedgeError(f"{name} must be ids: {error}") from error
    strange = given[(ids < 0) | (ids >= spec.ids) | (ids != given)]
    if strange.size:
        raise MmedgeError(f"{name} holds {strange.flat[0]}, and its ids are 0 to {spec.ids - 1}")
    return shaped(ids, spec.shape, name)


def _table(spec: SensorSpec, value: str | Path, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """[channels, time] and, where a time column is named, seconds [time]."""
    path = Path(existing(value, name))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, delimiter=delimiter)
            header = [cell.strip() for cell in next(rows, [])]
            body = [row for row in rows if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MmedgeError(f"the {name} cannot be read: {error}", where=str(path)) from error
    wanted = spec.channel_columns or tuple(column for column in header if column != spec.time_column)
    for column in (*wanted, *([spec.time_column] if spec.time_column else [])):
        if column not in header:
            raise MmedgeError(
                f"the {name} has no column {column!r}{did_you_mean(column, header)}; it has {', '.join(header)}",
                where=str(path),
            )
    if not body:
        raise MmedgeError(f"the {name} has no rows", where=str(path))
    places = [header.index(column) for column in wanted]
    try:
        series = np.array([[float(row[place]) for row in body] for place in places], np.float32)
        if spec.time_column is None:
            return series, None
        return series, np.array([float(row[header.index(spec.time_column)]) for row in body])
    except (ValueError, IndexError) as error:
        raise MmedgeError(f"the {name} holds a cell that is no number: {error}", where=str(path)) from error


def _on_a_grid(series: np.ndarray, seconds: np.ndarray, rate: float, name: str, value: Any) -> np.ndarray:
    """Linear interpolation of irregular steps onto a regular grid that starts with the first."""
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        raise MmedgeError(f"the {name}'s times do not rise from row to row", where=where(value))
    steps = np.floor((seconds[-1] - seconds[0]) * rate + 1e-6) + 1
    _check_steps(steps, name, value)
    grid = seconds[0] + np.arange(int(steps)) / rate
    return np.stack([np.interp(grid, seconds, channel) for channel in series]).astype(np.float32)
