"""What each modality contributes, of every label."""

from __future__ import annotations

from mmedge.report import Interval
from mmedge.report.plots import INK, figure_and_axes, svg_of, tip
from mmedge.report.review import ContributionsRecord

_LABELS = 20


def draw(found: ContributionsRecord) -> str:
    """Bars of the mean Shapley value with its 95 % interval: all samples first, then those of each label (at most 20)."""
    rows: list[tuple[str, dict[str, tuple[float, Interval | None]]]] = [
        (f"all (n = {found.n})", {share.modality: (share.shapley, share.shapley_ci95) for share in found.modalities}),
        *_labels(found),
    ]
    figure, axes = figure_and_axes(8.2, 1.0 + 0.3 * len(rows))
    names = [share.modality for share in found.modalities]
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        for row, (label, shares) in enumerate(rows):
            (mean, ends), at = shares[name], row + (number + 0.5) * height - 0.4
            (bar,) = axes.barh(at, mean, height=height, color=f"C{number}")
            tip(bar, f"{label}: {name} {mean:+.3f}" + (f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else ""))
            if ends:
                axes.plot(ends, [at, at], color=INK, linewidth=1)
        axes.barh(0, 0, color=f"C{number}", label=name)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("Shapley value: gain of the score of a sample's target")
    axes.legend(frameon=False, fontsize=9, loc="best")
    return svg_of(figure)


def _labels(found: ContributionsRecord) -> list[tuple[str, dict[str, tuple[float, Interval | None]]]]:
    """The labels that have intervals; the first ones, of a report from before those."""
    means, ends, counts = found.labels or {}, found.labels_ci95 or {}, found.labels_n or {}
    shown = [label for label in means if label in ends or not ends][:_LABELS]
    return [
        (
            f"{label} ({counts[label]})" if label in counts else label,
            {name: (mean, ends[label][name] if ends else None) for name, mean in means[label].items()},
        )
        for label in shown
    ]
