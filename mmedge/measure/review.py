"""What a reviewer asks of a head's outputs: confusion, recall by label, calibration, ranking, scatter, disagreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.measure.classwise import bins_of, calibration_error
from mmedge.measure.intervals import of_figure, of_share
from mmedge.report.review import (
    BinRecord,
    ConfusedRecord,
    DisagreementRecord,
    LabelRecord,
    OpinionRecord,
    PairRecord,
    RankingRecord,
    ReliabilityRecord,
    ReviewRecord,
    ScatterRecord,
)
from mmedge.tasks import Head, labelwise

_POINTS, _CURVES, _SCATTERED = 50, 12, 1000
# Pairs of arrays that are kept, and their longest side.
_PAIRS, _SIDE = 4, 80


def review(contract: Contract, outputs: Mapping[str, np.ndarray], samples: Samples) -> dict[str, ReviewRecord]:
    """{head: its review} over the rows whose target is known. ``outputs``: {head: float [N, W]}, N as in ``samples``."""
    found = {}
    for name, head in contract.heads.items():
        known = np.flatnonzero(samples.known(name))
        if len(known):
            output, targets = outputs[name][known], samples.targets[name][known]
            found[name] = _of_head(head, output, targets, samples.groups[known], samples.split)
            if head.shape:
                found[name] = found[name].model_copy(update={"pairs": _pairs(head, output, targets, known)})
    return found


def _of_head(head: Head, output: np.ndarray, targets: np.ndarray, groups: np.ndarray, split: str) -> ReviewRecord:
    task = tasks.of(head)
    whole: dict[str, object] = {"split": split, "n": len(output)}
    if task.LABELS:
        has, given = _memberships(head, output, targets)
        p = task.probabilities(output.astype(np.float64))
        whole["labels"] = [_label(head, k, has[:, k], given[:, k], p[:, k], groups) for k in range(len(head.labels))]
        whole["rankings"] = _rankings(head, has, p)
        whole["reliability"] = (
            _reliability(p, has, given) if not task.SEVERAL else _reliability_of(p.ravel(), has.ravel())
        )
        if not task.SEVERAL:
            whole["confusion"] = _confusion(head, targets, task.chosen(output))
    elif task.UNIT and not head.values and not head.shape:
        whole["scatter"] = _scatter(targets, output[:, 0])
    elif head.values:
        each = zip(head.values, targets.T, output.T)
        whole["scatters"] = {name: _scatter(*pair) for name, *pair in each if not np.isnan(pair[0]).all()}
    return ReviewRecord(**whole)  # type: ignore[arg-type]


def _pairs(head: Head, output: np.ndarray, targets: np.ndarray, known: np.ndarray) -> list[PairRecord]:
    """Of some rows, from all over. ``output``, ``targets``: float [n, W]; ``known``: their rows in the split."""
    found = []
    for at in np.unique(np.linspace(0, len(known) - 1, min(_PAIRS, len(known))).round().astype(int)):
        pair = [x[at, : math.prod(head.shape)].reshape(head.shape[0], -1) for x in (targets, output)]
        there = ~np.isnan(pair[0][:, 0])
        thinned = [[short(frame) for frame in x[there][_steps(x[there], 0)][:, _steps(x, 1)]] for x in pair]
        found.append(PairRecord(row=int(known[at]) + 1, target=thinned[0], predicted=thinned[1]))
    return found


def _steps(x: np.ndarray, axis: int) -> np.ndarray:
    """At most so many places of an axis that a picture has room for."""
    return np.unique(np.linspace(0, x.shape[axis] - 1, min(_SIDE, x.shape[axis])).round().astype(int))


def _scatter(targets: np.ndarray, predicted: np.ndarray) -> ScatterRecord:
    """Of one value, over the rows that know it. ``targets``, ``predicted``: float [n]."""
    known = np.flatnonzero(~np.isnan(targets))
    rows = known[np.linspace(0, len(known) - 1, min(_SCATTERED, len(known))).round().astype(int)]
    return ScatterRecord(target=short(targets[rows]), predicted=short(predicted[rows]))


def _memberships(head: Head, output: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bool [n, labels]: who has each label; who was given it)."""
    task, index = tasks.of(head), np.arange(len(head.labels))
    if task.SEVERAL:
        return targets > 0.5, task.probabilities(output) > 0.5
    return targets[:, None] == index, task.chosen(output)[:, None] == index


