"""What needs no recipe of the caller's: ONNX files that are quantized, engines and bundles, profiles."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import artifact
from mmedge.api import dataset, work
from mmedge.api.data import Columns, Source, columns
from mmedge.api.networks import Network, network
from mmedge.api.options import SHARED, Options
from mmedge.api.results import Bundle, Model, Profile, QuantizedFile, Result
from mmedge.api.values import taken
from mmedge.backends import GRAPH_BACKEND
from mmedge.errors import UnreadableData, UsageError, did_you_mean
from mmedge.progress import Progress
from mmedge.recipe import Quantize
from mmedge.recipe.objects import hold

# Settings of a file that no recipe has.
_OF_A_FILE = ("judge", "output", "labels", "threads", "max_latency_ratio", "prefer", "policy")
_OF_EXPORT = ("dtype", "batch", "opset", "shapes", "classes", "per_subset", "split")


def quantized(
    model: Path,
    data: Any,
    *,
    out: str | Path | None,
    seed: int,
    progress: Progress | bool | None,
    settings: Mapping[str, Any],
) -> QuantizedFile:
    """``mmedge.quantize`` of an ONNX file."""
    from mmedge.pipeline.standalone import FileOptions, quantize_file
    from mmedge.report.html import write_html

    own = {name: settings[name] for name in _OF_A_FILE if settings.get(name) is not None}
    config = _config({name: value for name, value in settings.items() if name not in _OF_A_FILE and value is not None})
    if "labels" in own:
        own["labels"] = Path(own["labels"])
    if data is None:
        raise UsageError(
            "data is missing", todo="give arrays of what the model takes: {input: array}, an .npz, a DataLoader"
        )
    given = data.data if isinstance(data, Source) and not (data.names or data.target) else data
    source = str(given) if isinstance(given, (str, Path)) else _arrays(data, network(model))
    with work.progressing(progress) as reporter:
        reporter.say(f"mmedge: quantizing {model}")
        folder = work.folder(out, reporter)
        options = FileOptions(config, seed=seed, named=settings.get("candidates") is not None, **own)
        report = quantize_file(model, source, folder, options, reporter)
    write_html(report, folder / "report.html")
    return QuantizedFile(folder, folder, report, exit_code=report.exit)


def _config(values: Mapping[str, Any]) -> Quantize:
    """The recipe's section ``quantize`` of the settings; raises UsageError that names the one that does not fit."""
    from pydantic import ValidationError

    try:
        return Quantize.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
    name = str(fault["loc"][0]) if fault["loc"] else "quantize"
    if fault["type"] == "extra_forbidden":
        known = (*_OF_A_FILE, *Quantize.model_fields)
        raise UsageError(
            f"there is no setting {name!r}{did_you_mean(name, known)}", todo="mmedge init --keys quantize lists them"
        )
    raise UsageError(f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}")


def _arrays(data: Any, taker: Network) -> dict[str, np.ndarray]:
    """{input: array with a row a call}, with ``labels`` where there are any: all splits together."""
    source = data if isinstance(data, Source) else Source(data)
    whole = Columns()
    parameters = source.names if isinstance(source.names, Mapping) else {}
    for part in columns(source, taker).values():
        for row in range(len(part)):
            given = {parameters.get(name, name): values[row] for name, values in part.inputs.items()}
            whole.add(given, part.labels[row], None)
    if len(whole.inputs) == len(taker.takes) == 1:
        whole.inputs = {taker.takes[0]: next(iter(whole.inputs.values()))}
    found = {}
    for name, values in whole.inputs.items():
        try:
            found[name] = np.stack([np.asarray(x.detach().cpu() if hasattr(x, "detach") else x) for x in values])
        except (ValueError, TypeError) as error:
            raise UnreadableData(
                f"the samples of {name!r} cannot be put into one array: {error}",
                todo="give each in the model's own shape",
            ) from None
    labels = [dataset.plain(label) for label in whole.labels]
    if labels and None not in labels:
        found["labels"] = np.array(labels)
    return found


def exported(
    model: Any,
    path: Path,
    data: Any,
    backends: Sequence[str],
    given: Options,
    progress: Progress | bool | None,
) -> Bundle:
    """``mmedge.export``."""
    target = path.expanduser()
    _refuse_other(target)
    settings = given.settings
    strange = [name for name in settings if name not in (*_OF_EXPORT, *SHARED)]
    if strange:
        raise UsageError(f"there is no setting {strange[0]!r}{did_you_mean(strange[0], _OF_EXPORT)}")
    options = replace(given, settings={name: value for name, value in settings.items() if name not in _OF_EXPORT})
    section = {"export": _section(backends, settings)}
    with work.progressing(progress) as reporter:
        folder = work.folder(options.out, reporter)
        if data is None and not _has_data(model):
            from mmedge.pipeline.unmeasured import export_unmeasured

            start = _without_data(model, settings, options, folder)
            recipe = work.recipe_of(start, "export", section, options)
            for note in start.notes:
                reporter.say(f"model: {note}")
            export_unmeasured(recipe, folder, code=start.code, progress=reporter)
            record, exit_code = None, 0
        else:
            start = work.started(model, data, options, folder)
            recipe = work.recipe_of(start, "export", section, options)
            outcome = work.run(recipe, start, folder, "export", reporter)
            record, exit_code = outcome.report, outcome.exit_code
    return Bundle(_placed(folder / "bundle", target), folder, record, exit_code=exit_code)


