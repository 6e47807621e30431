"""Whether a graph gives what its parent does: over every test sample and subset, within stated tolerances."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmedge.artifact import GRAPH, Artifact
from mmedge.backends import onnxruntime_cpu, writing
from mmedge.backends.session import Session
from mmedge.contract import Contract, subsets
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError
from mmedge.graph.bisect import first_difference
from mmedge.measure.agreement import Agreement, agreements
from mmedge.measure.lengths import check_alone, check_trimmed

# Stated tolerances against the FP32 parent: (largest difference relative to the largest output, least top-1 agreement).
TOLERANCES: dict[str, tuple[float, float]] = {
    "fp32": (1e-4, 0.999),
    "fp16": (2e-2, 0.98),
    "int8": (0.5, 0.90),
    "int4": (0.7, 0.85),
}
# What GPUs make of FP32: products of 10 bits of mantissa, as FP16 has, unless they are told otherwise.
_TF32 = TOLERANCES["fp16"]


def reference(parent: Artifact) -> Path:
    """The parent's FP32 graph: what every other precision is held against."""
    fp32 = parent.file("fp32.onnx")
    return fp32 if fp32.is_file() else parent.file(GRAPH)


def verify(
    reference: Path,
    graph: Path,
    contract: Contract,
    samples: Samples,
    chosen: str,
    engine: Session | None = None,
    *,
    gpu: bool = False,
) -> list[Agreement]:
    """Compare two graphs over every sample and subset; raises MismatchError beyond the precision's tolerance.

    ``engine``: what was built of ``graph``, compared instead of it; ``gpu``: by a GPU. INT8 kernels are compared without
    ONNX Runtime's fusions, which saturate on CPUs without VNNI; accuracy is judged with them, elsewhere.
    """
    relative, least = _TF32 if gpu and chosen == "fp32" else TOLERANCES[chosen]
    expect = onnxruntime_cpu.session(reference)
    run = engine or onnxruntime_cpu.session(graph, optimize=chosen != "int8")
    found: list[Agreement] = []
    # Texts are compared token by token, behind the same beginnings.
    pair = writing.along(expect, run, contract.written[0]) if contract.written else (expect, run)
    for subset in subsets(tuple(contract.modalities)):
        present = samples.present_of(subset)
        for agreement in agreements("+".join(subset), *pair, contract, samples, present):
            if not agreement.within(relative, least):
                alike = "" if agreement.same is None else f", the same for {agreement.same:.1%}"
                raise MismatchError(
                    f"the {chosen} graph differs from its parent in {agreement.output!r} with {agreement.subset}: by {agreement.max_abs:.3g} at most{alike}"
                    + _first_node(reference, graph, samples, present, agreement, relative),
                    where=str(graph),
                    todo=f"tolerated are {relative:g} of the largest output and {least:.1%}; choose another precision",
                )
            found.append(agreement)
    check_alone(run, contract, samples, relative, graph)
    check_trimmed(run, contract, samples, relative, graph)
    return found


def _first_node(
    reference: Path, graph: Path, samples: Samples, present: np.ndarray, agreement: Agreement, tolerance: float
) -> str:
    """Where the graph parts from its reference on the sample that differs most."""
    rows = slice(agreement.worst, agreement.worst + 1)
    inputs = {name: np.array(x[rows]) for name, x in samples.inputs.items()} | {"present": present[rows]}
    how, output = writing.described(reference), agreement.output
    if how is not None:  # beside the sample the graphs take a step of its text
        inputs = writing.feeds(reference, how, onnxruntime_cpu.session)(inputs, 0)
        output = f"{how.head}.scores" if output.startswith(f"{how.head}.") else output
    found = first_difference(reference, graph, inputs, tolerance=tolerance, output=output)
    return f"; {found}" if found else "; node by node the graphs agree: the engine that was built of it does not"
