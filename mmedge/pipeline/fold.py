"""Folds the stages of a recipe and resumes by content hash. The only dispatch."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmedge import artifact as artifacts
from mmedge.artifact import Artifact, code_hash, hash_json
from mmedge.backends import require_builder
from mmedge.data.store import samples
from mmedge.errors import MissingDependency, UsageError
from mmedge.measure.classes import class_map
from mmedge.models.load import contract_of
from mmedge.pipeline.conclude import Outcome, Ran, conclude
from mmedge.progress import Progress, Silent
from mmedge.recipe import Recipe, remember
from mmedge.recipe.dependencies import code_state, file_state
from mmedge.spec import Frozen
from mmedge.stages import distill, export, prune, quantize, train
from mmedge.training.context import Context
from mmedge.training.faults import refuse_untaught
from mmedge.training.loop import processes

# What a stage's outcome may depend on, beside its own file.
_CODE = (
    "data",
    "models",
    "training",
    "graph",
    "measure",
    "backends",
    "machine.py",
    "preprocess",
    "profiling/timing.py",
    "spec.py",
    "stages/trained.py",
)


def run(
    recipe: Recipe, out: Path, *, code: Path, progress: Progress, start: Path | None = None, only: str | None = None
) -> Outcome:
    """Run a recipe's stages into ``out``, or ``only`` the one of that name (``export``: all exports), then report.

    ``start`` is an artifact to begin from instead of the stages that lead to it. ``code`` is where the recipe's own
    modules are imported from. Raises MmedgeError and its kinds; an interrupted call goes on where it stopped. Of
    several processes that train together (``training.processes``) all train, the main one does the rest and has the
    report.
    """
    processes.start()
    progress = progress if processes.is_main() else Silent()
    if processes.asked_in_vain():
        progress.say(
            "one process alone trains: without a GPU accelerate starts several only by --mpirun_hostfile; --devices N does it here"
        )
    wanted = [stage for stage in recipe.stages if only is None or stage.partition("-")[0] == only]
    if not wanted:
        raise UsageError(f"the recipe has no section {only!r}", todo=f"it has {', '.join(recipe.stages)}")
    given = artifacts.read(start) if start else None
    if wanted == ["distill"] and given is None and recipe.teacher and not recipe.teacher.trained_here:
        wanted = ["teacher", "distill"]  # what is taken as it is needs no verb of its own
    chain = _chain(recipe, wanted, given)
    if given and _again(wanted, given) and given.path.resolve() == (out / "prune").resolve():
        raise UsageError(
            "the result would replace the artifact that it starts from", where=str(out), todo="name another --out"
        )
    _check_targets(recipe, wanted)
    with samples.held(out) if processes.is_main() else nullcontext():
        return _fold(recipe, out, chain, wanted, given, code, progress)


def _fold(
    recipe: Recipe,
    out: Path,
    chain: list[str],
    wanted: list[str],
    given: Artifact | None,
    code: Path,
    progress: Progress,
) -> Outcome:
    """The stages of ``chain`` one after another, those of ``wanted`` run, and the report."""
    with processes.main_first():
        dataset = samples.prepare(recipe, out, code=code, progress=progress)
        remember(recipe, code, out / ".work")
    context = Context(recipe, dataset, out / ".work", code, progress)
    if given:
        _check_same_data(given, dataset, recipe)
    ran: list[Ran] = []
    if given is None and {"teacher", "distill"} <= {*wanted} and not (out / "teacher" / artifacts.MANIFEST).is_file():
        refuse_untaught(context)  # not after hours of training the teacher
    # What lies before the given artifact is not run: of it, the teacher alone is looked for.
    first = recipe.stages.index(given.stage) if given and given.stage in recipe.stages else 0
    for stage in chain:
        if stage in wanted and recipe.stages.index(stage) >= first:
            ran.append(_run_stage(stage, ran, given, context, out))
        else:
            ran.append(_earlier(stage, given, context, out))
    processes.finish()
    if not processes.is_main():
        return Outcome({}, 0)
    ran = [done for done in ran if done.artifact or done.stage in wanted]
    return conclude(recipe, dataset, ran if given else _still_valid(ran, context, out), context, out)


def _chain(recipe: Recipe, wanted: list[str], given: Artifact | None) -> list[str]:
    """The stages to pass through: those up to the last wanted one, from the given artifact's on."""
    if _again(wanted, given):
        return ["teacher", PARENT, "prune"]
    last = max(recipe.stages.index(stage) for stage in wanted)
    chain = [stage for stage in recipe.stages[: last + 1] if stage in wanted or _may_have_children(stage)]
    if given:
        if given.stage not in recipe.stages or given.stage.startswith("export-"):
            raise UsageError(
                f"no stage of the recipe can start from an artifact of stage {given.stage!r}", where=str(given.path)
            )
        first = recipe.stages.index(given.stage)
        if first >= last:
            raise UsageError(
                f"the artifact is of stage {given.stage!r}; {wanted[-1]} needs an earlier one", where=str(given.path)
            )
        chain = [stage for stage in chain if recipe.stages.index(stage) >= first or stage == "teacher"]
    return chain


