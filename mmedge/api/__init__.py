"""The verbs as plain functions on one's own modules, data and files; each makes the very calls that the command line makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.api.data import Source
from mmedge.api.options import Options
from mmedge.api.results import Bundle, Model, Profile, QuantizedFile, Run
from mmedge.progress import Progress

if TYPE_CHECKING:
    from mmedge.runtime.engine import Engine

__all__ = [
    "Bundle",
    "Model",
    "Profile",
    "QuantizedFile",
    "Run",
    "distill",
    "export",
    "load",
    "profile",
    "prune",
    "quantize",
    "run",
    "samples",
]


def distill(
    student: Any,
    teacher: Any,
    data: Any = None,
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Model:
    """Train ``student`` to do what ``teacher`` does, and the same student without it, to know what that was worth.

    ``student``: an ``nn.Module`` (it starts from the weights that it has), a class or function that makes one (fresh
    weights in each of three seeds), ``"module:factory"``, or the sizes of the built-in network, as ``{"hidden": 32}``.
    ``teacher``: a trained ``nn.Module``, an ONNX file, ``"module:factory"`` with its ``weights``, or what an earlier
    call returned. ``data``: see ``samples``; the training split may have few labels, or none with ``labels="none"``.
    Outputs are [batch, classes] logits; of a number [batch, 1], a student's in standard units of the training targets.

    ``settings``: keys of the recipe's section ``distill`` (``mmedge init --keys distill``), as ``labels=200``,
    ``train={"epochs": 40}``, ``controls={"seeds": 1}``. Returns the better of the two on validation, and says which.
    Raises UsageError and its kinds: UnusableModel, UnreadableData, UnmatchedInputs, UnlabelledData.
    """
    from mmedge.api import work

    options = Options(out, seed, weights, settings)
    with work.progressing(progress) as reporter:
        folder = work.folder(out, reporter)
        start = work.taught(student, teacher, data, options, folder)
        recipe = work.recipe_of(start, "distill", {}, options)
        outcome = work.run(recipe, start, folder, "distill", reporter)
    return Model(
        folder / "distill", folder, outcome.report, recipe, start.code, start.keeps, exit_code=outcome.exit_code
    )


def prune(
    model: Any,
    data: Any = None,
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Model:
    """Take whole channels and attention heads out of a network, and recover what that lost, with itself as the teacher.

    ``model``: a trained ``nn.Module``, ``"module:factory"`` with its ``weights``, or what an earlier call returned; a
    class or function that makes one is trained first. It stays as it is. ``data``: see ``samples``; labelled, since
    validation decides what may go. ``settings``: keys of the recipe's section ``prune``, as ``macs=0.5`` (of the
    parent's multiply-accumulates, .65 by default), ``max_drop=0.01``, ``train={"epochs": 5}``, ``faster=False``.

    Returns the narrowed network, or the same one where nothing smaller is as accurate and faster: the report says why.
    Raises UsageError and its kinds; limits that were asked for and missed make its ``verdict`` ``fail``.
    """
    return _smaller("prune", model, data, Options(out, seed, weights, settings), progress)


def quantize(
    model: Any,
    data: Any = None,
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Model | QuantizedFile:
    """Make candidate precisions of a network, judge and time them, and keep the best.

    ``model``: as of ``prune``; or an ONNX file, of which the calls of ``data`` are cut in two halves: one calibrates,
    the other judges, by labels where there are any, else by the outputs in FP32. Of anything else the training split
    calibrates, validation decides and test is measured. ``data``: see ``samples``; of an ONNX file also a folder of .npz or .npy.
    ``settings``: keys of the recipe's section ``quantize``, as ``candidates=("fp32", "int8")``, ``max_drop=0.01``,
    ``require="int8"``; of an ONNX file also ``judge``, ``output``, ``labels``, ``threads`` and ``max_latency_ratio``.

    Returns a model with every candidate's figures. Raises UsageError and its kinds; where a required precision is
    outside the budget its ``verdict`` is ``fail``.
    """
    if isinstance(model, (str, Path)) and str(model).lower().endswith(".onnx"):
        from mmedge.api.files import quantized

        return quantized(Path(model), data, out=out, seed=seed, progress=progress, settings=settings)
    return _smaller("quantize", model, data, Options(out, seed, weights, settings), progress)


def _smaller(verb: str, model: Any, data: Any, options: Options, progress: Progress | bool | None) -> Model:
    """The stage of that verb, of a network that has learnt already."""
    from mmedge.api import work

    with work.progressing(progress) as reporter:
        folder = work.folder(options.out, reporter)
        start = work.started(model, data, options, folder)
        recipe = work.recipe_of(start, verb, {verb: options.own}, options)
        outcome = work.run(recipe, start, folder, verb, reporter)
    return Model(folder / verb, folder, outcome.report, recipe, start.code, start.keeps, exit_code=outcome.exit_code)


def run(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    start: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Run:
    """Run a whole recipe: teacher, distillation, pruning, quantization, engines, and the report of it all.

    ``recipe``: a YAML file, or its values as a mapping, whose relative paths and modules are then of the working
    folder. ``out``: the folder of the run, a temporary one where none is named; a repeated call takes what is unchanged
    from there. ``overrides``: ``"teacher.train.epochs=5"``; ``start``: an artifact to begin from. Raises InvalidRecipe
    with every fault of the recipe, and MmedgeError and its kinds.
    """
    from mmedge import recipe as recipes
    from mmedge.api import work

    if isinstance(recipe, Mapping):
        values = recipes.with_overrides(dict(recipe), tuple(overrides))
        parsed, code = recipes.parse(values, where=Path("mmedge.run"), folder=Path.cwd()), Path.cwd()
    else:
        file = Path(recipe).expanduser()
        parsed, code = recipes.load(file, tuple(overrides)), file.resolve().parent
    with work.progressing(progress) as reporter:
        folder = work.folder(out, reporter)
        begun = work.Start({}, code, Path(start).expanduser() if start else None)
        outcome = work.run(parsed, begun, folder, None, reporter)
    return Run(folder, folder, outcome.report, parsed, code, exit_code=outcome.exit_code)


def load(path: str | Path, target: str | None = None, threads: int = 1, **options: Any) -> Engine:
    """Open a bundle, folder or zip file: ``engine.predict(image="a.png")`` or ``engine.run({"image": array})``.

    ``target``: one of the bundle's backends, ``onnxruntime-cpu`` where none is named. Needs neither torch nor the code
    that trained. ``options``: ``providers``, ``require_signature`` and ``timeout_s``, as of ``mmedge.runtime.load``.
    """
    from mmedge.runtime.engine import load as opened

    return opened(path, target, threads, **options)


def samples(
    data: Any,
    *,
    names: Sequence[str] | Mapping[str, str] = (),
    target: str | None = None,
    group: str | None = None,
    task: str | None = None,
    classes: Sequence[Any] = (),
    modalities: Mapping[str, Any] | None = None,
) -> Source:
    """Data with what it does not say itself; every function takes the bare data where it says enough.

    ``data``: a torch ``DataLoader`` or ``Dataset``, a ``datasets.Dataset``, a pandas or polars frame, {name: array of
    [N, *shape]}, an ``.npz``, a manifest (CSV, JSONL, Parquet), a recipe file or ``"module:build"``; or {"train": …,
    "validation": …, "test": …} of these. What has no splits of its own is split .7 / .15 / .15, stratified, the same
    way at each call: a loader that shuffles is read in the order of its dataset; only training may lack labels. A sample is a dict by name, or a tuple in the order of ``forward``, the label behind.
    Values are what ``forward`` takes, without the batch axis: numbers, float32, or ids of tokens and categories, int64
    where the network takes them so; labels are class numbers (columns of the
    output; -1 and -100 are unknown), names, numbers to predict, or lists of 0 and 1. None is a missing input.

    ``names``: of a tuple's items in order, ``["image", "audio", "label"]``; or {name in the data: parameter of
    ``forward``}. ``target``: what holds the label, where it is not called label, target or y. ``group``: what keeps
    samples in one split: a speaker, a patient. ``task``: classification, multilabel, regression or ordinal, where the
    labels do not tell. ``classes``: all of them, in the order of the model's output. ``modalities``: {name: how its
    raw values become a tensor, as in a recipe}, ``{"photo": {"kind": "image", "height": 64, "width": 64}}``.
    """
    return Source(data, names, target, group, task, tuple(map(str, classes)), modalities or {})


def export(
    model: Any,
    path: str | Path,
    data: Any = None,
    *,
    backends: Sequence[str] = (),
    weights: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Bundle:
    """Build the engines of ``backends`` and write the bundle to ``path``: all that an app needs to predict.

    ``model``: a trained ``nn.Module``, ``"module:factory"`` with its ``weights``, an ONNX file, or what an earlier call
    returned. ``data``: see ``samples``: engines are compared with the network on it, and measured; without any, they
    are compared on generated inputs and nothing is measured. An ``nn.Module`` needs it, or ``shapes={"image": (1, 28,
    28)}``. ``backends``: of ``onnxruntime-cpu`` (always there), ``openvino-cpu``, ``onnxruntime-cuda``, ``tensorrt``,
    ``tensorrt-rtx``.

    ``settings``: ``dtype`` (``"fp32"``, ``"fp16"``, or ``"int8"`` of a quantized model), ``batch`` (the largest that
    engines are built for), ``opset``, ``classes`` (where there is no data), ``per_subset``, ``split``, ``seed`` (of the data's splits).
    Raises MissingDependency for a backend that cannot be built here, MismatchError where an engine differs.
    """
    from mmedge.api.files import exported

    options = Options(out, settings.pop("seed", 0), weights, settings)
    return exported(model, Path(path), data, tuple(backends), options, progress)


def profile(
    model: Any,
    *against: Any,
    target: str | None = None,
    batches: Sequence[int] = (1,),
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Profile:
    """Time models on this machine: percentiles, loading, memory, energy, layers by modality.

    ``model``, ``against``: bundles, ONNX files, or what earlier calls returned; all are timed in turn, so that ratios
    hold. ``target``: one of a bundle's backends. ``batches``: sizes of a call. ``settings``: ``threads`` (1), ``runs``
    (500), ``idle_s``, ``shapes`` ({input: shape without the batch} where it is dynamic).
    """
    from mmedge.api.files import profiled

    return profiled(
        [model, *against], target=target, batches=tuple(batches), out=out, progress=progress, settings=settings
    )
