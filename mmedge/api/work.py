"""From what a caller gave to the recipe, the folder and the call of the pipeline that the command line makes too."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmedge import artifact
from mmedge import recipe as recipes
from mmedge.api import dataset
from mmedge.api.networks import network
from mmedge.api.options import Options
from mmedge.api.results import Model
from mmedge.errors import UsageError
from mmedge.pipeline import fold
from mmedge.pipeline.ran import Outcome
from mmedge.pipeline.stages import row_of
from mmedge.progress import Progress, Silent, shown
from mmedge.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """What a function goes on from: a recipe's values, the artifact, where there is one, and what must live meanwhile."""

    values: dict[str, Any]
    code: Path
    artifact: Path | None = None
    keeps: Any = None
    notes: tuple[str, ...] = ()


@contextmanager
def progressing(given: Progress | bool | None) -> Iterator[Progress]:
    """Bars or lines where nothing is said, nothing where it is False, else the caller's own."""
    if given is None or given is True:
        with shown() as progress:
            yield progress
    else:
        yield given or Silent()


def folder(out: str | Path | None, progress: Progress) -> Path:
    """Where a function writes: ``out``, or a temporary folder, which is said."""
    if out is not None:
        return Path(out).expanduser()
    made = Path(tempfile.mkdtemp(prefix="mmedge-"))
    progress.say(f"mmedge: working in {made}; 'out' names a folder that is kept, and that a repeated call goes on from")
    return made


def started(model: Any, data: Any, options: Options, out: Path) -> Start:
    """The recipe of a model that has learnt already, and the data that goes with it."""
    found = _earlier(model)
    if found is not None:
        return _gone_on(found, data, options)
    taker = network(model, weights=options.weights)
    if data is None:
        raise UsageError(
            "data is missing", todo="give the samples that the model is for, as a DataLoader or {name: array}"
        )
    given = dataset.given(data, taker, seed=options.seed)
    values = {"data": given.values, "teacher": _with(taker.written(out), given.model(taker))}
    return Start(values, given.folder, keeps=(taker.keeps, given.keeps), notes=taker.notes)


def _with(section: dict[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """A section with more of its ``model``."""
    return {**section, "model": {**section.get("model", {}), **model}}


def _earlier(model: Any) -> Model | None:
    """What an earlier call, of this process or of another, returned or saved."""
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, Path)) and (Path(model).expanduser() / artifact.MANIFEST).is_file():
        return Model.load(model)
    return None


def _gone_on(model: Model, data: Any, options: Options) -> Start:
    """The recipe that made a model, with other data where some is given, and without the stages behind it."""
    assert model.recipe is not None
    section = row_of(artifact.read(model.path).stage).section
    values: dict[str, Any] = model.recipe.resolved()
    names = list(model.recipe.sections)
    for name in names[names.index(section) + 1 :]:
        values.pop(name, None)
    keeps = [model.keeps]
    if data is not None:
        given = dataset.given(data, network(model.onnx), seed=options.seed)
        values["data"] = given.values
        keeps.append(given.keeps)
    return Start(values, model.code, model.path, tuple(keeps))


def taught(student: Any, teacher: Any, data: Any, options: Options, out: Path) -> Start:
    """The recipe of a student and what teaches it."""
    learner = network(student)
    earlier = _earlier(teacher)
    if earlier is not None and row_of(artifact.read(earlier.path).stage).role == "teacher":
        start = _gone_on(earlier, data, options)
        given = dataset.DataSection(
            start.values["data"], {name: name for name in start.values["data"]["modalities"]}, start.code
        )
    else:
        master = network(earlier.onnx if earlier else teacher, weights=options.weights)
        if data is None and earlier is None:
            raise UsageError("data is missing", todo="give the samples that the student learns from")
        if data is None:
            assert earlier is not None and earlier.recipe is not None
            whole: dict[str, Any] = earlier.recipe.resolved()
            given = dataset.DataSection(
                whole["data"], {name: name for name in whole["data"]["modalities"]}, earlier.code, earlier.keeps
            )
        else:
            given = dataset.given(data, master if master.takes or master.may_take else learner, seed=options.seed)
        values = {"data": given.values, "teacher": _with(master.written(out), given.model(master))}
        start = Start(values, given.folder, keeps=(master.keeps, given.keeps), notes=master.notes)
    section = {**options.own, "model": {**learner.model, **given.model(learner)}}
    return replace(start, values={**start.values, "distill": section}, keeps=(start.keeps, learner.keeps))


def recipe_of(start: Start, verb: str, sections: Mapping[str, Any], options: Options) -> Recipe:
    """The recipe of a call; raises InvalidRecipe that names the setting."""
    values = {
        "schema": 1,
        "name": f"mmedge {verb}",
        "seed": options.seed,
        **start.values,
        **sections,
        **options.shared,
    }
    return recipes.parse(values, where=Path(f"mmedge.{verb}"), folder=start.code)


def run(recipe: Recipe, start: Start, out: Path, only: str | None, progress: Progress) -> Outcome:
    """The call that ``mmedge VERB RECIPE`` makes: run, measure, judge, and draw the report."""
    from mmedge.report.html import write_html

    for note in start.notes:
        progress.say(f"model: {note}")
    # A network that has learnt nothing yet is trained first, which is a verb of its own.
    if only and start.artifact is None and recipe.teacher.trained_here and only != "teacher":
        fold.run(recipe, out, code=start.code, progress=progress, only="teacher")
    outcome = fold.run(recipe, out, code=start.code, progress=progress, start=start.artifact, only=only)
    if outcome.report is not None:
        write_html(outcome.report, out / "report.html", out / ".work" / "pictures")
    return outcome
