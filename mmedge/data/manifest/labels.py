"""Targets: what a cell says as names and as numbers, whose target is known, and what rows are spread evenly over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import polars

from mmedge.errors import MmedgeError
from mmedge.recipe import Data

_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}


def labels_in(cell: str | None, separator: str) -> frozenset[str] | None:
    """The labels of one cell: a JSON list of strings, or names with ``separator`` between them; None where it is empty.

    ``[]``, or the separator alone, says that the sample has none of the labels, which is not the same as unlabelled.
    """
    if cell is None:
        return None
    if cell.startswith("["):
        try:
            names = json.loads(cell)
        except ValueError:
            names = cell.split(separator)
    else:
        names = cell.split(separator)
    return frozenset(str(name).strip() for name in names) - {""}


def named_in(data: Data, cells: polars.Series) -> list[frozenset[str] | None]:
    """The labels that each row's cell names: one where the task is classification; None where it is unlabelled."""
    if data.task == "multilabel":
        return [labels_in(cell, data.separator) for cell in cells]
    return [None if cell is None else frozenset((cell,)) for cell in cells]


def one_hot(rows: Sequence[frozenset[str] | None], labels: Sequence[str]) -> np.ndarray:
    """float32 [N, labels]: 1 where a row has the label, 0 where not; NaN everywhere in a row that is unlabelled."""
    place = {label: index for index, label in enumerate(labels)}
    targets = np.zeros((len(rows), len(labels)), np.float32)
    for row, names in enumerate(rows):
        if names is None:
            targets[row] = np.nan
        else:
            targets[row, [place[name] for name in names]] = 1
    return targets


def telling_splits(cells: Mapping[str, polars.Series]) -> tuple[str, ...]:
    """The splits whose targets say which classes there are, or in which range values lie: the training split alone.

    Where that has no label, since the student learns from its teacher alone, it is those that judge. ``cells``: each
    split's.
    """
    training = cells["train"]
    return ("train",) if training.null_count() < len(training) else ("validation", "test")


def unlabelled_split(split: str) -> tuple[str, str]:
    """What is wrong with a split without a label, and what to do."""
    if split == "train":
        todo = "label some; or, where a teacher that has learnt elsewhere teaches alone, set distill.labels: none"
    else:
        todo = "label some of its rows: what is kept is judged by them"
    return f"no sample of the {split} split has a label", todo


def rarest(rows: Sequence[frozenset[str] | None]) -> list[str]:
    """The rarest label of each row: what to stratify by, so that a rare label reaches every split; "" where unlabelled.

    A greedy reading of Sechidis et al. 2011, "On the stratification of multi-label data".
    """
    counts = Counter(name for names in rows if names for name in names)
    return [
        "" if names is None else min(names, key=lambda name: (counts[name], name)) if names else "(none)"
        for names in rows
    ]


def joined(table: polars.DataFrame, columns: Sequence[str], where: str) -> polars.Series:
    """One cell of labels from several columns of 0 and 1, named by the labels. A row without any cell is unlabelled.

    Raises MmedgeError for another value, and for a row of which only some cells are filled.
    """
    cells: list[str | None] = []
    for number, row in enumerate(table.select(columns).iter_rows(), 1):
        words = [None if cell is None else cell.strip().lower() for cell in row]
        if all(word is None for word in words):
            cells.append(None)
            continue
        wrong = next((name for name, word in zip(columns, words) if word not in _YES | _NO), None)
        if wrong is not None:
            raise MmedgeError(
                f"a label's column must hold 0 or 1, not {row[list(columns).index(wrong)]!r}",
                where=f"{where}, row {number}, column {wrong}",
                todo="fill it, or empty all label columns of the row: the sample is then unlabelled",
            )
        cells.append(json.dumps([name for name, word in zip(columns, words) if word in _YES], ensure_ascii=False))
    return polars.Series(cells, dtype=polars.String)


def labelled(targets: np.ndarray) -> np.ndarray:
    """bool [N]: whose target is known. ``targets``: as in ``Samples``."""
    if targets.dtype.kind == "i":
        return np.asarray(targets >= 0)
    known = ~np.isnan(targets)
    return known if targets.ndim == 1 else np.asarray(known.all(axis=1))


def spread_over(targets: np.ndarray) -> np.ndarray | None:
    """int64 [N]: what labels are spread evenly over: the class, or the rarest of several labels; None for regression."""
    if targets.dtype.kind == "i":
        return targets
    if targets.ndim == 2:
        return np.where(targets == 1, np.nansum(targets, axis=0), np.inf).argmin(axis=1)
    return None


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The targets with those of some rows (indices, or bool [N]) unknown."""
    targets = targets.copy()
    targets[rows] = -1 if targets.dtype.kind == "i" else np.nan
    return targets
