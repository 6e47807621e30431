"""Folds the stages of a recipe and resumes by content hash."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmedge import artifact as artifacts
from mmedge import tracking
from mmedge.artifact import Artifact, contract_of
from mmedge.contract import Contract
from mmedge.data.store import samples
from mmedge.data.store.folder import held
from mmedge.errors import MissingDependency, UsageError
from mmedge.measure.classes import class_map
from mmedge.pipeline.brought import with_preprocessing
from mmedge.pipeline.concluding import Outcome, conclude
from mmedge.pipeline.judgeable import refuse_unjudgeable
from mmedge.pipeline.keys import key_of
from mmedge.pipeline.ran import Ran, parent_of, teacher_of
from mmedge.pipeline.stages import Step, steps
from mmedge.pipeline.tracked import parameters_of
from mmedge.progress import Progress, Silent
from mmedge.recipe import Recipe, remember
from mmedge.recipe.code import code_of_artifact, refuse_foreign
from mmedge.stages.results import StageResult
from mmedge.tracking import following
from mmedge.training.context import Context
from mmedge.training.loop import processes

# What the report calls an artifact that its own stage goes on from.
PARENT = "parent"


@dataclass(frozen=True)
class Plan:
    """``chain``: the stages to pass through, of ``every`` one of the recipe; those named in ``wanted`` are run, of the
    others an artifact is looked for. ``given``: one to start from instead of what leads to it."""

    every: list[Step]
    chain: list[Step]
    wanted: list[str]
    given: Artifact | None

    def runs(self, step: Step) -> bool:
        """Whether the stage is run: what lies before the given artifact is not."""
        return step.name in self.wanted and _place(self.every, step.name) >= self.first

    def makes(self, step: Step) -> bool:
        """Whether what it gives is computed, and not the given artifact."""
        again = any(other.name == PARENT for other in self.chain)
        return self.runs(step) and not (self.given and self.given.stage == step.name and not again)

    @property
    def first(self) -> int:
        return max(0, _place(self.every, self.given.stage)) if self.given else 0


def run(
    recipe: Recipe,
    out: Path,
    *,
    code: Path,
    progress: Progress,
    start: Path | None = None,
    only: str | None = None,
    command: Sequence[str] = (),
) -> Outcome:
    """Run a recipe's stages into ``out``, or ``only`` those of that section, then report.

    ``start`` is an artifact to begin from instead of the stages that lead to it. ``code`` is where the recipe's own
    modules are imported from, ``command`` what was typed, for the report. Raises MmedgeError and its kinds; an interrupted call goes on where it stopped. Of
    several processes that train together (``training.processes``) all train, the main one does the rest and has the
    report.
    """
    processes.start()
    progress = progress if processes.is_main() else Silent()
    if processes.launched_alone():
        progress.say(
            "one process alone trains: without a GPU accelerate starts several only by --mpirun_hostfile; --devices N does it here"
        )
    given = artifacts.read(start) if start else None
    if given:
        refuse_foreign(code_of_artifact(given, recipe), str(given.path))
    try:
        recipe, assumed = with_preprocessing(recipe)
    except UsageError:
        if given is None:
            raise
        assumed = []  # the artifact knows its preprocessing, and needs no folder of its encoders
    for note in assumed:
        progress.say(note)
    plan = planned(recipe, out, given, only)
    for name in recipe.trackers:  # a package that is missing is told before anything is trained for it
        tracking.require(name)
    for step in plan.every:
        if step.name in plan.wanted and getattr(step.config, "required", True):
            step.row.require(step.part)
    with held(out) if processes.is_main() else nullcontext():
        with processes.main_first():
            dataset = samples.prepare(recipe, out, code=code, progress=progress)
            remember(recipe, code, out / ".work")
            refuse_unjudgeable(recipe, dataset)
        context = Context(recipe, dataset, out, code, progress, command=tuple(command))
        if recipe.distill and recipe.distill.budget:
            # It imports torch, which a run that computes nothing does not wait for.
            from mmedge.pipeline.proposing import with_student

            with processes.main_first():
                recipe = with_student(recipe, dataset.contract, out / ".work", context.factory, progress)
                remember(recipe, code, out / ".work")
            context, plan = replace(context, recipe=recipe), planned(recipe, out, given, only)
        with following(recipe.trackers if processes.is_main() else (), recipe.name, out, progress.say) as tracked:
            tracked.parameters(parameters_of(recipe))
            return _fold(plan, replace(context, tracking=tracked))


def planned(recipe: Recipe, out: Path, given: Artifact | None, only: str | None) -> Plan:
    """What to run and what to take; raises UsageError where the recipe has no such stage, or ``given`` does not lead to it."""
    every = steps(recipe)
    wanted = [step for step in every if only is None or step.row.name == only]
    if not wanted:
        raise UsageError(f"the recipe has no section {only!r}", todo=f"it has {', '.join(step.name for step in every)}")
    before = _place(every, wanted[0].name) - 1
    if given is None and before == 0 and not every[0].trains:
        wanted = every[:1] + wanted  # what is taken as it is needs no verb of its own
    names = [step.name for step in wanted]
    if given and len(wanted) == 1 and wanted[0].row.repeats and given.stage == wanted[0].name:
        if given.path.resolve() == (out / given.stage).resolve():
            raise UsageError(
                "the result would replace the artifact that it starts from", where=str(out), todo="name another --out"
            )
        again = replace(wanted[0], name=PARENT)
        return Plan(every, [*(step for step in every if step.row.role == "teacher"), again, *wanted], names, given)
    last = _place(every, names[-1])
    chain = [step for step in every[: last + 1] if step in wanted or not step.ends]
    if given:
        first = _place(every, given.stage)
        if first < 0 or every[first].ends:
            raise UsageError(
                f"no stage of the recipe can start from an artifact of stage {given.stage!r}", where=str(given.path)
            )
        if first >= last:
            raise UsageError(
                f"the artifact is of stage {given.stage!r}; {names[-1]} needs an earlier one", where=str(given.path)
            )
        chain = [step for step in chain if _place(every, step.name) >= first or step.row.role == "teacher"]
    return Plan(every, chain, names, given)


def _place(every: list[Step], name: str) -> int:
    """The number of the stage of that name, -1 where there is none."""
    return next((number for number, step in enumerate(every) if step.name == name), -1)


def _fold(plan: Plan, context: Context) -> Outcome:
    """The stages one after another, and the report."""
    if plan.given:
        _check_same_data(plan.given, plan.every, context)
    for before, step in zip(plan.every, plan.every[1:]):
        untouched = {before.name, step.name} <= {*plan.wanted} and not _made(context.out / before.name)
        if plan.given is None and untouched:
            step.row.refuse(context)  # not after hours of training what comes before it
    for step in plan.chain:
        if plan.makes(step) and not _made(context.out / step.name):
            step.row.tries(context)
    ran: list[Ran] = []
    for step in plan.chain:
        ran.append(_run_step(step, ran, plan, context) if plan.runs(step) else _earlier(step, plan, context))
    processes.finish()
    if not processes.is_main():
        return Outcome(None, 0)
    ran = [done for done in ran if done.artifact or done.stage in plan.wanted]
    return conclude(ran if plan.given else _still_valid(ran, plan.every, context), context)


def _made(folder: Path) -> bool:
    return (folder / artifacts.MANIFEST).is_file()


def _earlier(step: Step, plan: Plan, context: Context) -> Ran:
    """An artifact that an earlier command wrote. The teacher may also stand beside the given artifact, or be absent."""
    given, out = plan.given, context.out
    if given and step.name in (given.stage, PARENT):
        return Ran(step, given, "cached", 0.0, given=True)
    places = [out / step.name, *([given.path.parent / step.name] if given else [])]
    found = next(filter(_made, places), None)
    if found is None:
        if given:
            return Ran(step, None, "skipped", 0.0, f"no {step.name} beside the artifact that the run starts from")
        raise UsageError(
            f"there is no {step.name} artifact in {out}",
            todo=f"run mmedge {step.row.verb} first, or name an artifact with --from",
        )
    earlier = artifacts.read(found)
    _check_same_data(earlier, plan.every, context)
    return Ran(step, earlier, "cached", 0.0, given=given is not None)


def _run_step(step: Step, before: list[Ran], plan: Plan, context: Context) -> Ran:
    """Run one stage, or take it from the run's folder where nothing that it depends on has changed."""
    given = plan.given
    if given and given.stage == step.name and not any(done.stage == PARENT for done in before):
        return Ran(step, _with_the_run(given, context), "cached", 0.0, given=True)
    if not getattr(step.config, "required", True):
        try:
            step.row.require(step.part)
        except MissingDependency as error:
            return Ran(step, None, "skipped", 0.0, f"{error.what}; {error.todo}")
    parent, teacher, target = parent_of(before), teacher_of(before), context.out / step.name
    key = key_of(step, parent, teacher, context)
    cached = artifacts.unchanged(target, key, context.progress.say) if processes.is_main() else None
    if processes.of_main(lambda: cached is not None):
        cached = cached or artifacts.read(target)
        context.progress.say(f"{step.name}: unchanged, taken from {target}")
        _forget_work(step, context)
        return Ran(step, cached, "cached", 0.0)
    started = time.monotonic()
    context = replace(context, stage=step.name, part=step.part, key=key, teacher=teacher)
    if step.trains:
        made = make(step.row.run, parent, step.config, context)
    else:
        with processes.main_first(), processes.alone():  # the others read what it wrote
            alone = processes.is_main()
            made = make(step.row.run, parent, step.config, context) if alone else artifacts.read(target)
    _forget_work(step, context)
    return Ran(step, made, "ran", time.monotonic() - started)


