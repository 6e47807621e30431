"""A model of one's own in place of a recipe: ``module:factory`` with weights, or an ONNX file, and the data for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mmedge.cli.common import print_json, progress
from mmedge.errors import UsageError

if TYPE_CHECKING:
    from mmedge.api.results import Result
    from mmedge.cli.stages import RunOptions

# Options that a recipe says itself.
_OF_A_MODEL = ("weights", "data", "target", "classes", "task", "seed")


@dataclass(frozen=True)
class ModelArguments:
    """What was typed of a model: its name, the options of ``model_options``, and --set."""

    model: str
    options: Mapping[str, Any]
    overrides: tuple[str, ...]

    def settings(self, verb: str) -> dict[str, Any]:
        """What --set says of the verb's section, and of measure and gates, as the function takes it."""
        from mmedge.api.options import SHARED
        from mmedge.recipe import with_overrides

        values: dict[str, Any] = with_overrides({}, self.overrides)
        settings: dict[str, Any] = values.pop(verb, {})
        for name in values:
            if name not in SHARED:
                raise UsageError(
                    f"--set {name}: a model has no recipe with that section", todo=f"--set {verb}.KEY=VALUE"
                )
        return {**settings, **values}

    @property
    def data(self) -> Any:
        """The data as the functions take it; None where none was named."""
        from mmedge.api import samples

        if self.options["data"] is None:
            return None
        classes = self.options["classes"].split(",") if self.options["classes"] else ()
        return samples(self.options["data"], target=self.options["target"], task=self.options["task"], classes=classes)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a model of one's own, which a recipe has in its own words."""
    for option in (
        click.option(
            "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of a model: splits and training."
        ),
        click.option("--task", help="Of a model: what labels mean.  [default: what they look like]"),
        click.option("--classes", metavar="A,B…", help="Of a model: its classes, in the order of its output."),
        click.option("--target", help="Of a model: what holds the label in DATA.  [default: label, target or y]"),
        click.option(
            "--data", metavar="DATA", help="Of a model: .npz, manifest, recipe or module:build with its samples."
        ),
        click.option(
            "--weights", type=click.Path(path_type=Path), help="Of module:factory: safetensors or a state_dict."
        ),
    ):
        command = option(command)
    return command


def is_model(name: Path) -> bool:
    """Whether a verb's first word is a model: an ONNX file, or ``module:factory`` that no file is called."""
    return name.suffix.lower() == ".onnx" or (":" in str(name) and not name.exists())


def refuse_options(where: Path, more: tuple[str, ...] = ()) -> None:
    """Raise UsageError for an option of a model that was typed with a recipe, which would not heed it."""
    context = click.get_current_context()
    spelled = {"backends": "backend", "shapes": "shape"}
    for name in (*_OF_A_MODEL, *more):
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None):
            raise UsageError(
                f"--{spelled.get(name, name)} belongs to a model, and this is a recipe or an artifact",
                where=str(where),
                todo="say it as --set seed=…" if name == "seed" else "leave it out: the recipe says it",
            )


def refuse_unheeded(model: Path, names: tuple[str, ...]) -> None:
    """Raise UsageError for an option of module:factory that was typed with an ONNX file."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name} belongs to module:factory, and this is an ONNX file", where=str(model), todo="leave it out"
            )


def refuse_for_models(options: RunOptions) -> None:
    """Raise UsageError for what only a recipe can do."""
    if options.start or options.devices > 1:
        raise UsageError("--from and --devices belong to a recipe", where=str(options.recipe))


def run_model(
    verb: str, given: ModelArguments, out: Path, as_json: bool, call: Callable[..., Result], **more: Any
) -> int:
    """Make the call of the function that has the verb's name, and show its report; returns the exit code."""
    with progress() as shown:
        shown.say(f"mmedge: {verb} {given.model} into {out}")
        result = call(
            given.model,
            **more,
            data=given.data,
            weights=given.options["weights"],
            seed=given.options["seed"],
            out=out,
            progress=shown,
            **given.settings(verb),
        )
    if result.record is not None:
        from mmedge.report.table import print_report

        print_report(result.record)
        click.echo(f"report: {out / 'report.html'}", err=True)
    click.echo(f"written: {result.path}", err=True)
    if as_json:
        print_json(result.record.record() if result.record is not None else {"bundle": str(result.path)})
    return result.exit_code


def folder_of(model: Path, verb: str) -> Path:
    """Where a verb writes what comes of a model."""
    name = str(model).partition(":")[0].rpartition(".")[2] if ":" in str(model) else model.stem
    return Path("runs") / f"{name}-{verb}"
