"""Numbers: predicted against true, and what is left over."""

from __future__ import annotations

from mmedge.report.plots import FAINT, INK, figure_and_axes, svg_of
from mmedge.report.review import ScatterRecord


def predicted(scatter: ScatterRecord) -> str:
    """A dot a sample; on the diagonal the prediction is right."""
    figure, axes = figure_and_axes(4.6, 3.6)
    axes.scatter(scatter.target, scatter.predicted, s=9, alpha=0.5, linewidths=0)
    ends = [min(scatter.target + scatter.predicted), max(scatter.target + scatter.predicted)]
    axes.plot(ends, ends, color=FAINT, linewidth=1, linestyle="--")
    axes.set_xlabel("target")
    axes.set_ylabel("predicted")
    return svg_of(figure, zoom=axes)


def residuals(scatter: ScatterRecord) -> str:
    """Predicted minus target over the target: a slope is a bias that depends on it."""
    figure, axes = figure_and_axes(4.6, 3.6)
    left = [guess - true for guess, true in zip(scatter.predicted, scatter.target)]
    axes.scatter(scatter.target, left, s=9, alpha=0.5, linewidths=0)
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlabel("target")
    axes.set_ylabel("predicted − target")
    return svg_of(figure, zoom=axes)
