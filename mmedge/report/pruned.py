"""What pruning measured of each branch: rows for tables, and the picture, as SVG text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmedge.report.plots import figure_and_axes, svg_of
from mmedge.report.pruning import OptionRecord, PruningRecord


@dataclass(frozen=True)
class Row:
    """A branch narrowed alone by an option, and whether that one was ``chosen``."""

    branch: str
    option: OptionRecord
    chosen: bool


def rows(pruning: PruningRecord) -> list[Row]:
    """One row an option."""
    return [
        Row(branch.branch, option, option.ratio == branch.ratio)
        for branch in pruning.branches
        for option in branch.options
    ]


def print_pruning(console: Any, pruning: PruningRecord) -> None:
    """The table that led to the choice, on a rich console; nothing where all branches had one ratio."""
    found = rows(pruning)
    if not found:
        return
    from rich.table import Table

    table = Table(
        title="branches narrowed one at a time, shares of the parent's (validation, after a few steps of recovery)"
    )
    for heading in ("branch", "removed", "MACs", "latency", "score", "worst subset", "taken"):
        table.add_column(heading, justify="left" if heading == "branch" else "right", no_wrap=True)
    before = pruning.parent.subsets
    for row in found:
        option = row.option
        drops = {name: value - before[name] for name, value in option.subsets.items() if name in before}
        worst = min(drops, key=lambda name: drops[name], default="")
        table.add_row(
            row.branch,
            f"{option.ratio:.0%}",
            f"{option.left['macs']:.2f}",
            f"{option.left['latency']:.2f}",
            f"{option.quality:.3f}",
            f"{worst} {drops[worst]:+.3f}" if worst else "",
            "yes" if row.chosen else "",
        )
    console.print(table)


def curves(pruning: PruningRecord) -> str:
    """Above: the validation score that each branch loses by the share removed; below: the latency left. Rings: taken."""
    figure, axes = figure_and_axes(8.2, 5.6, rows=2)
    branches = [branch for branch in pruning.branches if branch.options]
    for number, branch in enumerate(branches):
        options = sorted(branch.options, key=lambda option: option.ratio)
        xs = [0.0, *(100 * option.ratio for option in options)]
        for panel, ys in zip(
            axes,
            ([0.0, *(option.loss for option in options)], [1.0, *(option.left["latency"] for option in options)]),
        ):
            panel.plot(xs, ys, "o-", color=f"C{number}", markersize=4, label=branch.branch)
            taken = 100 * branch.ratio
            if taken in xs:
                panel.plot(taken, ys[xs.index(taken)], "o", color=f"C{number}", markersize=12, fillstyle="none")
    axes[0].set_ylabel("validation score lost\n(all and subsets)")
    axes[0].axhline(0, color="#9aa5b1", linewidth=1, zorder=0)
    axes[1].set_ylabel("share of the parent's\nlatency that is left")
    axes[1].set_xlabel("share of the branch's channels removed, % (ring: taken)")
    axes[0].legend(frameon=False, fontsize=9, loc="best")
    for panel in axes:
        panel.grid(alpha=0.25)
    return svg_of(figure)