def _label(head: Head, k: int, has: np.ndarray, given: np.ndarray, p: np.ndarray, groups: np.ndarray) -> LabelRecord:
    figures: dict[str, object] = {}
    for name, right, rows in (("recall", given, has), ("precision", has, given)):
        if rows.any():
            bounds = of_share(right[rows], groups[rows])
            figures |= {name: float(right[rows].mean()), f"{name}_ci95": (bounds.low, bounds.high)}
    if has.any() and not has.all():
        for name, area in (("average_precision", labelwise.average_precision), ("auc", labelwise.roc_auc)):
            found = of_figure(partial(_area, area, has, p), groups)
            figures |= {name: area(has, p), f"{name}_ci95": (found.low, found.high)}
    return LabelRecord(label=head.labels[k], n=int(has.sum()), **figures)  # type: ignore[arg-type]


def _area(area: Callable[[np.ndarray, np.ndarray], float], has: np.ndarray, p: np.ndarray, rows: np.ndarray) -> float:
    """Over some rows; NaN where all of them have the label, or none."""
    return area(has[rows], p[rows]) if has[rows].any() and not has[rows].all() else float("nan")


def _confusion(head: Head, targets: np.ndarray, chosen: np.ndarray) -> list[ConfusedRecord]:
    pairs, counts = np.unique(np.stack([targets, chosen]), axis=1, return_counts=True)
    labels = head.labels
    return [ConfusedRecord(target=labels[t], chosen=labels[c], n=int(n)) for (t, c), n in zip(pairs.T, counts)]


def _reliability(p: np.ndarray, has: np.ndarray, given: np.ndarray) -> ReliabilityRecord:
    """Of the one label that each row is given."""
    rows, chosen = np.arange(len(p)), given.argmax(axis=1)
    return _reliability_of(p[rows, chosen], has[rows, chosen])


def _reliability_of(p: np.ndarray, right: np.ndarray) -> ReliabilityRecord:
    p = p.astype(np.float64)
    place = bins_of(p)
    each = [(p[place == k], right[place == k]) for k in np.unique(place)]
    bins = [
        BinRecord(
            low=float(sure.min()),
            high=float(sure.max()),
            n=len(sure),
            confidence=float(sure.mean()),
            right=float(share.mean()),
        )
        for sure, share in each
    ]
    return ReliabilityRecord(ece=calibration_error(p, right, place, np.arange(len(p))), bins=bins)


