"""The picture of what each layer loses in INT8, as SVG text."""

from __future__ import annotations

from mmedge.report.plots import figure_and_axes, svg_of
from mmedge.report.schema import SensitivityRecord

# Errors below this are drawn there: a logarithmic axis has no zero.
_LEAST = 1e-7


def sensitivity(measured: SensitivityRecord) -> str:
    """The error of the outputs where one layer alone is quantized, and one branch; layers that stayed FP32 are hollow."""
    groups, branches = measured.groups, measured.branches
    colours = {branch: f"C{index}" for index, branch in enumerate(branches)}
    rows = [(group.label, group.error, group.branch, group.fp32) for group in groups]
    rows += [(f"all of {branch}", error, branch, False) for branch, error in branches.items()]
    figure, axes = figure_and_axes(8.2, 1.2 + 0.24 * len(rows))
    for place, (_, error, branch, back) in enumerate(rows):
        width = max(error, _LEAST)
        face = "none" if back else colours[branch]
        axes.barh(
            place, width, color=face, edgecolor=colours[branch], height=0.7, alpha=1.0 if place < len(groups) else 0.5
        )
    axes.axhline(len(groups) - 0.5, color="#9aa5b1", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(left=_LEAST)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("error of the outputs, it alone in INT8 (hollow: taken back to FP32)")
    for branch, colour in colours.items():
        axes.barh(0, 0, color=colour, label=branch)
    if colours:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.25, axis="x")
    return svg_of(figure)
