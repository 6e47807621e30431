"""Gates: limits on measured figures. A pure function from figures, with what is known of them, and limits to a verdict.

A limit is met where the worse bound of the figure is inside it, missed where the better bound is outside, and else it
cannot be told: that is no pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from mmedge.tasks import TASKS

ACCURACY_EXIT, COST_EXIT = 3, 4
Outcome = Literal["pass", "fail", "cannot tell"]
Policy = Literal["strict", "point"]

# figure -> (whether the limit is a minimum, exit code where it is missed). A dotted prefix stands for a family.
FIGURES: dict[str, tuple[bool, int]] = {
    "quality": (True, ACCURACY_EXIT),
    "quality_drop_to_teacher": (False, ACCURACY_EXIT),
    "quality_drop_to_parent": (False, ACCURACY_EXIT),
    "quality_ratio_to_teacher": (True, ACCURACY_EXIT),
    "quality_ratio_to_parent": (True, ACCURACY_EXIT),
    "subset": (True, ACCURACY_EXIT),
    "subset_drop": (False, ACCURACY_EXIT),
    "subset_ratio": (True, ACCURACY_EXIT),
    "others": (True, ACCURACY_EXIT),
    "subset_others": (True, ACCURACY_EXIT),
    "above_majority": (True, ACCURACY_EXIT),
    "above_baseline": (True, ACCURACY_EXIT),
    "worst_class_recall": (True, ACCURACY_EXIT),
    "ece": (False, ACCURACY_EXIT),
    "gain": (True, ACCURACY_EXIT),
    "gain_ci95_low": (True, ACCURACY_EXIT),
    "latency_p50_ms": (False, COST_EXIT),
    "latency_p95_ms": (False, COST_EXIT),
    "latency_p99_ms": (False, COST_EXIT),
    "latency_ratio_to_teacher": (False, COST_EXIT),
    "latency_ratio_to_parent": (False, COST_EXIT),
    "latency_p95_ratio_to_teacher": (False, COST_EXIT),
    "latency_p95_ratio_to_parent": (False, COST_EXIT),
    "latency_p99_ratio_to_teacher": (False, COST_EXIT),
    "latency_p99_ratio_to_parent": (False, COST_EXIT),
    "params": (False, COST_EXIT),
    "params_ratio_to_teacher": (False, COST_EXIT),
    "params_ratio_to_parent": (False, COST_EXIT),
    "macs": (False, COST_EXIT),
    "macs_ratio_to_parent": (False, COST_EXIT),
    "size_bytes": (False, COST_EXIT),
    "memory_bytes": (False, COST_EXIT),
    "energy_mj": (False, COST_EXIT),
}
# What stands on every shipped engine, whatever the recipe's author forgot: labels drawn by chance shall never pass. So it is
# judged by its bounds under every policy, and with this confidence.
GUARD, GUARD_CONFIDENCE = "above_majority", 0.999
# Figures that only outputs which are one of several labels have.
OF_LABELS = ("worst_class_recall", "ece")

_BY_SUBSET = ("subset", "subset_drop", "subset_ratio")
# A further figure of the task, by its name: ``others.f1``, ``others.recall.cat``; and of a subset of the modalities,
# ``subset_others.image+audio.f1``.
OTHERS, SUBSET_OTHERS = "others", "subset_others"
# Those of which less is better, in whatever task: a limit on one is the most that will do.
_ERRORS = {figure for task in TASKS.values() for figure, scale in task.FIGURES.items() if scale == "error"} | {"ece"}
_OF_THE_WHOLE = ("gain", "gain_ci95_low")
# What floating point adds to a difference of shares must not decide.
_ROUNDING = 1e-9
# The power that a number of samples is told for.
_POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A figure with what is known of it: the truth lies above ``low`` and below ``high``, each with the stated confidence.

    ``n``: the samples that it rests on; ``method``: of the bounds, by its name. Both are None of a figure without noise.
    """

    value: float
    low: float
    high: float
    n: int | None = None
    method: str | None = None

    @classmethod
    def exact(cls, value: float) -> Estimate:
        """A figure without noise."""
        return cls(value, value, value)


