"""THE table of the stages: a row each. A new stage is its file in ``stages/``, its section of the recipe, and one row here.

Nothing else decides by a stage's name. The functions import their stage when they are called: what a run takes from its
folder as it is needs none of the libraries that made it, and ``mmedge --help`` reads the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mmedge.artifact import Artifact
    from mmedge.backends import Options
    from mmedge.recipe import Distill, MainTeacher, Prune, Quantize, Recipe
    from mmedge.stages import results
    from mmedge.stages.results import StageResult
    from mmedge.training.context import Context

# What comes of a stage: the network that teaches, one that learns from it, the same one made smaller, or an engine, from
# which nothing follows.
Role = Literal["teacher", "student", "smaller", "engine"]


@dataclass(frozen=True)
class Stage:
    """A row of the table. ``name``: of its artifact; ``verb``: on the command line, where ``help`` says what it does;
    ``section``: its key in the recipe; ``file``: its code, in the package.

    ``run(parent, config, context)`` returns a ``result()``; ``depends_on(recipe)``: what its outcome depends on beside its
    section, the parent, the data and the code; ``taught``: on the teacher too. ``trains(config)``: the processes that
    train together share its work; else the main one does it. ``repeats``: it may start from an artifact of its own.
    ``refuse(context)`` raises what can be known before the stages in front of it are trained, ``tries(context)`` what
    keeps a network of the user's own from shipping, ``require(part)`` what the machine lacks for it.
    """

    name: str
    verb: str
    section: str
    role: Role
    file: str
    help: str
    run: Callable[..., StageResult]
    result: Callable[[], type[StageResult]] = lambda: _results().StageResult
    depends_on: Callable[[Recipe], tuple[Any, ...]] = lambda recipe: ()
    taught: bool = False
    trains: Callable[[Any], bool] = lambda config: False
    repeats: bool = False
    refuse: Callable[[Context], None] = lambda context: None
    tries: Callable[[Context], None] = lambda context: None
    require: Callable[[str], None] = lambda part: None


@dataclass(frozen=True)
class Step:
    """A stage of one recipe: its row, its name, and its settings. ``part``: the backend of an export, else empty."""

    row: Stage
    name: str
    part: str
    config: Any

    @property
    def ends(self) -> bool:
        """Whether nothing follows from its artifact."""
        return self.row.role == "engine"

    @property
    def trains(self) -> bool:
        return self.row.trains(self.config)


def steps(recipe: Recipe) -> list[Step]:
    """The stages that a recipe has, in the table's order."""
    sections = recipe.sections
    return [
        Step(row, name, part, config)
        for row in STAGES
        if row.section in sections
        for name, (part, config) in zip(
            sections[row.section].stages(row.section), sections[row.section].parts().items()
        )
    ]


def row_of(stage: str) -> Stage:
    """The row whose artifact is called so: its own name, or its name and a part's. KeyError where none is."""
    rows = {row.name: row for row in STAGES}
    return rows[stage] if stage in rows else rows[stage.partition("-")[0]]


def _results() -> Any:
    from mmedge.stages import results

    return results


def _graph_depends(recipe: Recipe) -> tuple[Any, ...]:
    """The opset of what is exported, where the recipe says one."""
    return () if recipe.export.opset is None else (recipe.export.opset,)


def _train(parent: None, config: MainTeacher, context: Context) -> StageResult:
    from mmedge.stages.train import train

    return train(parent, config, context)


def _teacher_tried(context: Context) -> None:
    from mmedge.stages.trial import try_teacher

    try_teacher(context)


def _student_tried(context: Context) -> None:
    from mmedge.stages.trial import try_student

    try_student(context)


def _distill(parent: Artifact, config: Distill, context: Context) -> results.DistillResult:
    from mmedge.stages.distill import distill

    return distill(parent, config, context)


def _untaught(context: Context) -> None:
    from mmedge.errors import UsageError, refuse
    from mmedge.stages.ignored import ignored_faults
    from mmedge.training.faults import refuse_untaught
    from mmedge.training.privacy import refuse_unkept

    refuse_untaught(context)
    refuse_unkept(context)
    refuse(ignored_faults(context.recipe, context.dataset.contract, context.factory), UsageError)


def _prune(parent: Artifact, config: Prune, context: Context) -> results.PruneResult:
    from mmedge.stages.prune import prune

    return prune(parent, config, context)


def _judged_by(recipe: Recipe) -> tuple[str, float]:
    """How budgets on validation are judged."""
    return recipe.judging.policy, recipe.judging.confidence


def _prune_depends(recipe: Recipe) -> tuple[Any, ...]:
    """What the channels that are left are a multiple of follows the targets, unless the recipe says it."""
    gpu = recipe.prune and recipe.prune.round_to == "auto" and recipe.export.on_gpu
    return recipe.distill, recipe.measure, gpu, _judged_by(recipe), recipe.prefer, *_graph_depends(recipe)


def _quantize(parent: Artifact, config: Quantize, context: Context) -> results.QuantizeResult:
    from mmedge.stages.quantize import quantize

    return quantize(parent, config, context)


def _quantize_depends(recipe: Recipe) -> tuple[Any, ...]:
    """Which fallbacks are tried, and whether INT8 is trained that is no faster here, follows the targets."""
    return (
        recipe.distill,
        recipe.measure,
        recipe.export.elsewhere,
        recipe.export.asks_int8,
        _judged_by(recipe),
        recipe.prefer,
    )


def _export(parent: Artifact, config: Options, context: Context) -> results.ExportResult:
    from mmedge.stages.export import export

    return export(parent, config, context)


def _export_depends(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.export, recipe.measure, recipe.prefer


def _builder(part: str) -> None:
    from mmedge.backends import require_builder

    require_builder(part)


STAGES = (
    Stage(
        "teacher", "train", "teacher", "teacher", "stages/train", "Train the teacher.", _train, depends_on=_graph_depends,
        trains=lambda config: config.trained_here, tries=_teacher_tried,
    ),
    Stage(
        "distill", "distill", "distill", "student", "stages/distill",
        "Distil the teacher into a student, and train its control.", _distill, lambda: _results().DistillResult,
        _graph_depends,
        taught=True, trains=lambda config: True, refuse=_untaught, tries=_student_tried,
    ),
    Stage(
        "prune", "prune", "prune", "smaller", "stages/prune", "Prune the student and recover it with the teacher.",
        _prune, lambda: _results().PruneResult, _prune_depends,
        taught=True, trains=lambda config: True, repeats=True,
    ),
    Stage(
        "quantize", "quantize", "quantize", "smaller", "stages/quantize", "Make candidate precisions and keep the best.",
        _quantize, lambda: _results().QuantizeResult, _quantize_depends,
        taught=True,
    ),
    Stage(
        "export", "export", "export", "engine", "stages/export", "Build the engines and the bundle.",
        _export, lambda: _results().ExportResult, _export_depends,
        require=_builder,
    ),
)  # fmt: skip