def _again(wanted: list[str], given: Artifact | None) -> bool:
    """Whether a pruned model is to be pruned further, by ``mmedge prune`` on its artifact."""
    return wanted == ["prune"] and given is not None and given.stage == "prune"


def _earlier(stage: str, given: Artifact | None, context: Context, out: Path) -> Ran:
    """An artifact that an earlier command wrote. The teacher may also stand beside the given artifact, or be absent."""
    if given and (given.stage == stage or stage == PARENT):
        return Ran(stage, given, "cached", 0.0, given=True)
    places = [out / stage, *([given.path.parent / stage] if given else [])]
    found = next((place for place in places if (place / artifacts.MANIFEST).is_file()), None)
    if found is None:
        if given:
            return Ran(stage, None, "skipped", 0.0, f"no {stage} beside the artifact that the run starts from")
        raise UsageError(
            f"there is no {stage} artifact in {out}",
            todo=f"run mmedge {_VERBS.get(stage, stage)} first, or name an artifact with --from",
        )
    earlier = artifacts.read(found)
    _check_same_data(earlier, context.dataset, context.recipe)
    return Ran(stage, earlier, "cached", 0.0, given=given is not None)


_VERBS = {"teacher": "train"}
# What the report calls a pruned model that is pruned again.
PARENT = "parent"


def _run_stage(stage: str, before: list[Ran], given: Artifact | None, context: Context, out: Path) -> Ran:
    """Run one stage, or take it from ``out`` where nothing that it depends on has changed."""
    if given and given.stage == stage and not any(done.stage == PARENT for done in before):
        return Ran(stage, given, "cached", 0.0, given=True)
    recipe = context.recipe
    if stage.startswith("export-"):
        missing = _missing_package(stage.removeprefix("export-"), recipe)
        if missing:
            return Ran(stage, None, "skipped", 0.0, missing)
    key = _key(stage, before, context)
    target = out / stage
    cached = artifacts.unchanged(target, key, context.progress.say) if processes.is_main() else None
    if processes.of_main(lambda: cached is not None):
        cached = cached or artifacts.read(target)
        context.progress.say(f"{stage}: unchanged, taken from {target}")
        return Ran(stage, cached, "cached", 0.0)
    started = time.monotonic()
    context = replace(context, work=out / ".work" / f"{stage}-{key[:16]}", teacher=_teacher(before))
    if _trains(stage, recipe):
        made = _call(stage, _parent(before), context, target, key)
    else:
        with processes.main_first(), processes.alone():  # the others read what it wrote
            parent = _parent(before)
            made = _call(stage, parent, context, target, key) if processes.is_main() else artifacts.read(target)
    if processes.is_main():
        shutil.rmtree(context.work, ignore_errors=True)  # only an interrupted stage needs it
    return Ran(stage, made, "ran", time.monotonic() - started)


def _trains(stage: str, recipe: Recipe) -> bool:
    """Whether the processes that train together share the stage's work."""
    return stage in ("distill", "prune") or (stage == "teacher" and recipe.teacher.trained_here)


def _key(stage: str, before: list[Ran], context: Context) -> str:
    """Hash of all that a stage's outcome depends on: parent, configuration, data, code and model files."""
    recipe, parent, teacher = context.recipe, _parent(before), _teacher(before)
    section, also = _sections(stage, recipe)
    own_code = f"stages/{_VERBS.get(stage, stage.partition('-')[0])}"
    return hash_json(
        {
            "stage": stage,
            "parent": parent and parent.sha256,
            "teacher": teacher.sha256 if teacher and stage in ("distill", "prune", "quantize") else None,
            "config": [
                _dumped(section),
                *map(_dumped, also),
                _dumped(recipe.data.model_copy(update={"workers": None})),
                recipe.seed,
            ],
            "data": context.dataset.sha256,
            "code": [code_hash(*_CODE, own_code), [_user_code(part, context) for part in (section, *also)]],
            "weights": [digest for part in (section, *also) for digest in _weights(part)],
        }
    )


def _parent(before: list[Ran]) -> Artifact | None:
    return next((done.artifact for done in reversed(before) if done.artifact and _may_have_children(done.stage)), None)


def _teacher(before: list[Ran]) -> Artifact | None:
    return next((done.artifact for done in before if done.stage == "teacher"), None)


def _may_have_children(stage: str) -> bool:
    return not stage.startswith("export-")


