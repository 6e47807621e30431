"""Engines of fewer modalities, and encoders and fusion head apart: cut from the verified graph, and held against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu, tensorrt
from mmedge.backends.session import Session
from mmedge.backends.sessions import can_run, opened
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError
from mmedge.graph import cut
from mmedge.graph.adopt import count
from mmedge.measure.latency import one_sample, time_sessions
from mmedge.recipe import TargetOptions
from mmedge.spec import Contract, subsets
from mmedge.stages.export import engines
from mmedge.stages.export.choice import NOISE
from mmedge.stages.export.verification import GRAPH, agree
from mmedge.training.context import Context

_UNTIMED = "this machine cannot run the target"


@dataclass(frozen=True)
class Job:
    """What the parts of one target are made from. ``folder``: the artifact's, with the whole graph; ``notes`` are added to.

    ``built``: {engine's file: what the bundle remembers of it}, filled where the target's engines are built beforehand.
    """

    folder: Path
    contract: Contract
    config: TargetOptions
    context: Context
    target: str
    precision: str
    test: Samples
    notes: list[str]
    built: dict[str, Any]

    def opened(self, file: str) -> Session:
        """A graph on ONNX Runtime, to compare numbers: INT8 without the fusions that saturate on CPUs without VNNI."""
        return onnxruntime_cpu.session(self.folder / file, optimize=self.precision != "int8")

    def engine(self, graph: str, profiles: tensorrt.Profiles) -> str:
        """The file that the target runs for ``graph``: the graph itself, or the engine that is built of it."""
        if self.target not in tensorrt.PACKAGES:
            return graph
        options = engines.tensorrt_options(self.config, self.context, self.target)
        file, self.built[file] = tensorrt.build_part(
            self.folder, graph, target=self.target, profiles=profiles, options=options
        )
        return file


def per_subset(job: Job) -> dict[str, dict[str, Any]]:
    """Cut, verify and judge an engine for every proper subset: {subset: file and latency} of those that are worth it.

    Where the target runs here, those that are faster than the whole; elsewhere those that have less to compute or to
    read.
    """
    names = tuple(job.contract.modalities)
    (job.folder / "subsets").mkdir()
    whole = job.opened(GRAPH)
    graphs = {}
    for subset in subsets(names)[:-1]:
        key = "+".join(subset)
        graphs[key] = f"subsets/{key}.onnx"
        cut.subset_graph(job.folder / GRAPH, job.contract, subset, job.folder / graphs[key])
        # Whether a modality that is given was there does not matter: both graphs get the same. What is not given is zeros.
        having = np.tile([name in subset for name in names], (len(job.test), 1))
        blank = {name: np.zeros_like(x) for name, x in job.test.inputs.items() if name not in subset}
        test = replace(job.test, inputs={**job.test.inputs, **blank})
        part, file = _taking(job.opened(graphs[key])), job.folder / graphs[key]
        agree(f"the engine for {key} alone", whole, part, job.contract, test, having, job.precision, file)
    kept = _timed(job, graphs) if can_run(job.target) else _counted(job, graphs)
    for key, graph in graphs.items():
        if key not in kept and (job.folder / graph).is_file():
            (job.folder / graph).unlink()
    return kept


def _taking(session: Session) -> Any:
    """A session that is given more inputs than it takes."""
    return lambda inputs: session.run({name: inputs[name] for name in session.inputs})


def _timed(job: Job, graphs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Those that are faster than the whole engine on the target itself, in one interleaved run."""
    measure, kept = job.context.recipe.measure, {}
    files = {key: file for key, graph in graphs.items() if (file := _subset_engine(job, key, graph))}
    whole = engines.ENGINE if job.target in tensorrt.PACKAGES else GRAPH
    sessions = {
        key: opened(job.folder / file, job.target, threads=measure.threads, host_code=True)
        for key, file in {"all": whole, **files}.items()
    }
    timings = time_sessions(sessions, one_sample(job.test, measure.batch), measure, job.context.progress)
    for key, file in files.items():
        ratio = timings[key].p50_ms / timings["all"].p50_ms
        if ratio < 1 - NOISE:
            kept[key] = {"file": file, "p50_ms": timings[key].p50_ms, "ratio_to_all": ratio}
            job.notes.append(f"engine for {key} alone: {ratio:.2f} x the time of the whole")
        else:
            job.notes.append(f"no engine for {key} alone: it would take {ratio:.2f} x the time of the whole")
            if job.built.pop(file, None):
                (job.folder / file).unlink()
    return kept


def _counted(job: Job, graphs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Those that have less to compute or fewer weights to read than the whole graph: all that can be known without the target."""
    whole, kept, told = count(job.folder / GRAPH), dict[str, dict[str, Any]](), dict[str, str]()
    for key, graph in graphs.items():
        weights, macs = (ours / all_ if all_ else 1.0 for ours, all_ in zip(count(job.folder / graph), whole))
        told[key] = f"{key} ({macs:.2f} x the MACs, {weights:.2f} x the weights)"
        worth = min(weights, macs) < 1 - NOISE and max(weights, macs) <= 1 + NOISE
        if worth and (file := _subset_engine(job, key, graph)):
            kept[key] = {"file": file}
    for what, keys in (("engines", kept), ("no engines", told.keys() - kept)):
        if keys:
            job.notes.append(
                f"{what} of subsets, by what they leave out of the whole: {', '.join(told[key] for key in told if key in keys)};"
                f" latency not measured: {_UNTIMED}"
            )
    return kept


def _subset_engine(job: Job, key: str, graph: str) -> str | None:
    """The file that the target runs for a subset; None, with a note, where it builds none: the whole engine answers too."""
    whole = tensorrt.profiles_of(job.contract, engines.batches(job.config))
    try:
        return job.engine(graph, {name: whole[name] for name in key.split("+")})
    except MmedgeError as error:
        job.notes.append(f"no engine for {key} alone: {error.what}")
        return None


def split(job: Job) -> dict[str, Any]:
    """Encoders and fusion head apart, verified together against the whole graph."""
    names = tuple(job.contract.modalities)
    embeddings = cut.split_graph(job.folder / GRAPH, job.contract, job.folder / "split")
    graphs = {part: f"split/{part}.onnx" for part in (*names, "fusion")}
    sessions = {part: job.opened(graph) for part, graph in graphs.items()}

    def together(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given: dict[str, np.ndarray] = {"present": inputs["present"]}
        for modality in names:
            given |= sessions[modality]({modality: inputs[modality]})
        return sessions["fusion"](given)

    run = job.opened(GRAPH)
    for subset in subsets(names):
        present = job.test.present_of(subset)
        what, file = f"the split engine with {'+'.join(subset)}", job.folder / GRAPH
        agree(what, run, together, job.contract, job.test, present, job.precision, file)
    one = one_sample(job.test, 1)
    lacking = run(one).keys() - together(one).keys()
    if lacking:
        job.notes.append(
            f"encoders and fusion head apart do not give {', '.join(sorted(lacking))}; the whole engine does"
        )
    profiles = _split_profiles(job, sessions)
    files = {part: job.engine(graph, profiles[part]) for part, graph in graphs.items()}
    if not can_run(job.target):
        job.notes.append(f"encoders and fusion head apart: latency not measured: {_UNTIMED}")
    return {"files": files, "embeddings": embeddings}


def _split_profiles(job: Job, sessions: Mapping[str, Session]) -> dict[str, dict[str, list[list[int]]]]:
    """Of every part: the encoders' are the whole graph's, the head takes what the encoders give for them."""
    whole = tensorrt.profiles_of(job.contract, engines.batches(job.config))
    profiles, fusion = {}, {"present": whole["present"]}
    for name, spec in job.contract.modalities.items():
        profiles[name] = {name: whole[name]}
        given = [sessions[name]({name: np.zeros(shape, spec.dtype)}) for shape in whole[name]]
        for tensor in given[0]:
            fusion[tensor] = [list(one[tensor].shape) for one in given]
    return {**profiles, "fusion": fusion}
