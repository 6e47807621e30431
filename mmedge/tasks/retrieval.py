"""Which go together: a vector a tower in one space, judged by how far down the list the right item stands.

A row is a pair (or more): what its towers see belongs together, so that no label is needed. An output is the vectors of
all towers beside each other, in the head's order, each as long as the root of the learned inverse temperature, so that
the product of two is their cosine over the temperature; a tower whose modalities are absent gives zeros. Rows whose
target is equal are of one thing, and each other's right items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np

from mmedge.frozen import Record
from mmedge.tasks import alone, unlabelled
from mmedge.tasks.cells import CellFault, Cells, TargetCard
from mmedge.tasks.head import Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "embeddings", "mean_recall"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = False, False, False, False, False, False
ORDERED, AMONG, PLACED, FILES, CODES = False, True, True, False, False
FILE_KINDS: tuple[str, ...] = ("values",)
PLACES = (1, 5, 10)
FIGURES: dict[str, Scale] = {
    "mean_recall": "share",
    **{f"recall_at_{k}": "share" for k in PLACES},
    "mrr": "share",
    "map": "share",
}
named, spread, weights = unlabelled.named, unlabelled.spread, unlabelled.weights
probabilities, chosen = unlabelled.probabilities, unlabelled.chosen
from_file, improbable, file_labels = unlabelled.from_file, unlabelled.improbable, unlabelled.file_labels
errors, further = alone.errors, alone.further
# Two vectors of one sample mean the same where their cosine is at least this.
_ALIKE = 0.9
# Products that are held at a time, where every query is compared with every item.
_MOST = 1 << 23


class ZeroShot(Record):
    """Labels that were never trained on: ``file`` has the vector of each in ``template``, float32 [labels, dimensions] (.npy),
    which ``tower`` gave; empty: any that asks is another."""

    labels: list[str]
    template: str
    file: str
    tower: str = ""


def width(head: Head) -> int:
    return len(head.towers) * head.dimensions


def head(defining: Cells, target: Target) -> Head:
    return Head(task=target.task, towers=target.towers, dimensions=64)


def stand_in() -> Head:
    return Head(task="retrieval", towers={"first": ("first",), "second": ("second",)}, dimensions=4)


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    for split, of_split in cells.items():
        if len(of_split) > 1 and len(set(of_split)) == 1 and of_split[0] is not None:
            what = f"all rows of the {split} split are of one thing, {of_split[0]!r}: no item is wrong for any of them"
            todo = f"leave out data.target where each row is a pair of its own, or correct column {target.column!r}"
            yield CellFault("error", "one-thing", what, todo, split)
        elif split != "train" and len(of_split) <= max(PLACES):
            what = f"the {split} split has {len(of_split)} pairs, and of so few one is always among the first {max(PLACES)}"
            todo = f"give it more than {max(PLACES)}: correct data.split or data.ratios, or add rows"
            yield CellFault("error", "few-pairs", what, todo, split)


def targets(cells: Cells, head: Head, target: Target) -> np.ndarray:
    """int64 [N, 2]: the thing that each row is of, the same number for equal cells and -1 where it is not known; and its kin.

    A row whose cell is empty is a thing of its own. Who is kin, ``grouped`` says.
    """
    number: dict[str, int] = {}
    things = [number.setdefault(f"row {row}" if cell is None else f"of {cell}", row) for row, cell in enumerate(cells)]
    return np.stack([np.array(things, np.int64), np.arange(len(cells))], axis=1)


def grouped(targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The targets with rows of one group, int64 [N], as kin: in training they are no negatives of each other."""
    return np.stack([targets[:, 0], groups], axis=1)


def known(targets: np.ndarray) -> np.ndarray:
    return np.asarray(targets[:, 0] >= 0)


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    targets = targets.copy()
    targets[rows, 0] = -1
    return targets


def strata(cells: Cells, target: Target) -> list[str]:
    return ["pair"] * len(cells)


def reading(towers: Mapping[str, tuple[str, ...]], kinds: Mapping[str, str]) -> list[str]:
    """The towers that read a text and nothing else: labels can be given to them. ``kinds``: of each modality."""
    return [tower for tower, sees in towers.items() if [kinds[name] for name in sees] == ["text"]]


def directions(head: Head) -> list[tuple[str, str]]:
    """(the tower that asks, the tower whose items are sought), both ways of every two."""
    return list(permutations(head.towers, 2))


def vectors(output: np.ndarray, head: Head) -> np.ndarray:
    """float32 [N, towers, dimensions] of unit length, of outputs [N, W]; zeros where a tower had nothing to see."""
    parts = output.reshape(len(output), len(head.towers), -1).astype(np.float32)
    lengths = np.linalg.norm(parts, axis=2, keepdims=True)
    return np.asarray(parts / np.where(lengths > 0, lengths, 1))


