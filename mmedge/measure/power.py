"""Energy of models beside one another, by the sensor that the machine has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.measure.latency import Opener
from mmedge.profiling.energy import measure

# Each is run for so long in each of the rounds, in turn with the others: a counter ticks some hundred times meanwhile.
_SECONDS, _ROUNDS = 0.3, 3


def energies(openers: Mapping[str, Opener], inputs: Mapping[str, np.ndarray]) -> dict[str, float] | str:
    """{name: the median of what a call takes, in millijoules}; a sentence where the machine tells of none.

    It is that of the whole package or board, idle power included, as ``profile`` measures it: of models that run in turn
    on the same machine the order holds. ``inputs``: of one call.
    """
    found: dict[str, list[float]] = {name: [] for name in openers}
    sessions = {name: opener() for name, opener in openers.items()}
    for _ in range(_ROUNDS):
        for name, session in sessions.items():
            feed = {input: inputs[input] for input in session.inputs}
            gpu = session.parts is not None
            used = measure(partial(session.run, feed), seconds=_SECONDS, samples=1, gpu=gpu)
            if isinstance(used, str):
                return used
            found[name].append(used.mj_per_inference)
    return {name: float(np.median(values)) for name, values in found.items()}


def of_graphs(graphs: Mapping[str, Path], inputs: Mapping[str, np.ndarray], threads: int) -> dict[str, float] | str:
    """``energies`` of graphs on ONNX Runtime."""
    openers = {name: partial(onnxruntime_cpu.session, graph, threads=threads) for name, graph in graphs.items()}
    return energies(openers, inputs)
