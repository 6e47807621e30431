"""Which sample is in which split: by ratio or fold, whole groups or stratified, always a function of the seed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mmedge.recipe import Fold

SPLITS = ("train", "validation", "test")
# How a column of splits may spell them, in lower case.
SPELLINGS = {
    **dict.fromkeys(("train", "training", "训练", "训练集"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev", "eval", "验证", "验证集"), "validation"),
    **dict.fromkeys(("test", "testing", "测试", "测试集"), "test"),
}
# Names of columns whose values are people or devices, of whom each belongs in one split.
UNITS = re.compile(
    r"speaker|subject|patient|person|user|device|session|participant|group|household|customer|client|hospital|^who$"
    r"|客户|患者|病人|受试者|用户|说话人|设备",
    re.IGNORECASE,
)
# How many orders of the groups are tried, and how many groups are dealt in all of them together.
_ATTEMPTS, _DEALT = 50, 20_000


def by_ratio(labels: np.ndarray | None, groups: np.ndarray | None, shares: Sequence[float], seed: int) -> np.ndarray:
    """int64 [N]: the part (0, 1, …) of each row, parts of the sizes ``shares`` (which add up to 1).

    ``groups`` (str [N]) are never torn apart; of the parts that whole groups can make, those are taken that come nearest
    to the shares of rows and of every class, and the first part has every class that it can have. Without groups, rows are stratified by ``labels`` (str [N], "" unlabelled, None for regression);
    rows without a label all go to the first part, since only training can use them.
    """
    if groups is not None:
        return _whole_groups(labels, groups, np.asarray(shares), seed)
    rng = np.random.default_rng(seed)
    count = len(labels) if labels is not None else 0
    assert labels is not None, "rows are counted by their labels"
    assigned = np.zeros(count, np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if label != "":
            assigned[rows] = _dealt(len(rows), np.asarray(shares))
    return assigned


def by_fold(labels: np.ndarray, groups: np.ndarray | None, fold: Fold, validation: float, seed: int) -> np.ndarray:
    """int64 [N]: 0 train, 1 validation, 2 test, where the test split is part ``fold.index`` of ``fold.k`` equal ones.

    ``validation`` is the share of the rest that validates. Over all indices, every labelled row is tested once.
    """
    parts = by_ratio(labels, groups, [1 / fold.k] * fold.k, seed)
    test = parts == fold.index
    if groups is None:  # unlabelled rows stay in training, whatever the fold
        test &= labels != ""
    assigned = np.full(len(labels), 2, np.int64)
    rest = np.flatnonzero(~test)
    inner = by_ratio(
        labels[rest], None if groups is None else groups[rest], [1 - validation, validation], seed + 1 + fold.index
    )
    assigned[rest] = inner
    return assigned


def _dealt(count: int, shares: np.ndarray) -> np.ndarray:
    """The part of each of ``count`` rows: each goes where most is still missing."""
    counts, out = np.zeros(len(shares)), np.empty(count, np.int64)
    for number in range(count):
        out[number] = chosen = int(np.argmax(shares * (number + 1) - counts))
        counts[chosen] += 1
    return out


def _whole_groups(labels: np.ndarray | None, groups: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """The part of each row, no group torn apart, sizes and classes as near to ``shares`` as some tries bring them.

    Large groups are dealt first, each to the part that lacks most of what it holds.
    """
    rng = np.random.default_rng(seed)
    names, place = np.unique(groups, return_inverse=True)
    classes = np.unique(labels[labels != ""]) if labels is not None else np.empty(0, str)
    # Of each group [1 + classes]: its rows, and those of each class; as shares of all, so that a rare class counts as much.
    held = np.zeros((len(names), 1 + len(classes)))
    held[:, 0] = np.bincount(place)
    for column, label in enumerate(classes, 1):
        held[:, column] = np.bincount(place[labels == label], minlength=len(names))
    held /= held.sum(axis=0)
    best, least = np.zeros(len(names), np.int64), np.inf
    for _ in range(int(np.clip(_DEALT // len(names), 3, _ATTEMPTS))):
        part, got = np.empty(len(names), np.int64), np.zeros((len(shares), held.shape[1]))
        for unit in np.argsort(-held[:, 0] * rng.uniform(0.5, 1.5, len(names))):
            lacking = got - shares[:, None]
            part[unit] = chosen = int(np.argmin(((lacking + held[unit]) ** 2 - lacking**2).sum(axis=1)))
            got[chosen] += held[unit]
        absent = (got[:, 1:] == 0).sum(axis=1)
        faults = (
            1e6 * (got[:, 0] == 0).sum()
            + 1e3 * absent[0]
            + 10 * absent[1:].sum()
            + ((got - shares[:, None]) ** 2).sum()
        )
        if faults < least:
            best, least = part, faults
    return best[place]
