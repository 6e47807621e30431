"""The pictures of the report, as SVG text."""

from __future__ import annotations

import html
import io
import json
import re
from typing import Any

from mmedge.errors import MissingDependency
from mmedge.report.record import modality_subsets
from mmedge.report.schema import Report

# INK becomes the page's own colour, light or dark.
INK, FAINT = "#1f2933", "#9aa5b1"


def accuracy_against_latency(report: Report) -> str:
    """Every timed stage: median latency (logarithmic; bar to p95) against quality with its interval."""
    stages = [(s.stage, s.latency, s.quality) for s in report.stages if s.latency and s.quality]
    figure, axes = figure_and_axes(11.4, 4.2)
    xs: list[float] = []
    ys: list[float] = []
    for number, (name, latency, quality) in enumerate(stages):
        x, y = latency.p50_ms, quality.value
        low, high = quality.ci95
        axes.errorbar(
            x,
            y,
            xerr=[[0], [max(latency.p95_ms - x, 0)]],
            yerr=[[max(y - low, 0)], [max(high - y, 0)]],
            fmt="o",
            markersize=8,
            capsize=3,
            color=f"C{number}",
            label=f"{name}  {x:.3f} ms, {y:.3f}",
        )
        xs, ys = [*xs, x], [*ys, y]
    axes.plot(xs, ys, color=FAINT, linewidth=1, zorder=0)
    axes.set_xscale("log")
    millisecond_ticks(axes)
    axes.set_xlabel("latency, ms (dot: p50, bar to p95; logarithmic)")
    metric = stages[0][2].metric if stages else "quality"
    axes.set_ylabel(f"{metric} on the test split, 95 % interval")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.25, which="both")
    return svg_of(figure, zoom=axes)


def millisecond_ticks(axes: Any) -> None:
    """Name the ticks of a logarithmic axis by plain numbers, as many as have room."""
    low, high = axes.get_xlim()
    digits = "125" if high > 4 * low else "123456789"  # a short axis names every tick
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda value, _: f"{value:g}" if f"{value:e}"[0] in digits else "")


