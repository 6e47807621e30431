"""How much of each branch goes: the combination of measured options that meets the budget at least loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

from mmedge.report.pruning import OptionRecord

# Up to so many combinations, all are looked at.
_EXHAUSTIVE = 100_000


def growing(options: Sequence[OptionRecord]) -> list[OptionRecord]:
    """One branch's options by ratio, with losses (which weigh all modalities as much as the mean of the subsets) that never fall and costs that never rise: what does is noise."""
    out: list[OptionRecord] = []
    for option in sorted(options, key=lambda option: option.ratio):
        before = out[-1] if out else None
        loss = max(option.loss, before.loss if before else 0.0)
        left = {name: min(value, before.left[name] if before else 1.0) for name, value in option.left.items()}
        out.append(option.model_copy(update={"left": left, "loss": loss}))
    return out


def predicted(choice: Sequence[OptionRecord | None], name: str) -> float:
    """The share of a cost that is left by all the options together: what each one saves is added up."""
    return max(0.0, 1 - sum(1 - option.left[name] for option in choice if option))


def choose(
    branches: Mapping[str, Sequence[OptionRecord]], limits: Mapping[str, float]
) -> tuple[dict[str, OptionRecord], dict[str, float]]:
    """{branch: its option} of least loss inside ``limits`` by the additive model, and what it predicts; a branch may keep all.

    Of combinations of one loss, the one that saves more. Where none is inside, the one that comes nearest. Every
    combination is looked at; where there are too many, one step at a time is taken, the one that loses least for what
    it brings.
    """
    measured = [[None, *growing(options)] for options in branches.values()]
    if math.prod(len(options) for options in measured) <= _EXHAUSTIVE:
        best = min(product(*measured), key=lambda choice: _worth(choice, limits))
    else:
        best = _greedy(measured, limits)
    names = next((option.left for options in branches.values() for option in options), {})
    return {option.branch: option for option in best if option}, {name: predicted(best, name) for name in names}


def _worth(choice: Sequence[OptionRecord | None], limits: Mapping[str, float]) -> tuple[float, float, float]:
    """Smaller is better: how far outside the limits, then the loss, then what is left of what is limited."""
    left = {name: predicted(choice, name) for name in limits}
    outside = sum(max(0.0, left[name] - limit) for name, limit in limits.items())
    return round(outside, 6), round(sum(option.loss for option in choice if option), 4), sum(left.values())


def _greedy(
    measured: Sequence[Sequence[OptionRecord | None]], limits: Mapping[str, float]
) -> tuple[OptionRecord | None, ...]:
    places = [0] * len(measured)
    while True:
        now = [options[place] for options, place in zip(measured, places)]
        outside, loss, _ = _worth(now, limits)
        steps: list[tuple[float, int, int]] = []
        for number, options in enumerate(measured):
            for place in range(places[number] + 1, len(options)):
                trial = [*now[:number], options[place], *now[number + 1 :]]
                nearer, worse, _ = _worth(trial, limits)
                if nearer < outside:
                    steps.append(((worse - loss + 1e-4) / (outside - nearer), number, place))
        if not steps:
            return tuple(now)
        _, number, place = min(steps)
        places[number] = place
