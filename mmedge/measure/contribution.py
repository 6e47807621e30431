"""What each modality contributes: exact Shapley values over the subsets of modalities, which the present mask gives for nothing.

Shapley 1953, "A value for n-person games"; as an explanation of models Lundberg & Lee 2017, "A unified approach to
interpreting model predictions". Nothing is sampled and no background is needed: the model knows what absent means.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, combinations
from math import factorial

import numpy as np

from mmedge import tasks
from mmedge.data.store.samples import Samples
from mmedge.measure.intervals import of_figure
from mmedge.measure.quality import Predict
from mmedge.report.review import ContributionsRecord, ShareRecord
from mmedge.tasks import Head

# 2 ** MOST subsets are computed.
MOST = 8
# Labels whose values have an interval, and are drawn.
LABELS = 20
Coalition = frozenset[int]


def coalition_outputs(samples: Samples, predict: Predict) -> dict[Coalition, Mapping[str, np.ndarray]]:
    """{modalities, by number: outputs {head: float [N, W]}} of every subset but the empty one. All rows have all modalities."""
    count = samples.present.shape[1]
    every = chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1))
    return {
        frozenset(chosen): predict(np.tile(np.isin(np.arange(count), chosen), (len(samples), 1))) for chosen in every
    }


def scores(head: Head, output: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float [n]: how well each row's output, float [n, W], meets its target: see ContributionsRecord."""
    task = tasks.of(head)
    if not task.LABELS:
        return -task.errors(output, targets, head)
    return _of_probabilities(head, task.probabilities(output), targets)


def constant_scores(head: Head, targets: np.ndarray) -> np.ndarray:
    """float [n]: the same of a model that is given nothing, and says what is so on average."""
    task = tasks.of(head)
    if not task.LABELS:
        return -task.errors(task.majority(targets, head, len(targets)), targets, head)
    has = targets > 0.5 if task.SEVERAL else targets[:, None] == np.arange(len(head.labels))
    return _of_probabilities(head, np.tile(has.mean(axis=0), (len(targets), 1)), targets)


def _of_probabilities(head: Head, p: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if tasks.of(head).SEVERAL:
        return np.asarray(np.where(targets > 0.5, p, 1 - p).mean(axis=1))
    return np.asarray(p[np.arange(len(p)), targets.astype(int)])


def shapley(values: Mapping[Coalition, np.ndarray], count: int) -> np.ndarray:
    """float [n, count]: each player's value a row, of the rows' values [n] of every coalition, the empty one among them."""
    found = np.zeros((len(values[frozenset()]), count))
    for coalition, value in values.items():
        size = len(coalition)
        for player in range(count):
            if player in coalition:
                weight = factorial(size - 1) * factorial(count - size) / factorial(count)
                found[:, player] += weight * (value - values[coalition - {player}])
    return found


def values_of(
    head: Head, name: str, outputs: Mapping[Coalition, Mapping[str, np.ndarray]], targets: np.ndarray, rows: np.ndarray
) -> dict[Coalition, np.ndarray]:
    """{coalition: the scores [n] of some rows}, the empty one among them. ``targets``: of these rows."""
    found = {coalition: scores(head, given[name][rows], targets) for coalition, given in outputs.items()}
    return {frozenset(): constant_scores(head, targets), **found}


def contributions(stage: str, samples: Samples, predict: Predict) -> list[ContributionsRecord]:
    """A record a head whose target some sample that has every modality knows; none for one modality or more than ``MOST``."""
    names = list(samples.inputs)
    if not 1 < len(names) <= MOST:
        return []
    samples = samples.taken(np.flatnonzero(samples.present.all(axis=1) & samples.labelled))
    if not len(samples):
        return []
    outputs, found, all_of = coalition_outputs(samples, predict), [], frozenset(range(len(names)))
    for name, head in samples.heads.items():
        rows = np.flatnonzero(samples.known(name))
        if not len(rows) or name not in outputs[all_of] or not tasks.row_by_row(head):
            continue
        targets, groups = samples.targets[name][rows], samples.groups[rows]
        values = values_of(head, name, outputs, targets, rows)
        parts = shapley(values, len(names))
        shares = []
        for k, (modality, part) in enumerate(zip(names, parts.T)):
            alone = values[frozenset({k})] - values[frozenset()]
            ablation = values[all_of] - values[all_of - {k}]
            figures = {"shapley": part, "alone": alone, "ablation": ablation}
            means: dict[str, object] = {figure: float(x.mean()) for figure, x in figures.items()}
            means |= {f"{figure}_ci95": _mean_interval(x, groups) for figure, x in figures.items()}
            shares.append(ShareRecord(modality=modality, **means))  # type: ignore[arg-type]
        whole = {"nothing": float(values[frozenset()].mean()), "whole": float(values[all_of].mean())}
        record = ContributionsRecord(stage=stage, head=name, n=len(rows), **whole, modalities=shares)
        found.append(record.model_copy(update=_by_label(head, parts, targets, groups, names)))
    return found


def _mean_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    found = of_figure(lambda rows: float(values[rows].mean()), groups, "difference")
    return found.low, found.high


def _by_label(
    head: Head, parts: np.ndarray, targets: np.ndarray, groups: np.ndarray, names: list[str]
) -> dict[str, object]:
    """The labels' fields of ContributionsRecord: each label's mean over the rows that have it."""
    task = tasks.of(head)
    if not task.LABELS:
        return {}
    has = targets > 0.5 if task.SEVERAL else targets[:, None] == np.arange(len(head.labels))
    rows = {label: np.flatnonzero(has[:, k]) for k, label in enumerate(head.labels) if has[:, k].any()}
    frequent = sorted(rows, key=lambda label: -len(rows[label]))[:LABELS]
    return {
        "labels": {label: dict(zip(names, parts[of].mean(axis=0).tolist())) for label, of in rows.items()},
        "labels_n": {label: len(of) for label, of in rows.items()},
        "labels_ci95": {
            label: {name: _mean_interval(parts[rows[label], k], groups[rows[label]]) for k, name in enumerate(names)}
            for label in frequent
        },
    }
