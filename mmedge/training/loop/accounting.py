"""What privacy costs: the noise that a budget asks for, and the epsilon that steps of noisy gradients come to. By Opacus."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

from mmedge.errors import MissingDependency, UsageError
from mmedge.recipe import Privacy, Train

# The orders of Renyi divergence that are tried: small budgets are bounded best by large ones.
_ORDERS = [*(1 + x / 4 for x in range(1, 40)), *range(11, 64), 80, 96, 128, 192, 256, 512]


class Phase(NamedTuple):
    """Steps that were taken with the same noise, over the same share of the samples."""

    noise_multiplier: float
    sample_rate: float
    steps: int


def require_opacus(where: str) -> None:
    """Raise MissingDependency where Opacus is not installed."""
    try:
        import opacus.accountants  # noqa: F401
    except ImportError:
        raise MissingDependency(
            "private training needs opacus, which is not installed", where=where, todo="pip install 'mmedge[privacy]'"
        ) from None


def epsilon_of(phases: Sequence[Phase], delta: float) -> float:
    """What all steps together have spent: Mironov, Talwar & Zhang 2019, "Rényi differential privacy of the sampled Gaussian
    mechanism". 0 without steps."""
    if not any(phase.steps for phase in phases):
        return 0.0
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [tuple(phase) for phase in phases]
    with _unasked():
        return float(accountant.get_epsilon(delta, alphas=_ORDERS))


def noise_for(train: Train, usable: int, steps: int, trainings: int, where: str) -> float:
    """The least noise, in units of ``privacy.clip``, by which ``trainings`` of ``steps`` each keep the budget together.

    ``usable``: the samples that are drawn from. Raises UsageError, at the recipe's section ``where``, where delta promises
    nothing, or where noise that is no larger than a whole batch's gradient does not keep the budget; MissingDependency
    without Opacus.
    """
    require_opacus(where)
    assert train.privacy is not None
    budget = train.privacy
    if budget.delta * usable >= 1:
        raise UsageError(
            f"delta {budget.delta:g} promises nothing of {usable:,} samples: whoever published one of them would keep it",
            where=f"{where}.delta",
            todo=f"say less than {1 / usable:.1g}: {0.1 / usable:.0e} is usual",
        )
    batch = min(train.batch_size, usable)
    if epsilon_of([Phase(float(batch), batch / usable, steps * trainings)], budget.delta) > budget.epsilon:
        raise _not_kept(train, batch / usable, steps, trainings, where)
    return min(float(batch), _least_noise(budget, batch / usable, steps * trainings))


@contextmanager
def _unasked() -> Iterator[None]:
    """Without the accountant's word that another order might bound a little tighter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order", category=UserWarning)
        yield


@lru_cache
def _least_noise(budget: Privacy, rate: float, steps: int) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    with _unasked():
        return float(
            get_noise_multiplier(
                target_epsilon=budget.epsilon,
                target_delta=budget.delta,
                sample_rate=rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=0.01 * budget.epsilon,
                alphas=_ORDERS,
            )
        )


def _not_kept(train: Train, rate: float, steps: int, trainings: int, where: str) -> UsageError:
    assert train.privacy is not None
    budget, batch = train.privacy, min(train.batch_size, round(train.batch_size / rate))
    least = epsilon_of([Phase(float(batch), rate, steps * trainings)], budget.delta)
    low, high = 0, steps * trainings
    while high - low > 1:
        middle = (low + high) // 2
        within = epsilon_of([Phase(float(batch), rate, middle)], budget.delta) <= budget.epsilon
        low, high = (middle, high) if within else (low, middle)
    digits = 10 ** (1 - math.floor(math.log10(least)))
    needs = f"ask for an epsilon of {math.ceil(least * digits) / digits:g} or more"
    fewer = f", train for {low:,} steps in all (epochs, max_steps)" if low else ""
    share = (
        f", or let fewer of the {trainings} trainings share it (controls.seeds, candidates)" if trainings > 1 else ""
    )
    return UsageError(
        f"epsilon {budget.epsilon:g} with delta {budget.delta:g} cannot be kept over {steps * trainings:,} steps of"
        f" {rate:.2g} of the samples each: the noise on a weight would be larger than a whole batch's gradient",
        where=where,
        todo=needs + fewer + share,
    )
