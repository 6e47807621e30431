"""Precision against recall, and ROC: a label against all others at every threshold."""

from __future__ import annotations

from typing import Any

from mmedge.report.plots import FAINT, figure_and_axes, svg_of, tip
from mmedge.report.review import RankingRecord, ReviewRecord


def precision_recall(review: ReviewRecord) -> str:
    """A line a label, with its average precision."""
    figure, axes = figure_and_axes(4.6, 3.6)
    areas = {found.label: found.average_precision for found in review.labels or ()}
    for ranking in review.rankings or ():
        (line,) = axes.step(
            ranking.recall, ranking.precision, where="post", label=_named(ranking, areas), linewidth=1.4
        )
        tip(line, _named(ranking, areas))
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    return _finished(figure, axes)


def roc(review: ReviewRecord) -> str:
    """A line a label, with the area under it; the diagonal is chance."""
    figure, axes = figure_and_axes(4.6, 3.6)
    areas = {found.label: found.auc for found in review.labels or ()}
    for ranking in review.rankings or ():
        (line,) = axes.plot(
            ranking.false_positive_rate, ranking.true_positive_rate, label=_named(ranking, areas), linewidth=1.4
        )
        tip(line, _named(ranking, areas))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    return _finished(figure, axes)


def _named(ranking: RankingRecord, areas: dict[str, float | None]) -> str:
    area = areas.get(ranking.label)
    return ranking.label if area is None else f"{ranking.label}  {area:.3f}"


def _finished(figure: Any, axes: Any) -> str:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.legend(frameon=False, fontsize=7.5, loc="best")
    return svg_of(figure)