def _with_the_run(given: Artifact, context: Context) -> Artifact:
    """A copy of the artifact that a whole run starts from: the run's folder lacks nothing when that one has gone."""
    with processes.main_first():
        target = context.out / given.stage
        return artifacts.copied(given, target) if processes.is_main() else artifacts.read(target)


def make(run: Callable[..., StageResult], parent: Artifact | None, config: Any, context: Context) -> Artifact:
    """Run a stage's function and write the artifact: of several processes the main one writes it, and all read it."""
    target = context.out / context.stage
    if processes.is_main():
        shutil.rmtree(context.folder, ignore_errors=True)  # of an interrupted run
        context.folder.mkdir(parents=True)
    result = run(parent, config, context)
    if processes.is_main():
        parent_hash = parent.sha256 if parent else None
        with artifacts.creating(target, stage=context.stage, key=context.key, parent=parent_hash) as (folder, meta):
            for made in context.folder.iterdir():
                shutil.move(made, folder / made.name)
            meta |= result.record()
    processes.wait()
    return artifacts.read(target)


def _forget_work(step: Step, context: Context) -> None:
    """Remove what a stage that is done kept for an interruption, under this key or under one that it was begun with before."""
    if processes.is_main():
        for work in (context.out / ".work").glob(f"{step.name}-{'[0-9a-f]' * 16}"):
            shutil.rmtree(work, ignore_errors=True)


