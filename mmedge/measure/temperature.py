"""Probabilities that mean what they say: one temperature a head, that its outputs are divided by before they become any.

Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks", section 4.2. It is fitted on validation
and told on test; no label changes by it, nor any rank within a sample.
"""

from __future__ import annotations

import math

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.measure.classwise import ece
from mmedge.measure.quality import Outputs
from mmedge.report.schema import TemperatureRecord
from mmedge.tasks import Head

# Where a temperature is sought; fewer validation samples than this tell of none.
_LOWEST, _HIGHEST, _FEWEST = 0.05, 20.0, 30


def temperature(head: Head, output: np.ndarray, targets: np.ndarray) -> float:
    """The temperature whose probabilities say most of labelled rows: the least mean negative log likelihood, by Brent's search.

    ``output``: float [n, W]; ``targets``: as of the task, all known.
    """
    from scipy.optimize import minimize_scalar

    def loss(log: float) -> float:
        return _surprise(head, output / math.exp(log), targets)

    found = minimize_scalar(loss, bounds=(math.log(_LOWEST), math.log(_HIGHEST)), method="bounded")
    # None at all is the one to beat.
    return math.exp(float(found.x)) if found.fun < loss(0.0) else 1.0


def _surprise(head: Head, output: np.ndarray, targets: np.ndarray) -> float:
    """The mean negative log likelihood of the targets, of several labels of each of them."""
    task = tasks.of(head)
    p = task.probabilities(output.astype(np.float64))
    said = np.where(targets > 0.5, p, 1 - p) if task.SEVERAL else p[np.arange(len(p)), targets]
    return float(-np.log(np.maximum(said, 1e-12)).mean())


def temperatures(contract: Contract, outputs: Outputs, validation: Samples) -> dict[str, float]:
    """{head: its temperature} of heads whose outputs tell how sure they are. ``outputs``: {head: float [N, W]} of validation."""
    found = {}
    for name, head in contract.heads.items():
        known = np.flatnonzero(validation.known(name))
        if tasks.of(head).CONFIDENCE and len(known) >= _FEWEST:
            found[name] = temperature(head, outputs[name][known], validation.targets[name][known])
    return found


def told(contract: Contract, outputs: Outputs, test: Samples, fitted: dict[str, float]) -> dict[str, TemperatureRecord]:
    """{head: its temperature, with the expected calibration error on test before and after}."""
    found = {}
    for name, value in fitted.items():
        known = np.flatnonzero(test.known(name))
        if not len(known):
            continue
        judged = outputs[name][known], test.targets[name][known], test.groups[known], 0.025
        before, after = (ece(contract.heads[name].at(each), *judged) for each in (1.0, value))
        found[name] = TemperatureRecord(
            temperature=value,
            ece_before=before.value,
            ece_before_ci95=(before.low, before.high),
            ece=after.value,
            ece_ci95=(after.low, after.high),
            n=len(known),
        )
    return found