def _still_valid(ran: list[Ran], context: Context, out: Path) -> list[Ran]:
    """What earlier commands made of the stages behind the ones that ran, as far as it still follows from them.

    So that one verb on a finished run's folder leaves its report whole.
    """
    found = list(ran)
    for stage in context.recipe.stages:
        if stage not in [done.stage for done in found]:
            artifact = artifacts.unchanged(out / stage, _key(stage, found, context), context.progress.say)
            if artifact:
                found.append(Ran(stage, artifact, "cached", 0.0))
            elif _may_have_children(stage):
                break
    return found


def _sections(stage: str, recipe: Recipe) -> tuple[Any, tuple[Any, ...]]:
    """A stage's own section of the recipe, and the others that its outcome depends on."""
    match stage:
        case "teacher":
            return recipe.teacher, ()
        case "distill":
            return recipe.distill, ()
        case "prune":
            # What the channels that are left are a multiple of follows the targets, unless the recipe says it.
            gpu = recipe.prune and recipe.prune.round_to == "auto" and recipe.export.on_gpu
            return recipe.prune, (recipe.distill, recipe.measure, gpu)
        case "quantize":
            # Which fallbacks are tried, and whether INT8 is trained that is no faster here, follows the targets.
            targets = (recipe.export.elsewhere, recipe.export.asks_int8)
            return recipe.quantize, (recipe.distill, recipe.measure, *targets)
    return recipe.export.targets[stage.removeprefix("export-")], (recipe.export, recipe.measure)


def _call(stage: str, parent: Artifact | None, context: Context, target: Path, key: str) -> Artifact:
    """The one dispatch from a stage's name to its function."""
    recipe = context.recipe
    if stage == "teacher":
        return train.train(None, recipe.teacher, context, target, key)
    assert parent is not None, "every stage but the teacher has a parent"
    match stage:
        case "distill":
            assert recipe.distill is not None
            return distill.distill(parent, recipe.distill, context, target, key)
        case "prune":
            assert recipe.prune is not None
            return prune.prune(parent, recipe.prune, context, target, key)
        case "quantize":
            assert recipe.quantize is not None
            return quantize.quantize(parent, recipe.quantize, context, target, key)
    name = stage.removeprefix("export-")
    return export.export(parent, recipe.export.targets[name], context, target, key, name=name)


def _missing_package(name: str, recipe: Recipe) -> str | None:
    """Why an optional target is left out; None where it can be built."""
    if not recipe.export.targets[name].required:
        try:
            require_builder(name)
        except MissingDependency as error:
            return f"{error.what}; {error.todo}"
    return None


def _dumped(section: Any) -> Any:
    return section.model_dump(mode="json") if isinstance(section, Frozen) else section


def _givens(section: Any) -> list[Any]:
    """The models that a section describes: its own, and those of further teachers."""
    return [section, *getattr(section, "teachers", ())]


def _user_code(section: Any, context: Context) -> list[str]:
    """Hashes of what a user's factories depend on."""
    models = [given.model for given in _givens(section) if getattr(getattr(given, "model", None), "factory", None)]
    return [code_state(model.factory, model.args, context.code, context.progress.say) for model in models]


def _weights(section: Any) -> list[str]:
    """Hashes of the model files that a section names."""
    named: list[Path] = []
    for given in _givens(section):
        named += getattr(given, "files", [getattr(getattr(given, "model", None), "weights", None)])
    return [file_state(path) for path in named if path and path.is_file()]


def _check_targets(recipe: Recipe, wanted: list[str]) -> None:
    """A target whose package is missing is told before anything is trained for it."""
    for name, options in recipe.export.targets.items():
        if options.required and f"export-{name}" in wanted:
            require_builder(name)


def _check_same_data(given: Artifact, dataset: samples.Dataset, recipe: Recipe) -> None:
    """An artifact belongs to the recipe where its classes and preprocessing are the data's.

    A teacher that only teaches may have its own: of its classes the recipe says what they mean.
    """
    if "contract" not in given.meta:
        raise UsageError(f"an artifact of stage {given.stage!r} cannot be gone on from", where=str(given.path))
    theirs, ours = contract_of(given), dataset.contract
    if given.stage == "teacher" and recipe.distill is not None and theirs.task == ours.task:
        where = f"teacher.classes, of {given.path}"
        class_map(theirs.labels, ours.labels, recipe.teacher.classes, where, task=ours.task)
        samples.check_read(ours.modalities, theirs.modalities)
        return
    differing = [name for name, spec in theirs.modalities.items() if ours.modalities.get(name) != spec]
    if theirs.task != ours.task or theirs.labels != ours.labels or differing:
        what = f"the modality {differing[0]!r}" if differing else "the classes"
        raise UsageError(
            f"the artifact is of another recipe: {what} in it is not that of this recipe's data",
            where=str(given.path),
            todo="use its own recipe, or run the earlier stages again",
        )