def placed(output: np.ndarray, gallery: np.ndarray, targets: np.ndarray, head: Head) -> np.ndarray:
    """float64 [N, 2 * directions]: of each direction the place of the first right item, from 1, and the average precision.

    ``output``: float [N, W] of who asks; ``gallery``: [N, W] of the items, the same rows with all that they have. Both
    are 0 where a row cannot ask, or nothing is right. A wrong item that is as near as the right one stands before it, so
    that vectors which are all the same find nothing.
    """
    asking, items, towers = vectors(output, head), vectors(gallery, head), list(head.towers)
    found = []
    for asks, sought in directions(head):
        queries, keys = asking[:, towers.index(asks)], items[:, towers.index(sought)]
        found += [*_places(queries, keys, targets[:, 0])]
    return np.where(np.isfinite(output).all(axis=1, keepdims=True), np.stack(found, axis=1), np.nan)


def _places(queries: np.ndarray, keys: np.ndarray, things: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [N] first places, [N] average precisions). ``queries``, ``keys``: [N, D]; ``things``: int64 [N]."""
    places, precisions = np.zeros((2, len(queries)))
    items = np.flatnonzero(keys.any(axis=1))
    asked = np.flatnonzero(queries.any(axis=1) & (things >= 0) & np.isin(things, things[items]))
    several = len(np.unique(things[items])) < len(items)
    at_a_time = max(1, _MOST // max(1, len(items)))
    for start in range(0, len(asked), at_a_time):
        rows = asked[start : start + at_a_time]
        near = queries[rows] @ keys[items].T
        right = things[rows][:, None] == things[items]
        best = np.where(right, near, -np.inf).max(axis=1, keepdims=True)
        places[rows] = 1 + (~right & ~(near < best)).sum(axis=1)  # so written that NaN stands before everything
        precisions[rows] = [_average(*each) for each in zip(near, right)] if several else 1 / places[rows]
    return places, precisions


def _average(near: np.ndarray, right: np.ndarray) -> float:
    """The mean over a query's right items of the share of right ones up to each."""
    of_right, of_wrong = np.sort(near[right])[::-1], np.sort(near[~right])
    before = len(of_wrong) - np.searchsorted(of_wrong, of_right)
    count = np.arange(1, len(of_right) + 1)
    return float((count / (count + before)).mean())


def parts(head: Head) -> tuple[str, ...]:
    return tuple(f"{asks}_to_{sought}" for asks, sought in directions(head))


def _means(values: np.ndarray, places: np.ndarray) -> list[float]:
    """The mean of each column, float [N, directions], over the rows that ask in it; none of a column where none does."""
    return [float(column[at > 0].mean()) for column, at in zip(values.T, places.T) if (at > 0).any()]


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """The mean of Recall@1, @5 and @10 over all directions. ``output``: what ``placed`` gives, here as in ``others``."""
    places = output[:, ::2]
    found = [mean for k in PLACES for mean in _means(places <= k, places)]
    return float(np.mean(found)) if found else float("nan")


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    """``recall_at_1``, ``_5``, ``_10``, ``mrr`` and ``map`` over all directions; the recalls of each are under ``.ASKS_to_SOUGHT``."""
    places, precisions = output[:, ::2], output[:, 1::2]
    each = {f"recall_at_{k}": places <= k for k in PLACES}
    each |= {"mrr": 1 / np.maximum(places, 1), "map": precisions}
    found = {name: float(np.mean(_means(values, places) or [np.nan])) for name, values in each.items()}
    for number, (asks, sought) in enumerate(directions(head)):
        column = slice(number, number + 1)
        for k in PLACES:
            of_one = _means(each[f"recall_at_{k}"][:, column], places[:, column])
            found |= {f"recall_at_{k}.{asks}_to_{sought}": of_one[0]} if of_one else {}
    return {name: value for name, value in found.items() if not np.isnan(value)}


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    """Vectors drawn by chance: who has seen nothing finds what luck gives."""
    return np.random.default_rng(0).standard_normal((rows, width(head))).astype(np.float32)


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    """The share of rows whose outputs point the same way."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    return float(((expected * actual).sum(axis=1) >= _ALIKE * lengths).mean())


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    """The vectors of the towers that saw something."""
    each = vectors(output, head)
    return [
        Prediction(embeddings={name: tuple(x.tolist()) for name, x in zip(head.towers, row) if x.any()}) for row in each
    ]


def card(cells: Cells, target: Target) -> TargetCard:
    return TargetCard()
