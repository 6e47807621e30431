"""A linear model of the same inputs, trained in seconds: what a network must be better than to be worth its cost.

A text is its bag of words, a picture its pixels pooled to a coarse grid, a sound or a series mean and deviation of each
row over time, a table's columns are as they are. What is absent is zero, and a column says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.rows import Column
from mmedge.data.store.samples import Samples
from mmedge.measure.quality import Outputs
from mmedge.spec import ModalitySpec

# Training rows, the finest grid of a picture and values of an array that are looked at: more tells a linear model little,
# and costs the run's time. Of texts all words are, in sparse matrices, and all rows that the time allows.
_ROWS, _GRID, _VALUES = 4000, 8, 256
_ITERATIONS, _FEWEST_ITERATIONS = 200, 50
# What learning may cost, in products of a feature and a weight, and reading, in values of the training split: seconds each.
# A word costs as much as so many features, since its place is looked up.
_PRODUCTS, _READ, _WORD_COST = 10_000_000_000, 2_000_000_000, 5
# Rows that are learned from whatever that costs, and rows that are made features of at a time.
_FEWEST, _CHUNK = 500, 256
# The inverse of the penalty on what is standardized; and a word's step, at which words are penalized as by C = 1: standardized,
# the rare ones would be learnt by heart.
_C, _WORD = 0.1, 10**0.5

Features = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Effort:
    """What a linear model may cost: ``rows`` of the training split, and iterations over them."""

    rows: int
    iterations: int


def effort_of(contract: Contract, train: Samples) -> Effort:
    """How much of ``train`` is learned from: all, or as much as some seconds allow, so that it costs a run of any size little.

    Fewer iterations come first, since most models have converged by then, and then fewer rows.
    """
    texts = [name for name, spec in contract.modalities.items() if spec.dtype != "float32"]
    dense = {name: x for name, x in train.inputs.items() if name in contract.modalities and name not in texts}
    one = {name: np.asarray(x[:1]) for name, x in dense.items()}
    columns = sum(_of_kind(contract.modalities[name], dense[name])(x).shape[1] + 1 for name, x in one.items())
    words = sum(int(np.prod(train.inputs[name].shape[1:])) for name in texts)
    outputs = sum(tasks.of(head).width(head) for head in contract.heads.values())
    products = outputs * (columns + _WORD_COST * words)
    rows = len(train) if texts else min(len(train), _ROWS)
    rows = min(rows, max(_FEWEST, _READ // max(1, sum(x.size for x in one.values()))))
    iterations = int(np.clip(_PRODUCTS // max(1, rows * products), _FEWEST_ITERATIONS, _ITERATIONS))
    return Effort(min(rows, max(_FEWEST, _PRODUCTS // max(1, iterations * products))), iterations)


def linear_outputs(contract: Contract, train: Samples, seen: list[Samples], seed: int) -> list[Outputs]:
    """{head: float32 [n, W]} of each of ``seen``, as a network of this contract gives them, by a linear model a head.

    Logistic regression for labels, ridge regression for numbers, on standardized features of as many training rows as
    ``effort_of`` allows. A head without a label in training gets who always says the same.
    """
    from sklearn.preprocessing import StandardScaler

    features = {name: _of_kind(spec, train.inputs[name]) for name, spec in contract.modalities.items()}
    effort = effort_of(contract, train)
    scaler = StandardScaler().fit(
        _columns(contract, features, train, _some(np.arange(len(train)), effort.rows, seed))[0]
    )

    def columns_of(split: Samples, rows: np.ndarray) -> Any:
        dense, words = _columns(contract, features, split, rows)
        return _beside(scaler.transform(dense), words)

    matrices = [columns_of(split, np.arange(len(split))) for split in seen]
    found: list[dict[str, np.ndarray]] = [{} for _ in seen]
    for name, head in contract.heads.items():
        rows = _some(np.flatnonzero(train.known(name)), effort.rows, seed)
        if not len(rows):
            for outputs, split in zip(found, seen):
                outputs[name] = tasks.of(head).majority(train.targets[name], head, len(split))
            continue
        fitted = _fitted(columns_of(train, rows), train.targets[name][rows], head, effort.iterations)
        for outputs, matrix in zip(found, matrices):
            outputs[name] = fitted(matrix).astype(np.float32)
    return [dict(outputs) for outputs in found]


def majority_outputs(contract: Contract, telling: Samples, rows: int) -> Outputs:
    """{head: float32 [rows, W]} of who always says what is most frequent among the known targets of ``telling``."""
    return {name: tasks.of(head).majority(telling.targets[name], head, rows) for name, head in contract.heads.items()}


def in_words(contract: Contract) -> dict[str, str]:
    """{modality: what the linear model is given of it}."""
    words = {"text": "bag of words", "image": "pooled pixels", "tabular": "its columns", "array": "its values"}
    words |= {"points": "mean and deviation over its points", "video": "pooled pixels of its mean frame"}
    return {name: words.get(spec.kind, "mean and deviation over time") for name, spec in contract.modalities.items()}


def _some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _of_kind(spec: ModalitySpec, x: Column) -> Features:
    """What turns a modality's tensors [n, *shape] into columns [n, k], sparse ones of a text."""
    if spec.dtype != "float32":
        highest = max((int(x[k : k + _CHUNK].max(initial=0)) for k in range(0, len(x), _CHUNK)), default=0)
        return partial(_bag, highest + 1)  # a tokenizer of one's own has as many words as it has
    if spec.kind == "image":
        return _pooled
    if spec.kind == "video":
        return lambda x: _pooled(x.mean(axis=1))
    if spec.kind in ("tabular", "array") or len(spec.shape) < 2:
        return _values
    return _over_time


