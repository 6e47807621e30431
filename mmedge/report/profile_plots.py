"""The pictures of a profile, as SVG files: how latency is spread, how it went in time, and which branch it goes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmedge.profiling.record import ProfileRecord
from mmedge.report.plots import figure_and_axes, svg_of


def write_plots(profile: ProfileRecord, out: Path) -> list[Path]:
    """Write histogram.svg, timeline.svg and, where layers were profiled, branches.svg. Raises MissingDependency without matplotlib."""
    drawn = {"histogram": _histogram(profile), "timeline": _timeline(profile)}
    if any(model.branches for model in profile.models):
        drawn["branches"] = _branches(profile)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in drawn.items():
        files.append(out / f"{name}.svg")
        files[-1].write_text(text, encoding="utf-8")
    return files


def _spans_ms(profile: ProfileRecord) -> list[tuple[str, np.ndarray]]:
    return [
        (f"{number}: batch {entry.batch}", np.asarray(entry.spans_us) / 1000)
        for number, model in enumerate(profile.models, 1)
        for entry in model.batches
    ]


def _histogram(profile: ProfileRecord) -> str:
    figure, axes = figure_and_axes(8.2, 3.6)
    for label, spans in _spans_ms(profile):
        axes.hist(
            spans,
            bins=np.geomspace(spans.min(), max(spans.max(), spans.min() * 1.01), 80),
            histtype="step",
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xlabel("latency, ms (logarithmic)")
    axes.set_ylabel("runs")
    axes.legend(frameon=False, fontsize=9)
    return svg_of(figure)


def _timeline(profile: ProfileRecord) -> str:
    figure, axes = figure_and_axes(8.2, 3.6)
    for label, spans in _spans_ms(profile):
        axes.plot(spans, ".", markersize=2, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("round")
    axes.set_ylabel("latency, ms (logarithmic)")
    axes.legend(frameon=False, fontsize=9, markerscale=4)
    return svg_of(figure)


def _branches(profile: ProfileRecord) -> str:
    models = [(number, model.branches) for number, model in enumerate(profile.models, 1) if model.branches]
    figure, axes = figure_and_axes(8.2, 1.2 + 0.5 * len(models))
    names = sorted({name for _, branches in models for name in branches})
    left = np.zeros(len(models))
    for name in names:
        shares = np.array([branches.get(name, 0.0) for _, branches in models])
        axes.barh([str(number) for number, _ in models], shares, left=left, label=name)
        left += shares
    axes.invert_yaxis()
    axes.set_xlabel("share of the time by layer")
    axes.legend(frameon=False, fontsize=9, ncols=len(names))
    return svg_of(figure)
