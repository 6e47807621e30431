"""Rows of numbers and categories."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmedge.errors import MmedgeError, did_you_mean
from mmedge.preprocess.values import divisors
from mmedge.spec import TabularSpec

# The largest float32.
LARGEST = float(np.finfo(np.float32).max)


def features(spec: TabularSpec, value: Any, name: str) -> np.ndarray:
    """float32 [*spec.shape]; a number that is missing is NaN until ``normalise`` puts the training mean in its place.

    ``value``: a dict by column, or a sequence in the order of ``columns``, then ``categorical``; None or "" is missing.
    """
    cells = _cells(spec, value, name)
    if all(cell is None for cell in cells):
        raise MmedgeError(f"{name} has no value at all: leave the modality out")
    numbers = [_number(cell, column, name) for cell, column in zip(cells, spec.columns)]
    parts = [*numbers]
    if spec.missing_indicator:
        parts += [float(cell is None) for cell in cells[: len(spec.columns)]]
    known = spec.categories or {}
    for cell, column in zip(map(_unless_nan, cells[len(spec.columns) :]), spec.categorical):
        values = known.get(column, ())
        place = _place(cell, values)
        if spec.encoding == "ordinal":
            parts.append(place / len(values) if values else 0.0)
        else:
            parts += [float(cell is not None and place == index) for index in range(1 + len(values))]
    return np.asarray(parts, np.float32)


def many(spec: TabularSpec, rows: Sequence[Sequence[Any]]) -> np.ndarray | None:
    """``features`` of many rows of a table's cells at once; None where one of them has to be looked at by itself."""
    if spec.categorical or spec.missing_indicator:
        return None
    cells = [cell for row in rows for cell in row]
    known = [cell for cell in cells if cell is not None]
    try:
        text = "".join(known)
        if len(cells) != len(rows) * len(spec.columns) or "_" in text or not text.isascii():
            return None
        numbers = np.array([math.nan if cell is None else float(cell) for cell in cells])
    except (TypeError, ValueError):
        return None
    out = numbers.reshape(len(rows), len(spec.columns))
    there = np.abs(out) <= LARGEST
    if there.sum() < len(known) or not there.any(axis=1).all():
        return None
    return out.astype(np.float32)


def normalise(spec: TabularSpec, values: np.ndarray) -> np.ndarray:
    """Standardise the numbers of a sample or of a batch; a missing one becomes their mean, which is 0 after it."""
    out = np.array(values, np.float32)
    numbers = out[..., : len(spec.columns)]
    if spec.mean is not None and spec.std is not None and spec.columns:
        numbers[...] = (numbers - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    numbers[np.isnan(numbers)] = 0
    return out


def fit_categories(spec: TabularSpec, rows: Iterable[Sequence[Any]]) -> TabularSpec:
    """The spec with the training split's values of each categorical column, at most ``max_categories``, the commonest."""
    if spec.categories is not None or not spec.categorical:
        return spec
    counts: list[Counter[str]] = [Counter() for _ in spec.categorical]
    for row in rows:
        for counter, cell in zip(counts, map(_unless_nan, row[len(spec.columns) :])):
            if cell is not None:
                counter[str(cell)] += 1
    kept = {
        column: tuple(sorted(sorted(counter, key=lambda value: (-counter[value], value))[: spec.max_categories]))
        for column, counter in zip(spec.categorical, counts)
    }
    return spec.model_copy(update={"categories": kept})


def fit_statistics(spec: TabularSpec, rows: Iterable[np.ndarray]) -> TabularSpec:
    """The spec with mean and standard deviation of each number column over the cells that are there."""
    count = len(spec.columns)
    known, total, squares = np.zeros(count), np.zeros(count), np.zeros(count)
    for row in rows:
        there = ~np.isnan(row[:count])
        values = np.where(there, row[:count], 0).astype(np.float64)
        known, total, squares = known + there, total + values, squares + values**2
    mean = total / np.maximum(known, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(known, 1) - mean**2, 0))
    return spec.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(divisors(mean, std).tolist())})


def _cells(spec: TabularSpec, value: Any, name: str) -> list[Any]:
    columns = spec.columns_read
    if isinstance(value, Mapping):
        unknown, absent = sorted(value.keys() - set(columns)), [c for c in columns if c not in value]
        if absent:
            raise MmedgeError(f"{name} has no value for {', '.join(absent)}")
        if unknown:
            raise MmedgeError(f"{name} has no column {unknown[0]!r}{did_you_mean(unknown[0], columns)}")
        value = [value[column] for column in columns]
    if isinstance(value, np.ndarray):
        if value.shape != (len(columns),):
            raise MmedgeError(f"{name} has shape {list(value.shape)}, the model takes {[len(columns)]}")
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise MmedgeError(f"{name} must be numbers: a list or a dict by column, not {type(value).__name__}")
    if len(value) != len(columns):
        raise MmedgeError(f"{name} has shape {[len(value)]}, the model takes {[len(columns)]}")
    return [None if isinstance(cell, str) and not cell else cell for cell in value]


def _unless_nan(cell: Any) -> Any:
    """The cell of a category; None where it is NaN, as a frame spells what is missing."""
    return None if isinstance(cell, (float, np.floating)) and cell != cell else cell


def _place(cell: Any, values: Sequence[str]) -> int:
    """1 + the place of a category among those that training knew; 0 of any other, and of a missing one.

    A number or a truth value is the category of its other spelling too: 1 is "1.0", 2.0 is "2", True is "true".
    """
    if cell is None:
        return 0
    words = [str(cell)]
    if isinstance(cell, (bool, np.bool_)):
        words.append(words[0].lower())
    elif isinstance(cell, (int, float, np.integer, np.floating)) and cell == cell // 1:
        words += [str(int(cell)), str(float(cell))]
    return next((values.index(word) + 1 for word in words if word in values), 0)


def _number(cell: Any, column: str, name: str) -> float:
    if cell is None:
        return math.nan
    try:
        if isinstance(cell, str) and ("_" in cell or not cell.isascii()):  # Python's own spellings, and no table's
            raise ValueError
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise MmedgeError(f"{name} must be numbers: {column} is {cell!r}") from None
    if not abs(number) <= LARGEST:
        raise MmedgeError(
            f"{name} holds NaN, or a value that is infinite in float32: {column} is {cell!r}",
            todo="None is a missing value",
        )
    return number
