"""Features of samples in two dimensions, coloured by label."""

from __future__ import annotations

from collections import Counter

from mmedge.report.explained import EmbeddingRecord
from mmedge.report.plots import FAINT, figure_and_axes, svg_of, tip

# More labels than that have no colours of their own.
_LABELS = 20
OTHER = "other labels"


def draw(found: EmbeddingRecord) -> str:
    """A dot a sample; near ones have alike features, distances of far ones say little (t-SNE)."""
    figure, axes = figure_and_axes(4.6, 3.8)
    most = [label for label, _ in Counter(found.labels).most_common(_LABELS)]
    labels = sorted(set(most)) + [OTHER] * (len(set(found.labels)) > len(most))
    of_row = [label if label in most else OTHER for label in found.labels]
    for number, label in enumerate(labels):
        rows = [row for row, own in enumerate(of_row) if own == label]
        (dots,) = axes.plot(
            [found.x[row] for row in rows], [found.y[row] for row in rows], "o", markersize=4, alpha=0.8, label=label,
            color=FAINT if label == OTHER else f"C{number % 10}", fillstyle="full" if number < 10 else "none",
        )  # fmt: skip
        tip(dots, label)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg_of(figure, zoom=axes)