def _rankings(head: Head, has: np.ndarray, p: np.ndarray) -> list[RankingRecord]:
    """Curves of the most frequent labels; of two classes that exclude each other one curve says all."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    able = [k for k in np.argsort(-has.sum(axis=0), kind="stable") if has[:, k].any() and not has[:, k].all()]
    if len(head.labels) == 2 and not tasks.of(head).SEVERAL:
        able = [k for k in able if k == 1]
    found = []
    for k in sorted(able[:_CURVES]):
        precision, recall, _ = precision_recall_curve(has[:, k], p[:, k])
        false, true, _ = roc_curve(has[:, k], p[:, k])
        curves = [*_thin(recall, precision), *_thin(false, true)]
        names = ("recall", "precision", "false_positive_rate", "true_positive_rate")
        found.append(RankingRecord(label=head.labels[k], **dict(zip(names, map(short, curves)))))
    return found


def _thin(*curves: np.ndarray) -> list[np.ndarray]:
    rows = np.unique(np.linspace(0, len(curves[0]) - 1, _POINTS).round().astype(int))
    return [curve[rows] for curve in curves]


def short(values: np.ndarray) -> list[float]:
    """Four figures, so that a report stays readable."""
    return [float(f"{value:.4g}") for value in values.tolist()]


def disagreements(
    contract: Contract, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], samples: Samples, most: int
) -> tuple[int, int, list[DisagreementRecord]]:
    """(right by the first alone, by the second alone, the ``most`` rows that differ most) over all heads.

    ``first`` and ``second``: {head: float [N, W]}. Rows that the first has right and the second wrong come first.
    """
    lost = won = 0
    found: list[tuple[bool, float, DisagreementRecord]] = []
    for name, head in contract.heads.items():
        known = np.flatnonzero(samples.known(name))
        if not len(known) or tasks.of(head).AMONG:
            continue
        targets, pair = samples.targets[name][known], (first[name][known], second[name][known])
        distance = _distance(head, *pair)
        right = [_right(head, output, targets) for output in pair]
        if right[0] is not None and right[1] is not None:
            lost += int((right[0] & ~right[1]).sum())
            won += int((right[1] & ~right[0]).sum())
        slipped = right[0] & ~right[1] if right[0] is not None and right[1] is not None else np.zeros(len(known), bool)
        for at in np.lexsort((-distance, ~slipped))[:most]:
            opinions = [
                _opinion(head, output[at], None if ok is None else bool(ok[at])) for output, ok in zip(pair, right)
            ]
            record = DisagreementRecord(
                row=int(known[at]) + 1,
                head=name,
                distance=float(distance[at]),
                target=named(head, targets[at]),
                first=opinions[0],
                second=opinions[1],
            )
            found.append((bool(slipped[at]), float(distance[at]), record))
    found.sort(key=lambda each: (not each[0], -each[1]))
    return lost, won, [record for _, _, record in found[:most]]


def _distance(head: Head, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float [n]: total variation of the probabilities (of labels that do not exclude each other, the largest difference)."""
    task = tasks.of(head)
    if task.CODES:
        return np.array([1 - task.same(ours[None], theirs[None]) for ours, theirs in zip(first, second)])
    if not task.CONFIDENCE:
        return task.errors(first, second, head)
    apart = np.abs(task.probabilities(first) - task.probabilities(second))
    return apart.max(axis=1) if task.SEVERAL else apart.sum(axis=1) / 2


def _right(head: Head, output: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
    task = tasks.of(head)
    if task.CODES:
        return np.array([task.score(ours[None], theirs[None], head) == 1 for ours, theirs in zip(output, targets)])
    if not task.LABELS:
        return None
    has, given = _memberships(head, output, targets)
    return np.asarray((has == given).all(axis=1))


def _opinion(head: Head, row: np.ndarray, right: bool | None) -> OpinionRecord:
    (prediction,) = tasks.of(head).predictions(row[None], head)
    told: dict[str, object] = {} if right is None else {"right": right}
    if prediction.label is not None:
        told["sure"] = float(prediction.probabilities[prediction.label])
    return OpinionRecord(given=given_words(head, row), **told)  # type: ignore[arg-type]


def given_words(head: Head, row: np.ndarray) -> str:
    """What one row of a head's outputs, float [W], says, in words."""
    (prediction,) = tasks.of(head).predictions(row[None], head)
    return prediction.words()


def named(head: Head, target: np.ndarray) -> str:
    """A target of one row in words."""
    task = tasks.of(head)
    if task.CODES:
        return given_words(head, np.concatenate([[0.0], target]))
    if not task.LABELS:
        return task.predictions(target.reshape(1, -1), head)[0].words()
    if task.SEVERAL:
        return ", ".join(label for label, has in zip(head.labels, target > 0.5) if has) or "none"
    return head.labels[int(target)]
