"""The page's sections for a reviewer: which pictures of which head, and the cells of the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmedge.frozen import Record
from mmedge.report.charts import contribution, frontier, pairs, ranking, reliability, scatter
from mmedge.report.review import ContributionsRecord, ReviewRecord
from mmedge.report.schema import Report

# A matrix of more labels is no picture any more: then only the pairs that are confused most.
_MATRIX, _PAIRS = 40, 20
# Of several numbers so many are drawn.
_VALUES = 6
# draw(record) -> SVG, kept where it was drawn before.
Picture = Callable[[Callable[[Any], str], Record], str]


@dataclass(frozen=True)
class Reviewed:
    """A head of a stage. ``pictures``: [(caption, SVG)]; ``matrix``: rows of (count, share of the row) by target."""

    stage: str
    head: str
    review: ReviewRecord
    pictures: list[tuple[str, str]]
    matrix: list[tuple[str, list[tuple[int, float]]]]
    pairs: list[tuple[str, str, int, float]]


def reviewed(report: Report, picture: Picture) -> list[Reviewed]:
    """What ships first, then the teacher; each head of it."""
    return [
        Reviewed(stage.stage, head, review, _pictures(review, picture), _matrix(review), _pairs(review))
        for stage in reversed(report.stages)
        for head, review in (stage.review or {}).items()
    ]


def contributed(report: Report, picture: Picture) -> list[tuple[ContributionsRecord, str]]:
    """A head of what ships, with its picture."""
    return [(found, picture(contribution.draw, found)) for found in report.contributions or ()]


def frontier_of(report: Report, picture: Picture) -> dict[str, object]:
    """``points``, and their picture; nothing where fewer than two candidates have all three figures."""
    points = frontier.points(report)
    return {"points": points, "picture": picture(frontier.draw, report)} if len(points) > 1 else {}


def _pictures(review: ReviewRecord, picture: Picture) -> list[tuple[str, str]]:
    found = []
    if review.reliability:
        found.append(("Calibration", picture(reliability.draw, review.reliability)))
    if review.rankings:
        found.append(("Precision and recall", picture(ranking.precision_recall, review)))
        found.append(("ROC", picture(ranking.roc, review)))
    found += [(f"Target and prediction, row {pair.row}", picture(pairs.draw, pair)) for pair in review.pairs or ()]
    scatters = {"": review.scatter} if review.scatter else review.scatters or {}
    for value, dots in list(scatters.items())[:_VALUES]:
        of = f": {value}" if value else ""
        found.append((f"Predicted and true{of}", picture(scatter.predicted, dots)))
        found.append((f"What is left over{of}", picture(scatter.residuals, dots)))
    return found


def _matrix(review: ReviewRecord) -> list[tuple[str, list[tuple[int, float]]]]:
    labels = [found.label for found in review.labels or ()]
    if review.confusion is None or len(labels) > _MATRIX:
        return []
    counts = {(cell.target, cell.chosen): cell.n for cell in review.confusion}
    totals = {found.label: max(1, found.n) for found in review.labels or ()}
    return [
        (target, [(n := counts.get((target, chosen), 0), n / totals[target]) for chosen in labels]) for target in labels
    ]


def _pairs(review: ReviewRecord) -> list[tuple[str, str, int, float]]:
    """(target, given, samples, share of the target's) that are confused most, where there is no matrix."""
    labels = {found.label: found.n for found in review.labels or ()}
    if review.confusion is None or len(labels) <= _MATRIX:
        return []
    wrong = sorted((cell for cell in review.confusion if cell.target != cell.chosen), key=lambda cell: -cell.n)
    return [(cell.target, cell.chosen, cell.n, cell.n / labels[cell.target]) for cell in wrong[:_PAIRS]]
