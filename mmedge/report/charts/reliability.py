"""Whether probabilities are what they say: confidence against the share that was right."""

from __future__ import annotations

from mmedge.report.plots import FAINT, figure_and_axes, svg_of, tip
from mmedge.report.review import ReliabilityRecord


def draw(reliability: ReliabilityRecord) -> str:
    """A bar a bin up to the share that was right; the diagonal is a model that is as sure as it should be."""
    figure, axes = figure_and_axes(4.6, 3.6)
    most = max(found.n for found in reliability.bins)
    for found in reliability.bins:
        width = max(found.high - found.low, 0.01)
        (bar,) = axes.bar(
            found.low, found.right, width=width, align="edge", color="C0", alpha=0.25 + 0.6 * found.n / most
        )
        tip(
            bar,
            f"{found.low:.2f} to {found.high:.2f}: {found.n} outputs, {found.confidence:.3f} sure, {found.right:.3f} right",
        )
        axes.plot(found.confidence, found.right, "o", color="C1", markersize=4)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"probability (dot: mean; ECE {reliability.ece:.3f})")
    axes.set_ylabel("share right (pale: few)")
    return svg_of(figure)
