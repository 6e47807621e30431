"""``run`` and the verbs of its stages: the same call, for all stages or for one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmedge.cli.common import code_option, framed, out_option, print_json, progress, set_option, start_option, typed
from mmedge.cli.launch import devices_option, launch
from mmedge.errors import UsageError
from mmedge.progress import Silent
from mmedge.training.loop import processes

if TYPE_CHECKING:  # a verb that shows no report waits for none
    from mmedge.pipeline.stages import Stage
    from mmedge.recipe import Recipe
    from mmedge.report.schema import Report


@dataclass(frozen=True)
class RunOptions:
    """What a verb that runs stages takes."""

    recipe: Path
    out: Path | None = None
    start: Path | None = None
    overrides: tuple[str, ...] = ()
    devices: int = 1


def run_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of a verb that runs stages, which it gets as RunOptions."""

    @click.argument("recipe", type=click.Path(path_type=Path))
    @out_option()
    @start_option
    @set_option
    @code_option
    @devices_option
    @functools.wraps(command)
    def wrapper(recipe: Path, out: Path, start: Path, overrides: tuple[str, ...], devices: int, **more: Any) -> int:
        return command(RunOptions(recipe, out, start, overrides, devices), **more)

    return wrapper


def stage_verb(row: Stage) -> click.Command:
    """The command of a stage."""

    @click.command(
        row.verb,
        help=f"{row.help}\n\nRECIPE is a recipe file, or the artifact of an earlier stage, whose recipe is then used."
        f"\n\n\b\nExample:\n  mmedge {row.verb} recipes/avdigits.yaml --out runs/demo",
    )
    @run_options
    @framed
    def command(options: RunOptions, as_json: bool) -> int:
        return run_stage(options, row.name, as_json)

    return command


def run_stage(options: RunOptions, only: str | None, as_json: bool) -> int:
    """``run_stages``, in as many processes as the options say; returns the exit code."""
    if options.devices > 1 and not processes.launched():
        return launch(options.devices)
    return run_stages(options, only, as_json)[0]


@click.command(
    help="Run every stage of a recipe: teacher, distill, prune, quantize, export, measure, judge. What is unchanged is taken from OUT."
    "\n\nRECIPE is a recipe file, or the artifact of an earlier stage or the report.json of a run, whose recipe is then used."
    "\n\n\b\nExamples:\n  mmedge run recipes/avdigits.yaml --out runs/demo\n  mmedge run runs/demo/report.json --out runs/again\n  mmedge run recipe.yaml --set 'data.fold={k: 5, index: 0}' --folds all"
)
@run_options
@click.option(
    "--folds",
    type=click.Choice(["all"]),
    help="Run every fold of data.fold, each into OUT/fold-N, and tell means with intervals.",
)
@framed
def run(options: RunOptions, folds: str | None, as_json: bool) -> int:
    if folds is None:
        return run_stage(options, None, as_json)
    if options.start:
        raise UsageError("each fold has data of its own: --from and --folds exclude each other")
    if options.devices > 1 and not processes.launched():
        return launch(options.devices)
    return _run_folds(options, as_json)


def _run_folds(options: RunOptions, as_json: bool) -> int:
    """Run a recipe's folds and show their means; returns the exit code of the first that failed."""
    recipe, code, start = _recipe(options)
    if start:
        raise UsageError("--folds takes a recipe file, not an artifact", where=str(options.recipe))
    out = options.out or Path("runs") / recipe.name
    with progress() if processes.is_main() else nullcontext(Silent()) as display:
        display.say(f"mmedge: {recipe.name} into {out}")
        from mmedge.pipeline import folds
        from mmedge.report.folded import print_folds
        from mmedge.report.html import write_html

        outcomes, summary = folds.run_folds(recipe, out, code=code, progress=display)
        for index, outcome in enumerate(outcomes):
            folder = folds.folder_of(out, index)
            if outcome.report is not None:
                write_html(outcome.report, folder / "report.html", folder / ".work" / "pictures")
    if summary is None:
        return outcomes[0].exit_code
    print_folds(summary)
    click.echo(f"written: {out / folds.REPORT}, and a report a fold", err=True)
    if as_json:
        print_json(summary.record())
    return next((outcome.exit_code for outcome in outcomes if outcome.exit_code), 0)


