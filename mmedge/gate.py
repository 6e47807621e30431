"""Gates: limits on measured figures. A pure function from figures and limits to a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ACCURACY_EXIT, COST_EXIT = 3, 4

# figure -> (whether the limit is a minimum, exit code where it is missed). A dotted prefix stands for a family.
FIGURES: dict[str, tuple[bool, int]] = {
    "quality": (True, ACCURACY_EXIT),
    "quality_ratio_to_teacher": (True, ACCURACY_EXIT),
    "subset": (True, ACCURACY_EXIT),
    "subset_drop": (False, ACCURACY_EXIT),
    "gain": (True, ACCURACY_EXIT),
    "gain_ci95_low": (True, ACCURACY_EXIT),
    "latency_p50_ms": (False, COST_EXIT),
    "latency_p95_ms": (False, COST_EXIT),
    "latency_p99_ms": (False, COST_EXIT),
    "latency_ratio_to_teacher": (False, COST_EXIT),
    "latency_ratio_to_parent": (False, COST_EXIT),
    "params": (False, COST_EXIT),
    "params_ratio_to_teacher": (False, COST_EXIT),
    "params_ratio_to_parent": (False, COST_EXIT),
    "macs": (False, COST_EXIT),
    "macs_ratio_to_parent": (False, COST_EXIT),
    "size_bytes": (False, COST_EXIT),
}

_BY_SUBSET = ("subset", "subset_drop")


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


@dataclass(frozen=True)
class Gate:
    """One limit, judged. ``value`` is None where the figure could not be measured: such a gate does not pass.

    ``ci95``: the interval that a figure with noise is judged by, as a latency's ratio: all of it must be inside the limit.
    """

    name: str
    limit: float
    value: float | None
    passed: bool
    ci95: tuple[float, float] | None = None

    def record(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        word = "not measured" if self.value is None else f"{self.value:.4g}"
        word += f" [{self.ci95[0]:.4g}, {self.ci95[1]:.4g}]" if self.ci95 else ""
        sign = ">=" if is_minimum(self.name) else "<="
        return f"{self.name} {word} ({'passed' if self.passed else 'FAILED'}, limit {sign} {self.limit:g})"


@dataclass(frozen=True)
class Verdict:
    """All gates of a stage. True where every one passed; ``exit_code`` is 0, 3 (accuracy) or 4 (cost), 3 winning."""

    gates: tuple[Gate, ...]

    def __bool__(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def exit_code(self) -> int:
        return min((FIGURES[_family(gate.name)][1] for gate in self.gates if not gate.passed), default=0)


def judge(
    figures: Mapping[str, float],
    limits: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Verdict:
    """Hold each limit against its figure, or against that end of its 95 % interval which is worse."""
    gates = []
    for name, limit in limits.items():
        value, interval = figures.get(name), (intervals or {}).get(name)
        low, high = interval or (value, value)
        worst = low if is_minimum(name) else high
        passed = value is not None and worst is not None and (worst >= limit if is_minimum(name) else worst <= limit)
        gates.append(Gate(name, limit, value, passed, interval))
    return Verdict(tuple(gates))


def known(name: str) -> bool:
    """Whether a gate of this name exists; ``subset.image+audio`` and ``subset_drop.audio`` belong to families.

    Of a head, ``heads.NAME.`` stands before ``quality`` and these two.
    """
    head, figure = head_of(name)
    if head is not None and _family(name) not in ("quality", *_BY_SUBSET):
        return False
    return _family(name) in FIGURES and (("." in figure) == (_family(name) in _BY_SUBSET))


def head_of(name: str) -> tuple[str | None, str]:
    """(the head that a gate is of, the figure's name without it); None where it is of the whole model."""
    if not name.startswith("heads."):
        return None, name
    _, head, figure = (*name.split(".", 2), "")[:3]
    return head, figure


def is_minimum(name: str) -> bool:
    """Whether the limit is the least that will do (accuracy) or the most (cost)."""
    return FIGURES[_family(name)][0]


def _family(name: str) -> str:
    return head_of(name)[1].partition(".")[0]
