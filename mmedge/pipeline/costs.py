"""Costs that are measured only where a gate names them: memory and energy of a stage's graph or engine."""

from __future__ import annotations

from collections.abc import Collection

from mmedge.artifact import Artifact, contract_of
from mmedge.backends import GRAPH_BACKEND, opened
from mmedge.gate import Estimate
from mmedge.measure.latency import one_sample
from mmedge.pipeline.measuring import once
from mmedge.pipeline.predicting import is_outputs
from mmedge.profiling import cold, energy
from mmedge.stages.results import TORCH
from mmedge.training.context import Context

MEMORY, ENERGY = "memory_bytes", "energy_mj"
_SECONDS, _PROCESSES = 3.0, 3


def demanded(artifact: Artifact, names: Collection[str], context: Context) -> dict[str, Estimate]:
    """Those of ``memory_bytes`` and ``energy_mj`` among ``names`` that could be measured; why not, progress says."""
    wanted = sorted({MEMORY, ENERGY} & set(names))
    if not wanted or is_outputs(artifact) or artifact.meta.get("target", GRAPH_BACKEND) == TORCH:
        return {}
    key = [artifact.sha256, wanted, context.recipe.measure.threads]
    found = once("costs", key, context, f"measuring {', '.join(wanted)}", lambda: _measured(artifact, wanted, context))
    return {name: Estimate.exact(value) for name, value in found.items()}


def _measured(artifact: Artifact, wanted: Collection[str], context: Context) -> dict[str, float]:
    from mmedge.stages import export

    file, backend = export.measured_file(artifact)
    threads, contract = context.recipe.measure.threads, contract_of(artifact)
    found: dict[str, float] = {}
    if MEMORY in wanted:
        shapes = {name: spec.shape for name, spec in contract.modalities.items() if spec.shortest is not None}
        taken = [
            cold.measured(file, backend, threads=threads, batch=1, shapes=shapes).memory for _ in range(_PROCESSES)
        ]
        peaks = [
            memory.host_peak_bytes - memory.host_before_load_bytes
            for memory in taken
            if memory.host_peak_bytes is not None and memory.host_before_load_bytes is not None
        ]
        if peaks:
            found[MEMORY] = float(max(peaks))
        else:
            context.progress.say(f"{MEMORY}: {taken[0].not_available}")
    if ENERGY in wanted:
        session = opened(file, backend, threads=threads)
        inputs = one_sample(context.dataset.test.only(tuple(contract.modalities)), 1)
        feed = {name: inputs[name] for name in session.inputs}
        used = energy.measure(lambda: session.run(feed), seconds=_SECONDS, samples=1, gpu=session.parts is not None)
        if isinstance(used, str):
            context.progress.say(f"{ENERGY}: {used}")
        else:
            found[ENERGY] = used.mj_per_inference
    return found