def _refuse_other(target: Path) -> None:
    """Raise UsageError where something else than a bundle would be replaced."""
    if target.exists() and not (target.is_dir() and (target / artifact.MANIFEST).is_file()):
        raise UsageError(
            "there is something else where the bundle shall be written", where=str(target), todo="name another path"
        )


def _placed(bundle: Path, target: Path) -> Path:
    """The bundle at ``target``, in place of an earlier one."""
    if bundle.resolve() == target.resolve():
        return target
    found = artifact.read(bundle)
    with artifact.creating(target, stage=found.stage, key=found.key, parent=found.parent) as (folder, meta):
        shutil.copytree(bundle, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(artifact.MANIFEST))
        meta |= found.meta
    return target


def _section(backends: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's section ``export``."""
    options: dict[str, Any] = {}
    if settings.get("dtype") is not None:
        options["precision"] = settings["dtype"]
    if settings.get("batch") is not None:
        options["max_batch"] = settings["batch"]
    named = dict.fromkeys((GRAPH_BACKEND, *backends))
    # The graph's own backend is always there; what is asked of the others is asked of it where it is named, or alone.
    targets = {name: options if name in backends or not backends else {} for name in named}
    rest = {name: settings[name] for name in ("per_subset", "split", "opset") if settings.get(name)}
    return {"targets": targets, **rest}


def _has_data(model: Any) -> bool:
    return isinstance(model, Model) or (isinstance(model, (str, Path)) and (Path(model) / artifact.MANIFEST).is_file())


def _without_data(model: Any, settings: Mapping[str, Any], options: Options, out: Path) -> work.Start:
    """The recipe of a network of which only the shapes of its inputs are known."""
    taker = network(model, weights=options.weights)
    if taker.module is None and taker.onnx is None and not taker.model.get("weights"):
        raise UsageError("the model has learnt nothing yet", todo="give its weights, or the trained module")
    shapes = dict(settings.get("shapes") or {}) or _shapes(taker)
    unknown = [name for name in shapes if name not in {*taker.takes, *taker.may_take}]
    lacking = [name for name in taker.takes if name not in shapes]
    if unknown or lacking:
        raise UsageError(
            f"the shape of {lacking[0]!r} is not known"
            if lacking
            else f"the model takes no {unknown[0]!r}{did_you_mean(unknown[0], taker.takes)}",
            todo=f"give data, or shapes={{{(lacking or taker.takes)[0]!r}: (1, 28, 28)}}, without the batch axis",
        )
    few = taken(
        taker,
        {name: [np.zeros((2, *shape), kind) for kind in (np.float32, np.int64)] for name, shape in shapes.items()},
    )
    source = Source(None, classes=tuple(map(str, settings.get("classes") or ())))
    task, classes, _ = dataset.meaning((), source, Columns(), taker.call(few))
    build = dataset.HeldData({})
    # Of ids nobody has said how many: the first two are in every vocabulary.
    numbers, ids = {"kind": "array", "mean": [0.0], "std": [1.0]}, {"kind": "array", "ids": 2}
    values: dict[str, Any] = {
        "dataset": hold("data", artifact.hash_json([shapes, task, classes]), build),
        "modalities": {
            dataset.modality(name): {**(ids if few[name].dtype.kind == "i" else numbers), "shape": list(shape)}
            for name, shape in shapes.items()
        },
        "task": task,
        **({"classes": list(classes)} if classes else {}),
    }
    names = {dataset.modality(name): name for name in shapes}
    given = dataset.DataSection(
        values, names, Path.cwd(), build, {dataset.modality(name): x for name, x in few.items()}
    )
    section = {**taker.written(out)}
    section["model"] = {**section.get("model", {}), **given.model(taker)}
    return work.Start({"data": values, "teacher": section}, given.folder, keeps=(taker.keeps, build), notes=taker.notes)


def _shapes(taker: Network) -> dict[str, tuple[int, ...]]:
    """The shapes, without the batch, that an ONNX file says of its inputs."""
    if taker.onnx is None:
        return {}
    from mmedge.backends import onnxruntime_cpu
    from mmedge.profiling.feeds import sizes

    inputs = onnxruntime_cpu.session(taker.onnx).inputs
    return {name: shape[1:] for name, shape in sizes({name: inputs[name] for name in taker.takes}, 1).items()}


def profiled(
    models: Sequence[Any],
    *,
    target: str | None,
    batches: tuple[int, ...],
    out: str | Path | None,
    progress: Progress | bool | None,
    settings: Mapping[str, Any],
) -> Profile:
    """``mmedge.profile``."""
    from mmedge.artifact import write_json
    from mmedge.profiling.profile import ProfileOptions, measured

    try:
        options = ProfileOptions(target, batches, **settings)
    except TypeError as error:
        raise UsageError(
            f"profile: {error}", todo="it takes threads, runs, streams, seconds, idle_s and shapes"
        ) from None
    with work.progressing(progress) as reporter:
        record = measured([_measurable(model) for model in models], options, reporter)
        folder = work.folder(out, reporter)
    write_json(folder / "profile.json", record.record())
    return Profile(folder / "profile.json", folder, record)


def _measurable(model: Any) -> Path:
    """The folder or file of what is to be timed."""
    if isinstance(model, Result):
        return model.path
    if isinstance(model, (str, Path)):
        return Path(model).expanduser()
    raise UsageError(
        f"profile times bundles, ONNX files and what the other functions return, not a {type(model).__name__}",
        todo="mmedge.export(model, path, data) first: what ships is what is timed",
    )
