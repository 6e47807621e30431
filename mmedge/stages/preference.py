"""What is best among candidates that are inside the accuracy budget: the one place that knows what a recipe may prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmedge.gate import ACCURACY_EXIT
from mmedge.recipe import Prefer, Quantize
from mmedge.report.schema import CandidateRecord, MissRecord

# Another candidate must be faster, or smaller, by this share to be taken instead of what is there already.
NOISE = 0.05
# Mixes of INT8 and FP32 that a search may hold against the budget.
LOOKS = 6


@dataclass(frozen=True)
class Costs:
    """A candidate. ``latency``: in any one unit, the same for all; ``quality``: on validation, more is better; ``energy``: in
    any one unit too, None where the machine tells of none: latency then stands for it."""

    latency: float
    size_bytes: float
    quality: float
    energy: float | None = None

    @property
    def spent(self) -> float:
        return self.latency if self.energy is None else self.energy


# What a reader is told where energy is preferred and none could be measured; ``why`` goes in front.
INSTEAD = "energy is preferred, and the one thread's time stands for it"


def by_energy(prefer: Prefer) -> bool:
    """Whether candidates' energy is to be measured."""
    return prefer == "energy"


def best_kept(rows: Sequence[CandidateRecord], prefer: Prefer = "latency", standing: str = "fp32") -> CandidateRecord:
    """The best candidate precision inside the budget; ``standing`` stays unless another is better by more than timing noise."""
    kept = {row.precision: row for row in rows if row.kept}
    costs = {
        name: Costs(row.ratio_to_fp32, row.size_bytes, row.quality_validation, row.energy_mj)
        for name, row in kept.items()
    }
    return kept[best(prefer, costs, standing)]


def small_enough(rows: Sequence[CandidateRecord], max_size_kb: float | None) -> list[CandidateRecord]:
    """Those of the candidates that are no larger, in 1000 bytes; the smallest alone where none is."""
    if max_size_kb is None:
        return list(rows)
    found = [row for row in rows if row.size_bytes <= max_size_kb * 1000]
    return found or [min(rows, key=lambda row: row.size_bytes)]


def best(prefer: Prefer, candidates: Mapping[str, Costs], standing: str | None = None) -> str:
    """The name of the best of ``candidates``, which are all inside the budget.

    ``standing``: the one that stays unless another is better than it beyond the noise of a measurement.
    """
    chosen = min(candidates, key=lambda name: _order(prefer, candidates[name]))
    if standing is None or standing not in candidates:
        return chosen
    ours, theirs = candidates[chosen], candidates[standing]
    match prefer:
        case "size":
            better = ours.size_bytes < theirs.size_bytes * (1 - NOISE)
        case "accuracy":
            better = ours.quality > theirs.quality or ours.latency < theirs.latency * (1 - NOISE)
        case "energy":
            better = ours.spent < theirs.spent * (1 - NOISE) or (
                ours.size_bytes < theirs.size_bytes * (1 - NOISE) and ours.spent <= theirs.spent * (1 + NOISE)
            )
        case _:
            better = ours.latency < theirs.latency * (1 - NOISE)
    return chosen if better else standing


def _order(prefer: Prefer, one: Costs) -> tuple[float, ...]:
    """What candidates are sorted by, the best first."""
    match prefer:
        case "size":
            return one.size_bytes, one.latency
        case "accuracy":
            return -one.quality, one.latency
        case "energy":
            return one.spent, one.size_bytes
        case _:
            return (one.latency,)


def tail_of(name: str, config: Quantize, confidence: float) -> float:
    """What each bound of a candidate's loss leaves out, so that all together are wrong no more often than the confidence says.

    The recipe's candidates share it in equal parts (Bonferroni); its fallbacks and training have one part together, and the
    mixes that the search for int8-mixed looks at share that one's.
    """
    listed = [each for each in config.candidates if each != "fp32"]
    part = (1 - confidence) / (len(listed) + 1)
    if name not in listed:
        part /= len([each for each in config.fallbacks if each not in listed]) + 1
    return part / LOOKS if name == "int8-mixed" else part


def unmet(config: Quantize, loss: float) -> MissRecord:
    """What is missed where no candidate of the precision that ``quantize.require`` asks for is inside the budget; the best loses ``loss``."""
    return MissRecord(name=f"max_drop of {config.require}", limit=config.max_drop, value=loss, exit=ACCURACY_EXIT)