@dataclass(frozen=True)
class Gate:
    """One limit, judged. ``value`` is None where the figure could not be measured: such a gate does not pass.

    ``bounds``: what it was judged by; ``needs``: about how many samples would tell, where these cannot.
    """

    name: str
    limit: float
    value: float | None
    outcome: Outcome
    bounds: tuple[float, float] | None = None
    confidence: float | None = None
    method: str | None = None
    n: int | None = None
    needs: int | None = None

    @property
    def passed(self) -> bool:
        return self.outcome == "pass"

    def record(self) -> dict[str, str | float | bool | tuple[float, float]]:
        """As it stands in a report."""
        figures: dict[str, str | float | bool | tuple[float, float] | None] = {
            "name": self.name,
            "limit": self.limit,
            "value": self.value,
            "passed": self.passed,
        }
        figures |= {
            "outcome": self.outcome,
            "bounds": self.bounds,
            "confidence": self.confidence,
            "method": self.method,
        }
        figures |= {"n": self.n, "needs": self.needs, "sentence": str(self)}
        return {name: value for name, value in figures.items() if value is not None}

    def __str__(self) -> str:
        sign = "at least" if is_minimum(self.name) else "at most"
        if self.value is None:
            return f"{self.name} was not measured, and {sign} {self.limit:g} is asked: failed"
        measured = f"{self.name} is {self.value:.4g}"
        if self.bounds and self.bounds != (self.value, self.value):
            measured += f" [{self.bounds[0]:.4g}, {self.bounds[1]:.4g}]"
        limit = f"{sign} {self.limit:g} is asked"
        match self.outcome:
            case "pass":
                return f"{measured}, {limit}: passed"
            case "fail":
                return f"{measured}, {limit}: failed"
        of = f" from {self.n} samples" if self.n else ""
        more = f": about {self.needs:,} would" if self.needs else "" if self.n else f" ({self.method})"
        return f"{measured}, {limit}: cannot tell{of}{more}"