def subset_matrix(report: Report) -> str:
    """Quality of every subset of modalities at every stage: where a modality dies, a column turns dark."""
    stages = [(s.stage, s.subsets, s.subsets_ci95) for s in report.stages if s.subsets]
    names = modality_subsets(report)
    figure, axes = figure_and_axes(max(5.0, 1.5 + 1.25 * len(stages)), 1.4 + 0.55 * len(names))
    values = [[subsets.get(name) for _, subsets, _ in stages] for name in names]
    numbers = [[float("nan") if value is None else value for value in row] for row in values]
    worst = min((v for row in values for v in row if v is not None), default=0) - 0.15
    axes.imshow(numbers, aspect="auto", cmap="YlGnBu", vmin=worst, vmax=1)
    for row, of_subset in enumerate(values):
        for column, value in enumerate(of_subset):
            ends = (stages[column][2] or {}).get(names[row])
            axes.text(
                column,
                row,
                "—" if value is None else f"{value:.3f}" + (f"\n{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""),
                ha="center",
                va="center",
                color="white"
                if value is not None and value > (1 + worst) / 2
                else "#1f2934",  # on a light field in a dark page too
                fontsize=9,
            )
    axes.set_xticks(range(len(stages)), [stage.replace("export-", "export\n") for stage, *_ in stages])
    axes.set_yticks(range(len(names)), [name.replace("+", " + ") for name in names])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return svg_of(figure)


def gains(report: Report) -> str:
    """What the student has with and without its teacher, seed by seed, and the gain with its interval: a row a control."""
    controls = report.controls
    figure, (figures, differences) = figure_and_axes(9.2, 1.5 + 0.55 * len(controls), columns=2)
    for row, control in enumerate(controls):
        for colour, values in ((FAINT, control.control_by_seed), ("C0", control.distilled_by_seed)):
            figures.plot(values, [row] * len(values), "|", color=colour, markersize=14)
        ends = [sum(values) / control.seeds for values in (control.control_by_seed, control.distilled_by_seed)]
        figures.plot(ends, [row, row], color=FAINT, linewidth=1, zorder=0)
        for colour, value, name, above in zip((FAINT, "C0"), ends, ("control", "distilled student"), (-18, 9)):
            figures.plot(value, row, "o", color=colour, markersize=9, label=name if row == 0 else None)
            figures.annotate(f"{value:.3f}", (value, row), (0, above), textcoords="offset points", ha="center")
        low, high = control.gain_ci95
        differences.plot([low, high], [row, row], color="C0", linewidth=3, solid_capstyle="butt")
        differences.plot(control.gain, row, "o", color="C0", markersize=9)
        told = f"{control.gain:+.3f} [{low:+.3f}, {high:+.3f}]"
        differences.annotate(told, (control.gain, row), xytext=(0, 9), textcoords="offset points", ha="center")
    teacher = next((stage.quality for stage in report.stages if stage.parent is None and stage.quality), None)
    if teacher:
        figures.axvline(teacher.value, color="C1", linewidth=1, linestyle="--", label=f"teacher {teacher.value:.3f}")
    differences.axvline(0, color=INK, linewidth=1)
    figures.set_yticks(range(len(controls)), [control.name for control in controls])
    figures.set_ylim(len(controls) - 0.4, -0.6)  # the first on top
    figures.set_xlabel(f"{controls[0].quality.metric} on the test split (ticks: seeds)")
    differences.set_xlabel("gain of the distilled student, 95 % interval")
    figures.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    for each in (figures, differences):
        each.margins(x=0.2)
        each.locator_params(axis="x", nbins=5)
        each.grid(alpha=0.25, axis="x")
    return svg_of(figure)


def learning_curves(report: Report) -> str:
    """Every training that led to a stage, an epoch a point: its score on validation with the kept epoch, and its loss."""
    figure, axes = figure_and_axes(8.2, 4.6, rows=2)
    for number, (name, learning) in enumerate((s.stage, s.learning) for s in report.stages if s.learning):
        colour, epochs = f"C{number}", range(1, len(learning.loss) + 1)
        kept = max(epochs, key=lambda epoch: (learning.selection[epoch - 1], epoch))
        axes[0].plot(epochs, learning.selection, color=colour, label=name)
        axes[0].plot(kept, learning.selection[kept - 1], "o", color=colour, markersize=6)
        axes[1].plot(epochs, learning.loss, color=colour)
    axes[0].set_ylabel("validation score\n(all and subsets)")
    axes[1].set_ylabel("training loss")
    axes[1].set_yscale("log")
    axes[1].set_xlabel("epoch (dot: kept)")
    axes[0].legend(frameon=False, fontsize=9, loc="best")
    for each in axes:
        each.grid(alpha=0.25)
    return svg_of(figure)


def figure_and_axes(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure of inches with one axes, or an array of ``rows`` below or ``columns`` beside one another.

    Raises MissingDependency where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "the report's pictures need matplotlib, which is not installed", todo="pip install 'mmedge[toolchain]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=columns == 1, sharey=rows == 1)
    for each in figure.axes:
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
    return figure, axes


def tip(artist: Any, text: str) -> None:
    """What the page shows where a pointer rests on a part of a picture, or a finger."""
    artist.set_gid(_TIP + "".join(f"{byte:02x}" for byte in text.encode()))


_TIP = "tip-"
_TIPPED = re.compile(f'<g id="{_TIP}([0-9a-f]*)">')


def svg_of(figure: Any, zoom: Any = None) -> str:
    """The figure as SVG text, the same for the same figure; black is the page's own colour.

    ``zoom``: the axes that the page's script may look into more closely.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    # Text stays text, so that the page is searchable; no date, so that the same report gives the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmedge", "font.family": "sans-serif"}):
        # Laid out and written here, since ``savefig`` draws everything once more before it writes.
        canvas = FigureCanvasSVG(figure)
        for part in (figure, *figure.axes):
            part.patch.set_visible(False)
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine("none")
        canvas.print_svg(text, metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = _TIPPED.sub(lambda at: f'<g class="tip"><title>{html.escape(bytes.fromhex(at[1]).decode())}</title>', svg)
    for black in ("#000000", INK):
        svg = svg.replace(black, "currentColor")
    return svg if zoom is None else svg.replace("<svg ", f"<svg data-zoom='{json.dumps(_zoomed(figure, zoom))}' ", 1)


def _zoomed(figure: Any, axes: Any) -> dict[str, object]:
    """``box``: where the axes lie in the drawing, left, top, right, bottom in points; ``x`` and ``y``: what they span."""
    (left, bottom), (right, top) = 72 / figure.dpi * axes.get_window_extent().get_points()
    height = 72 * figure.get_figheight()
    scales = {name: (getattr(axes, f"get_{name}lim")(), getattr(axes, f"get_{name}scale")()) for name in "xy"}
    spans = {
        name: {"log": scale == "log", "low": float(low), "high": float(high)}
        for name, ((low, high), scale) in scales.items()
    }
    return {"box": [round(float(v), 3) for v in (left, height - top, right, height - bottom)], **spans}
