"""A recipe's student for a budget: proposed once for the same recipe and data, and from then on as if it stood in the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from mmedge import backends
from mmedge.artifact import code_hash, hash_json, remembered
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.measure.proposal import Setting, proposed
from mmedge.models import load
from mmedge.progress import Progress
from mmedge.recipe import Model, Recipe, TeacherConfig
from mmedge.training.faults import own_contract

_CODE = ("models", "measure/proposal.py", "measure/latency.py", "profiling/timing.py")


def with_student(
    recipe: Recipe, contract: Contract, work: Path, factory: Callable[[Model], object], progress: Progress
) -> Recipe:
    """The recipe with the encoders and widths that ``distill.budget`` asks for; as it is where there is none.

    ``contract``: the data's; ``work``: where what was measured is kept, so that a run that goes on has the same student.
    Raises UsageError where no network keeps the budget.
    """
    distill = recipe.distill
    if distill is None or distill.budget is None:
        return recipe
    budget, model = distill.budget, distill.model
    setting = Setting(
        own_contract(TeacherConfig(model=model), contract),
        _timing(recipe),
        recipe.measure,
        lambda: _teacher(recipe, contract, factory),
    )
    teacher = recipe.teacher.model_dump_json() if budget.ratio is not None else ""
    key = hash_json(
        [distill.model_dump_json(), setting.contract.model_dump(mode="json", by_alias=True), setting.backend, teacher,
         recipe.measure.model_dump_json(), code_hash(*_CODE)]
    )  # fmt: skip
    kept = remembered(
        work / "proposals" / f"{key[:24]}.json",
        lambda: proposed(model, budget, setting, progress).model_dump(mode="json"),
    )
    chosen = Model.model_validate(kept)
    progress.say(chosen.proposed or "")
    return recipe.model_copy(update={"distill": distill.model_copy(update={"model": chosen, "budget": None})})


def _teacher(recipe: Recipe, contract: Contract, factory: Callable[[Model], object]) -> tuple[nn.Module, Contract]:
    teacher = recipe.teacher
    if teacher.onnx or teacher.outputs:
        raise UsageError(
            "a ratio is to a teacher that is a network here",
            where="distill.budget.ratio",
            todo="give latency_ms instead",
        )
    own = own_contract(teacher, contract)
    return load.build(teacher.model, own, factory=factory(teacher.model), fresh=True), own


def _timing(recipe: Recipe) -> str:
    """The first target that runs a graph here as it is, else that of every artifact's own graph."""
    able = (name for name in recipe.export.targets if backends.find(name).runs_graphs and backends.can_run(name))
    return next(able, backends.GRAPH_BACKEND)
