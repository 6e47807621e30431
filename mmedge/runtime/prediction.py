"""From a graph's outputs to predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.tasks import Prediction


def predictions(contract: Contract, outputs: Mapping[str, np.ndarray]) -> list[Prediction]:
    """{output: float32 [batch, W]} of the graph, one Prediction a row; where there are several heads, with one of each.

    Raises MmedgeError for NaN and infinity, and for what the contract does not say.
    """
    found = {name: _of_head(contract, name, outputs) for name in contract.heads}
    if len(found) == 1:
        return next(iter(found.values()))
    return [Prediction(heads=dict(zip(found, row))) for row in zip(*found.values())]


def _of_head(contract: Contract, name: str, outputs: Mapping[str, np.ndarray]) -> list[Prediction]:
    output, width = outputs.get(name), contract.width(name)
    if output is None or output.ndim != 2 or output.shape[1] != width:
        given = ", ".join(f"{other} {list(x.shape)}" for other, x in outputs.items())
        raise MmedgeError(
            f"the engine gives {given}, its contract says {name} [batch, {width}]",
            todo="the bundle's graph and manifest do not belong together: export it again",
        )
    if not np.isfinite(output).all():
        raise MmedgeError(
            "the engine answered NaN or infinity",
            todo="the bundle is damaged, or its precision too low for this input",
        )
    head = contract.heads[name]
    return tasks.of(head).predictions(output, head)
