"""The section ``gates``, and the limits of a recipe that has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from mmedge import tasks
from mmedge.contract import subsets
from mmedge.errors import brief, did_you_mean
from mmedge.frozen import Frozen
from mmedge.gate import GUARD, Policy
from mmedge.tasks.head import Target

Limits = dict[str, dict[str, float]]
# What a shipped engine may lose against its teacher, and a subset against the student: points of a share, or this part of
# another figure.
DROP, RATIO = 0.02, 0.95


class Gates(Frozen):
    """Stage -> figure -> limit, judged on the test split. A limit that is not met fails the run: exit code 3 for accuracy, 4 for
    latency, size and memory. Without limits the shipped engines get those that ``init`` writes; ``gates: none`` asks nothing."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]]

    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="With which a limit must be met; budgets in prune and quantize too."
    )
    policy: Policy = Field(
        "strict",
        description="strict: the bound of a figure must meet its limit, and what its samples cannot tell does not pass;"
        " point: the figure alone, as if it had no noise.",
    )

    @model_validator(mode="before")
    @classmethod
    def _stages_have_figures(cls, given: Any) -> Any:
        for name, value in (given or {}).items() if isinstance(given, dict) else ():
            if name not in cls.model_fields and not isinstance(value, dict):
                raise ValueError(
                    f"{brief(name)} is no key here{did_you_mean(str(name), cls.model_fields)}; of a stage write its figures"
                    " with their limits, as {distill: {quality: 0.9}}"
                )
        return {} if given is None else given

    @property
    def limits(self) -> Limits:
        """{stage: {figure: limit}} as the recipe gives them."""
        return dict(self.__pydantic_extra__ or {})


def _form(given: Any) -> str:
    return "none" if isinstance(given, str) else "limits"


NoneOrGates = Annotated[Annotated[Gates, Tag("limits")] | Annotated[Literal["none"], Tag("none")], Discriminator(_form)]


def guarded(limits: Mapping[str, Mapping[str, float]], engines: Sequence[str], heads: Mapping[str, Target]) -> Limits:
    """The limits with the guard on every shipped engine that does not name it."""
    found = {stage: dict(of_stage) for stage, of_stage in limits.items()}
    for stage in engines:
        for before in _prefixes(heads):
            found.setdefault(stage, {}).setdefault(f"{before}{GUARD}", 0.0)
    return found


def default_limits(
    engines: Sequence[str], heads: Mapping[str, Target], modalities: Sequence[str], against: Literal["teacher", "parent"],
    drops: tuple[float, float] = (DROP, DROP), *, labelled: bool = True,
) -> Limits:  # fmt: skip
    """What shipped engines must hold where a recipe says nothing: {stage: {figure: limit}}.

    No worse than the teacher (or the parent, where the teacher sees what the engine does not or is a file of outputs) by more
    than ``drops[0]``, no subset of the modalities worse than the student's by more than ``drops[1]``, better than who always
    says the most frequent, and, where training has labels, than a linear model of the same inputs.
    """
    limits: dict[str, float] = {}
    for before, target in _prefixes(heads).items():
        share = tasks.of(target).FIGURES[tasks.of(target).METRIC] == "share"
        limits[f"{before}quality_{'drop' if share else 'ratio'}_to_{against}"] = drops[0] if share else RATIO
        if len(modalities) > 1:
            for chosen in subsets(tuple(modalities)):
                name = f"{before}subset_{'drop' if share else 'ratio'}.{'+'.join(chosen)}"
                limits[name] = drops[1] if share else RATIO
        limits[f"{before}{GUARD}"] = 0.0
        if labelled and tasks.row_by_row(target):
            limits[f"{before}above_baseline"] = 0.0
    return {stage: dict(limits) for stage in engines}


def _prefixes(heads: Mapping[str, Target]) -> dict[str, Target]:
    """{what stands before a figure's name: the head that it is of}."""
    return (
        {f"heads.{name}.": target for name, target in heads.items()}
        if len(heads) > 1
        else {"": next(iter(heads.values()))}
    )
