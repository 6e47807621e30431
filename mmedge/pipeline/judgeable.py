"""Before anything is trained: gates that nothing can be judged by, and what the samples that there are can tell at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mmedge import gate, tasks
from mmedge.contract import subsets
from mmedge.data.store.samples import Dataset
from mmedge.errors import Fault, UsageError, did_you_mean
from mmedge.measure.intervals import student
from mmedge.recipe import Recipe
from mmedge.tasks import Head

# The share of samples on which one of two models that are as good alone is right: with all modalities, and with some.
APART, APART_OF_SUBSETS = 0.05, 0.1


@dataclass(frozen=True)
class Judged:
    """What a split judges by: labelled samples, and independent groups of them."""

    split: str
    n: int
    groups: int

    @property
    def size(self) -> int:
        """Samples, less what few groups tell of the variance (``intervals.effective_size`` of samples that are unlike)."""
        if self.groups >= self.n or self.groups < 2:
            return self.n
        return int(self.n * (student(0.05, self.n - 1) / student(0.05, self.groups - 1)) ** 2)


def unjudgeable(
    recipe: Recipe,
    heads: Mapping[str, Head],
    targets: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    *,
    learnt: bool,
) -> Iterator[Fault]:
    """What no run could judge, each kind of it once. ``targets``, ``present``: {head}, {modality: bool [n]} of the test split; ``learnt``: whether training has labels."""
    found: dict[str, Fault] = {}

    def fault(where: str, what: str, todo: str) -> None:
        found.setdefault(what, Fault("error", "gate", f"a gate cannot be judged: {what}", module=where, todo=todo))

    for stage, limits in recipe.limits.items():
        for name in limits:
            head = gate.head_of(name)[0] or next(iter(heads))
            where = f"gates.{stage}.{name}"
            known = tasks.of(heads[head]).known(targets[head])
            subset = gate.subset_of(name)
            own = name in recipe.own_limits.get(stage, {})
            if gate.accuracy(name) and not gate.of_gain(name) and not known.any():
                fault(where, f"no test sample has a target of {head}", "label some, or say gates: none")
            elif strange := _strange_part(name, heads[head]):
                fault(where, *strange)
            elif gate.family(name) == gate.GUARD and _one(heads[head], targets[head][known]):
                what = f"all labelled test samples have one class: nothing of {head} can be judged by them"
                fault(where, what, "correct data.split or data.ratios, or say gates: none")
            elif subset and own and not _there(subset, present).any():
                names = ["+".join(chosen) for chosen in subsets(tuple(present))]
                able = ", ".join(each for each in names if _there(each, present).any())
                fault(where, f"no test sample has all of {subset}", f"name another subset; there are {able}")
            elif gate.family(name) == "above_baseline" and own and not learnt:
                fault(where, "training has no label that a baseline could learn", "take the gate out")
    yield from found.values()


def _strange_part(name: str, head: Head) -> tuple[str, str] | None:
    """What is wrong with the label, value or direction that a figure is asked of, and what to do; None where nothing is."""
    part, parts = (gate.other_of(name) or "").partition(".")[2], tasks.of(head).parts(head)
    if not part or part in parts:
        return None
    return f"there is no {part!r}{did_you_mean(part, parts)}", f"there are {', '.join(parts) or 'no parts of it'}"


def _one(head: Head, targets: np.ndarray) -> bool:
    task = tasks.of(head)
    return task.LABELS and not task.SEVERAL and len(np.unique(targets)) < 2


def _there(subset: str, present: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.all([present[name] for name in subset.split("+")], axis=0)


def refuse_unjudgeable(recipe: Recipe, dataset: Dataset) -> None:
    """Raise UsageError where a gate cannot be judged on the test split, before anything is trained."""
    test = dataset.test
    present = {name: test.present[:, place] for place, name in enumerate(test.inputs)}
    faults = list(unjudgeable(recipe, test.heads, test.targets, present, learnt=bool(dataset.train.labelled.any())))
    if faults:
        more = f" (and {len(faults) - 1} more; mmedge check lists them)" if len(faults) > 1 else ""
        raise UsageError(faults[0].what + more, where=faults[0].module, todo=faults[0].todo)


def power(recipe: Recipe, validation: Judged, test: Judged) -> list[str]:
    """What can be told of losses by the validation split, which chooses, and by the test split, which judges: a sentence each."""
    if not any(tasks.of(target).LABELS for target in recipe.data.heads.values()):
        return []  # of figures that are no shares of samples, nothing is known beforehand
    confidence, found = recipe.judging.confidence, []
    for judged in (validation, test):
        least = gate.told_apart(judged.size, APART, confidence)
        of_subsets = gate.told_apart(judged.size, APART_OF_SUBSETS, confidence)
        some = f" (of one modality alone {100 * of_subsets:.1f})" if len(recipe.data.modalities) > 1 else ""
        in_groups = f" in {judged.groups} groups" if judged.groups < judged.n else ""
        found.append(
            f"with {judged.n} {judged.split} samples{in_groups} a drop under {100 * least:.1f} points{some} cannot be told"
            f" from none, where one of two models alone is right on {APART:.0%} of them ({APART_OF_SUBSETS:.0%})"
        )
    return found


def weak(recipe: Recipe, validation: Judged, test: Judged) -> Iterator[Fault]:
    """Warnings of budgets and gates that their samples cannot show to be met, however good the model is."""
    judging = recipe.judging
    if judging.policy != "strict":
        return
    for stage, section in recipe.sections.items():
        for key in ("max_drop", "max_subset_drop"):
            limit = getattr(section, key, None)
            if limit is not None:
                yield from _weak(f"{stage}.{key}", limit, validation, judging.confidence)
    for stage, limits in recipe.limits.items():
        for name, limit in limits.items():
            if gate.family(name) in ("quality_drop_to_teacher", "quality_drop_to_parent", "subset_drop"):
                yield from _weak(f"gates.{stage}.{name}", limit, test, judging.confidence)


def _weak(where: str, limit: float, judged: Judged, confidence: float) -> Iterator[Fault]:
    """A limit below what so few samples can prove: nothing that differs at all can meet it."""
    least = gate.least_for(limit, confidence)
    if judged.size >= least:
        return
    what = (
        f"{judged.n} {judged.split} samples are too few for any verdict on a loss of {limit:g}: {least:,} are the least,"
        f" where not one is answered otherwise"
    )
    allowed = max(0.01, 1.1 * gate.told_apart(judged.size, APART, confidence))
    todo = f"allow more (about {allowed:.2g}), add samples, or say gates.policy: point, by which luck passes too"
    yield Fault("warning", "power", what, module=where, todo=todo)
