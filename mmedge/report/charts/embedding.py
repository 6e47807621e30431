"""Features of samples in two dimensions, coloured by label."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mmedge.report.explained import EmbeddingRecord
from mmedge.report.plots import FAINT, figure_and_axes, svg_of, tip

# More labels than that have no colours of their own.
_LABELS = 20
OTHER = "other labels"
# What a sample without a target has for a label.
UNKNOWN = "?"


def draw(found: EmbeddingRecord) -> str:
    """A dot a sample; near ones have alike features, distances of far ones say little (t-SNE)."""
    figure, axes = figure_and_axes(4.6, 3.8)
    axes.set_xticks([])
    axes.set_yticks([])
    if found.alike is None:
        _by_value(found, figure, axes)
    else:
        _by_label(found, axes)
    return svg_of(figure, zoom=axes)


def _by_value(found: EmbeddingRecord, figure: Any, axes: Any) -> None:
    """Numbers in place of labels: light is more. Several a sample have no colour."""
    known = [row for row, value in enumerate(found.labels) if _is_number(value)]
    if not known:
        axes.plot(found.x, found.y, "o", markersize=4, alpha=0.8)
        return
    values = [float(found.labels[row]) for row in known]
    dots = axes.scatter([found.x[row] for row in known], [found.y[row] for row in known], c=values, s=16)
    figure.colorbar(dots, ax=axes, label="target")


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _by_label(found: EmbeddingRecord, axes: Any) -> None:
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
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
