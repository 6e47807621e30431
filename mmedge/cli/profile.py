"""``mmedge profile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmedge.cli.common import framed, print_json, progress
from mmedge.errors import UsageError

if TYPE_CHECKING:
    from mmedge.profiling.record import ProfileRecord


@click.command(
    help="Time a bundle, an artifact or an ONNX file on this machine: percentiles, loading, memory, energy, layers by modality."
    " Models named with --against are timed in turn with it, so that ratios hold."
    "\n\n\b\nExamples:\n  mmedge profile runs/demo/bundle\n  mmedge profile runs/demo/bundle --against runs/demo/teacher --batch 1,8"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    help="One of the bundle's engines, here, or on a device: ssh://user@host:port/TARGET.  [default: onnxruntime-cpu]",
)
@click.option(
    "--ssh-option", "ssh_options", multiple=True, help="Passed to ssh, as --ssh-option=-i --ssh-option=KEY. Repeatable."
)
@click.option("--python", default="python3", show_default=True, help="The Python on the device that has mmedge.")
@click.option("--against", multiple=True, type=click.Path(path_type=Path), help="Another model to compare. Repeatable.")
@click.option("--batch", "batches", default="1", show_default=True, metavar="N[,N…]", help="Batch sizes.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--runs", type=click.IntRange(20), default=500, show_default=True, help="Timed runs of each.")
@click.option(
    "--idle", type=click.FloatRange(0), default=1.0, show_default=True, help="Seconds before an after-idle run."
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=N,N…",
    help="An input's shape without the batch, where it is dynamic.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for profile.json and plots.")
@framed
def profile(
    model: Path,
    target: str | None,
    ssh_options: tuple[str, ...],
    python: str,
    against: tuple[Path, ...],
    batches: str,
    threads: int,
    runs: int,
    idle: float,
    shapes: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    from mmedge.profiling.feeds import parsed_shapes
    from mmedge.profiling.profile import ProfileOptions, measured

    settings = ProfileOptions(
        target,
        _numbers(batches, "--batch"),
        threads,
        runs,
        idle_s=idle,
        shapes=parsed_shapes(shapes),
    )
    with progress() as display:
        if target and target.startswith("ssh:"):
            from mmedge.profiling import remote

            where = remote.device(target, options=ssh_options, python=python)
            record = remote.measured([model, *against], settings, where, display)
        else:
            record = measured([model, *against], settings, display)
    from mmedge.report.profiled import print_profile

    print_profile(record)
    if out:
        _write(record, out)
    if as_json:
        print_json(record.record())


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option} wants whole numbers of at least 1 with commas, not {text!r}")
    return numbers


def _write(record: ProfileRecord, out: Path) -> None:
    from mmedge.artifact import write_json
    from mmedge.errors import MissingDependency

    write_json(out / "profile.json", record.record())
    files = [out / "profile.json"]
    try:
        from mmedge.report.profile_plots import write_plots

        files += write_plots(record, out)
    except MissingDependency as error:
        click.echo(f"no plots: {error}", err=True)
    click.echo(f"profile: {', '.join(map(str, files))}", err=True)