def _bag(words: int, x: np.ndarray) -> Any:
    """A step for each of the words that is there: how often tells of a short text nothing more."""
    from scipy.sparse import csr_array

    x = x.reshape(len(x), -1)
    row, place = np.nonzero(x < words)
    bag = csr_array((np.ones(len(row)), (row, x[row, place])), shape=(len(x), words))
    bag.sum_duplicates()
    bag.data[:] = _WORD
    return bag


def _pooled(x: np.ndarray) -> np.ndarray:
    rows, columns = (np.array_split(np.arange(size), min(_GRID, size)) for size in x.shape[2:4])
    cells = [x[:, :, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean(axis=(2, 3)) for r in rows for c in columns]
    return np.concatenate(cells, axis=1).astype(np.float64)


def _over_time(x: np.ndarray) -> np.ndarray:
    """Of [n, ..., rows, time]."""
    flat = x.reshape(len(x), -1, x.shape[-1]).astype(np.float64)
    return np.concatenate([flat.mean(axis=2), flat.std(axis=2)], axis=1)


def _values(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1).astype(np.float64)
    parts = np.array_split(np.arange(flat.shape[1]), min(_VALUES, flat.shape[1]))
    return np.stack([flat[:, part].mean(axis=1) for part in parts], axis=1)


def _columns(
    contract: Contract, features: Mapping[str, Features], samples: Samples, rows: np.ndarray
) -> tuple[np.ndarray, list[Any]]:
    """(float64 [rows, k] of all modalities beside each other and which are there, the sparse columns of texts)."""
    from scipy.sparse import diags_array

    dense, words = [], []
    for place, name in enumerate(samples.inputs):
        if name not in contract.modalities:
            continue
        there = samples.present[rows, place].astype(np.float64)
        dense.append(there[:, None])
        x = samples.inputs[name]
        if contract.modalities[name].dtype != "float32":
            words.append(diags_array(there) @ features[name](np.asarray(x[rows])))
        else:  # a split of pictures is larger than the memory
            parts = [features[name](np.asarray(x[rows[k : k + _CHUNK]])) for k in range(0, len(rows), _CHUNK)]
            dense.append(np.nan_to_num(np.concatenate(parts)) * there[:, None])
    return np.concatenate(dense, axis=1), words


def _beside(dense: np.ndarray, words: list[Any]) -> Any:
    if not words:
        return dense
    from scipy.sparse import csr_array, hstack

    return hstack([csr_array(dense), *words], format="csr")


def _fitted(x: Any, targets: np.ndarray, head: tasks.Head, iterations: int) -> Callable[[np.ndarray], np.ndarray]:
    """What gives a head's outputs [n, W] of features [n, k]."""
    from sklearn.linear_model import Ridge

    task = tasks.of(head)
    if not task.LABELS:
        y = targets.reshape(len(targets), -1)
        y = np.where(np.isnan(y), task.majority(targets, head, len(y)), y)
        ridge = Ridge(alpha=max(1.0, 0.01 * x.shape[0])).fit(x, y)
        return lambda given: np.asarray(ridge.predict(given)).reshape(-1, y.shape[1])
    if task.EXCLUSIVE:
        return _classes(x, targets, task.width(head), iterations)
    # Grades are above each of the thresholds or not.
    binary = targets > 0.5 if task.SEVERAL else targets[:, None] > np.arange(task.width(head))
    each = [_above(x, column, iterations) for column in binary.T]
    return lambda given: np.stack([above(given) for above in each], axis=1)


def _classes(x: Any, targets: np.ndarray, width: int, iterations: int) -> Callable[[np.ndarray], np.ndarray]:
    there = np.unique(targets)
    if len(there) == 1:
        return lambda given: np.tile(np.arange(width) == there[0], (given.shape[0], 1)).astype(np.float64)
    model = _logistic(iterations).fit(x, targets)

    def outputs(given: np.ndarray) -> np.ndarray:
        found = np.full((given.shape[0], width), -30.0)
        found[:, there] = model.predict_log_proba(given).clip(-30, 0)
        return found

    return outputs


def _above(x: Any, has: np.ndarray, iterations: int) -> Callable[[np.ndarray], np.ndarray]:
    if has.all() or not has.any():
        return lambda given: np.full(given.shape[0], 5.0 if has.all() else -5.0)
    model = _logistic(iterations).fit(x, has)
    return lambda given: np.asarray(model.decision_function(given))


def _logistic(iterations: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=_C, max_iter=iterations, tol=1e-3)
