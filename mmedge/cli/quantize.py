"""``mmedge quantize``: the stage of a recipe, or an ONNX file of the user's own with data for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mmedge.cli.common import framed, print_json, progress
from mmedge.cli.stages import RunOptions, run_options, run_stage
from mmedge.errors import UsageError

if TYPE_CHECKING:
    from mmedge.recipe import Quantize
    from mmedge.report.quantized_file import FileReport

# Options of an ONNX file -> the recipe's key that says the same, None where a recipe has none.
_OF_A_FILE = {
    "data": None,
    "labels": None,
    "candidates": "quantize.candidates",
    "max_drop": "quantize.max_drop",
    "require": "quantize.require",
    "max_latency_ratio": "gates.quantize.latency_ratio_to_parent",
    "judge": None,
    "output": None,
    "ignore": "quantize.ignore",
    "calibration": "quantize.calibration",
    "threads": "measure.threads",
    "seed": "seed",
    "policy": "gates.policy",
}


@click.command(
    help="Make candidate precisions, judge and time them, keep the best."
    "\n\nRECIPE is a recipe file, or the artifact of an earlier stage, whose recipe is then used, or an ONNX file of your own:"
    " then --data gives what it takes, as an .npz with an array an input, a folder of .npz or .npy files, a .csv of .npy paths,"
    " or module:build. Half of it calibrates, the other half judges: by labels where there are any, else by FP32's outputs."
    "\n\n\b\nExamples:\n  mmedge quantize recipes/avdigits.yaml --out runs/demo\n  mmedge quantize model.onnx --data calibration.npz --labels labels.npy --out quantized"
)
@run_options
@click.option("--data", metavar="DATA", help="For an ONNX file: arrays of what it takes.")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Class numbers, .npy, .npz or .csv, where DATA has none."
)
@click.option("--candidates", help="Precisions to try, with commas.  [default: fp32,fp16,int8]")
@click.option("--max-drop", type=click.FloatRange(0), default=0.01, show_default=True, help="Accuracy budget.")
@click.option(
    "--require",
    type=click.Choice(["fp16", "int8"]),
    help="The precision the result must have; exit 3 if the budget does not allow it.",
)
@click.option("--max-latency-ratio", type=click.FloatRange(0), help="Of the result to FP32; exit 4 if it is slower.")
@click.option(
    "--judge",
    type=click.Choice(["accuracy", "agreement", "difference"]),
    help="What the budget is of.  [default: accuracy with labels, else agreement of class scores, else difference]",
)
@click.option("--output", help="The output with the class scores.  [default: the first]")
@click.option("--ignore", multiple=True, metavar="LAYER", help="A layer that stays in float. Repeatable.")
@click.option(
    "--calibration", type=click.IntRange(1), help="Calls to calibrate on.  [default: until ranges come to rest]"
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--policy",
    type=click.Choice(["strict", "point"]),
    default="strict",
    show_default=True,
    help="strict: a loss must be proved to be inside the budget; point: as measured, by which luck passes too.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split into two halves.")
@framed
def quantize(options: RunOptions, as_json: bool, **of_a_file: Any) -> int:
    model = options.recipe
    if model.suffix.lower() != ".onnx":
        _refuse_options_of_a_file(model)
        return run_stage(options, "quantize", as_json)
    if of_a_file["data"] is None:
        raise UsageError(
            "an ONNX file is quantized with --data",
            where=str(model),
            todo="give arrays of what the model takes: see mmedge quantize --help",
        )
    if options.start or options.overrides or options.devices > 1:
        raise UsageError("--from, --set and --devices belong to a recipe", where=str(model))
    report = _quantized(model, options.out or Path("runs") / f"{model.stem}-quantized", of_a_file)
    if as_json:
        print_json(report.record())
    return report.exit


def _quantized(model: Path, out: Path, given: Mapping[str, Any]) -> FileReport:
    """The report of an ONNX file that was quantized as the options say, drawn and printed."""
    config = _config(given)
    with progress() as display:
        display.say(f"mmedge: quantizing {model}")
        from mmedge.pipeline.standalone import FileOptions, quantize_file

        options = FileOptions(
            config,
            given["judge"],
            given["output"],
            given["labels"],
            given["threads"],
            seed=given["seed"],
            policy=given["policy"],
            max_latency_ratio=given["max_latency_ratio"],
            named=given["candidates"] is not None,
        )
        report = quantize_file(model, given["data"], out, options, display)
    from mmedge.report.html import write_html
    from mmedge.report.standalone import print_quantized

    write_html(report, out / "report.html")
    print_quantized(report)
    click.echo(f"written: {out / 'model.onnx'}, {out / 'report.json'}, {out / 'report.html'}", err=True)
    return report


def _refuse_options_of_a_file(recipe: Path) -> None:
    """Raise UsageError for what was typed and a recipe would not heed."""
    context = click.get_current_context()
    for name, key in _OF_A_FILE.items():
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name.replace('_', '-')} belongs to an ONNX file, and this is a recipe or an artifact",
                where=str(recipe),
                todo=f"say it as --set {key}=…" if key else "leave it out: the recipe names its data and targets",
            )


def _config(given: Mapping[str, Any]) -> Quantize:
    """The recipe's section ``quantize`` of what was typed; raises UsageError that names the option."""
    from pydantic import ValidationError

    from mmedge.recipe import Quantize

    values = {key: given[key] for key in ("max_drop", "require", "ignore", "calibration")}
    if given["candidates"]:
        values["candidates"] = tuple(given["candidates"].split(","))
    try:
        return Quantize.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        option = "--" + str(fault["loc"][0]).replace("_", "-") if fault["loc"] else "quantize"
        raise UsageError(f"{option}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from None
