"""What a smaller network may lose on the split that decides, held against what it lost there, by the rule of the gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mmedge import gate
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.gate import Estimate, Policy
from mmedge.measure.comparing import compared_rows
from mmedge.measure.quality import Outputs, Predict, rows_of, subset_outputs

# Each sample with the modalities that it has.
WHOLE = ""
# {subset of the modalities, or WHOLE: (labelled rows that have all of it, bool [n]; {head: float [n, W]})}.
SplitOutputs = Mapping[str, tuple[np.ndarray, Outputs]]
# {subset, or WHOLE: what was lost of its figure}.
Losses = Mapping[str, Estimate]


def split_outputs(contract: Contract, samples: Samples, predict: Predict) -> SplitOutputs:
    """The outputs of a split, whole and of every subset. ``predict(present: bool [n, M])``: {head: float [n, W]}."""
    whole = {WHOLE: (samples.labelled, predict(samples.present))}
    return {**whole, **subset_outputs(contract, samples, predict)}


def losses_of(contract: Contract, samples: Samples) -> Callable[[SplitOutputs, SplitOutputs, float], Losses]:
    """``(before, after, tail) -> `` what was lost of each figure, with bounds that each leave out ``tail``, paired by sample.

    A subset that has no figure there (R2 of equal targets) is left out.
    """

    def losses(before: SplitOutputs, after: SplitOutputs, tail: float) -> Losses:
        found = {}
        for name, (rows, outputs) in before.items():
            targets, groups = rows_of(samples.targets, rows), samples.groups[rows]
            pair = rows_of(outputs, rows), rows_of(after[name][1], rows)
            each = compared_rows(contract, *pair, targets, groups, tail=tail)
            if not np.isnan(each.value):
                found[name] = each
        return found

    return losses


@dataclass(frozen=True)
class Budget:
    """The most that may be lost of the whole and of every subset, and how it is judged."""

    max_drop: float
    max_subset_drop: float
    policy: Policy = "strict"
    confidence: float = 0.95

    def allowed(self, name: str) -> float:
        return self.max_drop if name == WHOLE else self.max_subset_drop

    def over(self, losses: Losses) -> float:
        """By how much it is missed: 0 or less is inside it. By ``strict`` the bound of each loss must be inside."""
        return max(self._each_over(losses).values(), default=0.0)

    def missed(self, losses: Losses) -> list[str]:
        """The figures that are outside it: subsets, and WHOLE."""
        return [name for name, over in self._each_over(losses).items() if over > 0]

    def worst(self, losses: Losses) -> str:
        """The subset that misses it by most, or comes nearest to that; WHOLE where there is none."""
        each = self._each_over(losses)
        return max((name for name in each if name != WHOLE), key=lambda name: each[name], default=WHOLE)

    def _each_over(self, losses: Losses) -> dict[str, float]:
        bound = {name: each.high if self.policy == "strict" else each.value for name, each in losses.items()}
        # Differences of shares are whole samples: what floating point adds to them must not decide.
        return {name: bound[name] - self.allowed(name) - 1e-9 for name in losses}

    def unproven(self, losses: Losses) -> str | None:
        """In words, that what was measured is inside it but not proved to be; None where it is proved, or outside."""
        if self.over(losses) <= 0 or any(each.value > self.allowed(name) + 1e-9 for name, each in losses.items()):
            return None
        needs = [
            gate.needed(each, self.allowed(name), minimum=False, confidence=self.confidence)
            for name, each in losses.items()
            if each.high > self.allowed(name) + 1e-9
        ]
        counts = [count for count in needs if count]
        more = f": about {max(counts):,} samples would" if len(counts) == len(needs) else ""
        return f"{losses[WHOLE].n} samples cannot tell that no more is lost than allowed{more}"