@dataclass(frozen=True)
class Verdict:
    """All gates of a stage. True where every one passed; ``exit_code`` is 0, 3 (accuracy) or 4 (cost), 3 winning."""

    gates: tuple[Gate, ...]

    def __bool__(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def exit_code(self) -> int:
        return min((FIGURES[family(gate.name)][1] for gate in self.gates if not gate.passed), default=0)


def judge(
    figures: Mapping[str, Estimate], limits: Mapping[str, float], policy: Policy = "strict", confidence: float = 0.95
) -> Verdict:
    """Hold each limit against its figure's bounds, or by the policy ``point`` against the figure alone.

    Costs are always judged by their bounds where they have some, and so is the guard.
    """
    gates = []
    for name, limit in limits.items():
        found = figures.get(name)
        sure = GUARD_CONFIDENCE if family(name) == GUARD else confidence
        if found is not None and policy == "point" and family(name) != GUARD and _exit(name) == ACCURACY_EXIT:
            found = Estimate(found.value, found.value, found.value, found.n)
        gates.append(_judged(name, limit, found, sure))
    return Verdict(tuple(gates))


def _judged(name: str, limit: float, found: Estimate | None, confidence: float) -> Gate:
    if found is None or math.isnan(found.value):
        return Gate(name, limit, None, "fail")
    minimum = is_minimum(name)
    worse, better = (found.low, found.high) if minimum else (-found.high, -found.low)
    least = limit if minimum else -limit
    outcome: Outcome = "pass" if worse >= least - _ROUNDING else "fail" if better < least - _ROUNDING else "cannot tell"
    of_noise = {"bounds": (found.low, found.high), "confidence": confidence} if found.method else {}
    needs = needed(found, limit, minimum=minimum, confidence=confidence) if outcome == "cannot tell" else None
    return Gate(name, limit, found.value, outcome, method=found.method, n=found.n, needs=needs, **of_noise)  # type: ignore[arg-type]


def needed(found: Estimate, limit: float, *, minimum: bool, confidence: float) -> int | None:
    """About how many samples would tell on which side of ``limit`` a figure like this lies, in four of five cases.

    None where it lies just at the limit, or is not of samples. Bounds shrink with the square root of the number.
    """
    gap = abs(found.value - limit)
    inside = found.value >= limit if minimum else found.value <= limit
    towards = found.low if minimum == inside else found.high
    reach = abs(found.value - towards)
    if not found.n or gap < 1e-6 or not math.isfinite(reach):
        return None
    z = NormalDist().inv_cdf(confidence)
    count = found.n * (reach / gap) ** 2 * ((z + NormalDist().inv_cdf(_POWER)) / z) ** 2
    digits = 10 ** max(0, math.floor(math.log10(max(count, 1))) - 1)
    return math.ceil(count / digits) * digits


def known(name: str) -> bool:
    """Whether a gate of this name exists; ``subset.image+audio``, ``subset_drop.audio``, ``others.f1`` and ``subset_others.audio.f1`` belong to families.

    Of a head, ``heads.NAME.`` stands before those of accuracy but the gain's.
    """
    head, figure = head_of(name)
    if head is not None and (_exit(name) != ACCURACY_EXIT or family(name) in _OF_THE_WHOLE):
        return False
    dots = 2 if family(name) == SUBSET_OTHERS else 1 if family(name) in (*_BY_SUBSET, OTHERS) else 0
    return family(name) in FIGURES and (figure.count(".") >= dots if dots else "." not in figure)


def head_of(name: str) -> tuple[str | None, str]:
    """(the head that a gate is of, the figure's name without it); None where it is of the whole model."""
    if not name.startswith("heads."):
        return None, name
    _, head, figure = (*name.split(".", 2), "")[:3]
    return head, figure


def subset_of(name: str) -> str | None:
    """The subset of modalities that a gate names; None where it names none."""
    rest = head_of(name)[1].partition(".")[2]
    if family(name) == SUBSET_OTHERS:
        return rest.partition(".")[0] or None
    return rest or None if family(name) in _BY_SUBSET else None


def other_of(name: str) -> str | None:
    """The task's further figure that a gate names; None where it names none."""
    rest = head_of(name)[1].partition(".")[2]
    if family(name) == SUBSET_OTHERS:
        return rest.partition(".")[2] or None
    return rest or None if family(name) == OTHERS else None


def is_minimum(name: str) -> bool:
    """Whether the limit is the least that will do (accuracy) or the most (cost, error)."""
    other = other_of(name)
    return FIGURES[family(name)][0] if other is None else other.partition(".")[0] not in _ERRORS


def family(name: str) -> str:
    """``subset_drop`` of ``heads.category.subset_drop.audio``."""
    return head_of(name)[1].partition(".")[0]


def accuracy(name: str) -> bool:
    """Whether a gate is one on accuracy, else on cost."""
    return _exit(name) == ACCURACY_EXIT


def of_gain(name: str) -> bool:
    """Whether a gate is one on what distillation gained."""
    return family(name) in _OF_THE_WHOLE


def _exit(name: str) -> int:
    return FIGURES.get(family(name), (True, COST_EXIT))[1]


def told_apart(n: int, apart: float = 0.05, confidence: float = 0.95) -> float:
    """The least loss that ``n`` samples tell from none in four of five cases: a limit below it is passed by luck alone.

    ``apart``: the share of samples on which one of two models alone is right.
    """
    normal = NormalDist()
    return (normal.inv_cdf(confidence) + normal.inv_cdf(_POWER)) * (apart / max(n, 1)) ** 0.5


def least_for(limit: float, confidence: float = 0.95) -> int:
    """The fewest samples that can show a loss to be within ``limit``, where two models are never apart on them."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - limit)) if 0 < limit < 1 else 1
