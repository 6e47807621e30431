"""What each modality contributes, of every label."""

from __future__ import annotations

from mmedge.report.plots import INK, figure_and_axes, svg_of, tip
from mmedge.report.review import ContributionsRecord


def draw(found: ContributionsRecord) -> str:
    """Bars of the mean Shapley value: all samples first, then those of each label (at most 20)."""
    labels = list((found.labels or {}).items())[:20]
    rows: list[tuple[str, dict[str, float]]] = [("all", {s.modality: s.shapley for s in found.modalities}), *labels]
    figure, axes = figure_and_axes(8.2, 1.0 + 0.3 * len(rows))
    names = [share.modality for share in found.modalities]
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        for row, (label, shares) in enumerate(rows):
            (bar,) = axes.barh(row + (number + 0.5) * height - 0.4, shares[name], height=height, color=f"C{number}")
            tip(bar, f"{label}: {name} {shares[name]:+.3f}")
        axes.barh(0, 0, color=f"C{number}", label=name)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("Shapley value: gain of the score of a sample's target")
    axes.legend(frameon=False, fontsize=9, loc="best")
    return svg_of(figure)