def run_stages(options: RunOptions, only: str | None, as_json: bool) -> tuple[int, Path]:
    """Run a recipe's stages and show the report; returns the exit code and the folder that was written to."""
    path = options.recipe
    recipe, code, start = _recipe(options)
    out = options.out or _place(path, recipe.name)
    with progress() if processes.is_main() else nullcontext(Silent()) as display:
        # The stages import torch; it is told before, since it takes seconds.
        display.say(f"mmedge: {recipe.name} into {out}")
        from mmedge.pipeline import fold as pipeline
        from mmedge.report.html import write_html

        outcome = pipeline.run(recipe, out, code=code, progress=display, start=start, only=only, command=typed())
        report = outcome.report
        if report is None:  # the main process has it
            return outcome.exit_code, out
        write_html(report, out / "report.html", out / ".work" / "pictures")
    from mmedge.report.table import print_report

    print_report(report)
    _same_data(path, report)
    click.echo(f"report: {out / 'report.html'}", err=True)
    if as_json:
        print_json(report.record())
    return outcome.exit_code, out


def _recipe(options: RunOptions) -> tuple[Recipe, Path, Path | None]:
    """The recipe of a file, or the one that an artifact was made by; then the artifact is what to start from."""
    path, overrides, start = options.recipe, options.overrides, options.start
    from mmedge import artifact
    from mmedge import recipe as recipes
    from mmedge.recipe.code import code_of, refuse_foreign

    if path.suffix == ".json" and (found := _report(path)):
        values, folder = recipes.recall(found.recipe, path.resolve().parent / ".work")
        recipe = recipes.parse(recipes.with_overrides(values, overrides), where=path)
        refuse_foreign(code_of(recipe), str(path))
        return recipe, folder, start
    if not path.is_dir():
        return recipes.load(path, overrides), path.resolve().parent, start
    given = artifact.read(path)
    values, folder = recipes.recall(given.meta.get("recipe", {}), path.resolve().parent / ".work")
    recipe = recipes.parse(recipes.with_overrides(values, overrides), where=path / artifact.MANIFEST)
    refuse_foreign(code_of(recipe), str(path))
    return recipe, folder, start or path


def _report(path: Path) -> Report | None:
    """The report of a run that a path names; None where it is a recipe, which may be JSON too."""
    import json

    from mmedge.report.quantized_file import FileReport
    from mmedge.report.record import read_report

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # whoever reads recipes says what is wrong with it
    if not isinstance(values, dict) or not {"verdict", "machine"} & values.keys():
        return None
    found = read_report(path)
    if isinstance(found, FileReport):
        raise UsageError(
            "this is the report of a quantized file, which no recipe made",
            where=str(path),
            todo="mmedge quantize MODEL.onnx repeats it",
        )
    return found


def _place(path: Path, name: str) -> Path:
    """Where a run is written to that names no place: what repeats a report stands beside it."""
    repeated = path.suffix == ".json" and _report(path) is not None
    return path.resolve().parent.with_name(f"{path.resolve().parent.name}-again") if repeated else Path("runs") / name


def _same_data(path: Path, report: Report) -> None:
    """Say whether what repeats a report had its data."""
    before = _report(path) if path.suffix == ".json" else None
    if before is not None:
        same = before.data.sha256 == report.data.sha256
        data = "has the data of the report" if same else "has other data than the report, or the same elsewhere"
        click.echo(f"repeated: it {data} (sha256 {report.data.sha256[:12]}); mmedge report OLD NEW compares", err=True)