def _still_valid(ran: list[Ran], every: list[Step], context: Context) -> list[Ran]:
    """What earlier commands made of the stages behind the ones that ran, as far as it still follows from them.

    So that one verb on a finished run's folder leaves its report whole.
    """
    found = list(ran)
    for step in every:
        if step.name not in [done.stage for done in found]:
            key = key_of(step, parent_of(found), teacher_of(found), context)
            artifact = artifacts.unchanged(context.out / step.name, key, context.progress.say)
            if artifact:
                found.append(Ran(step, artifact, "cached", 0.0))
            elif not step.ends:
                break
    return found


def _check_same_data(given: Artifact, every: list[Step], context: Context) -> None:
    """An artifact belongs to the recipe where its classes and preprocessing are the data's.

    A teacher that only teaches may have its own: of its classes the recipe says what they mean.
    """
    if "contract" not in given.meta:
        raise UsageError(f"an artifact of stage {given.stage!r} cannot be gone on from", where=str(given.path))
    theirs, ours, place = contract_of(given), context.dataset.contract, _place(every, given.stage)
    teaches = place >= 0 and every[place].row.role == "teacher" and any(step.row.role == "student" for step in every)
    if teaches:
        class_map(theirs, ours, every[place].config.classes, f"teacher.classes, of {given.path}")
        samples.check_read(ours.modalities, theirs.modalities)
        return
    differing = [name for name, spec in theirs.modalities.items() if ours.modalities.get(name) != spec]
    if _meaning(theirs) != _meaning(ours) or differing:
        what = f"the modality {differing[0]!r}" if differing else "the classes"
        raise UsageError(
            f"the artifact is of another recipe: {what} in it is not that of this recipe's data",
            where=str(given.path),
            todo="use its own recipe, or run the earlier stages again",
        )


def _meaning(contract: Contract) -> dict[str, tuple[str, tuple[str, ...]]]:
    """{head: its task and labels}: a regression's mean and deviation may be another split's."""
    return {name: (head.task, head.labels) for name, head in contract.heads.items()}
