"""Engines of fewer modalities, and encoders and fusion head apart: cut from the verified graph, and held against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.artifact import GRAPH
from mmedge.backends import Session, can_run, onnxruntime_cpu, opened
from mmedge.backends.engine import Part, Profiles
from mmedge.contract import subsets
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError, MmedgeError
from mmedge.graph import cut
from mmedge.graph.counts import count
from mmedge.measure.agreement import SAME, agreements
from mmedge.measure.latency import one_sample, time_sessions
from mmedge.measure.quality import Run
from mmedge.stages.export import engines
from mmedge.stages.export.engines import ExportWork
from mmedge.stages.export.verification import TOLERANCES
from mmedge.stages.preference import NOISE
from mmedge.stages.results import SplitRecord, SubsetRecord

_UNTIMED = "this machine cannot run the target"


@dataclass(frozen=True)
class Cuts:
    """What engines of fewer modalities are cut from. ``folder``: the artifact's, with the whole graph.

    ``whole``: the file of it that they are timed beside. ``built``: {engine's file: what the bundle remembers of it}, filled where the backend's engines are built beforehand.
    """

    work: ExportWork
    folder: Path
    whole: str
    precision: str
    test: Samples
    built: dict[str, Part] = field(default_factory=dict)

    def opened(self, file: str) -> Session:
        """A graph on ONNX Runtime, to compare numbers: INT8 without the fusions that saturate on CPUs without VNNI."""
        return onnxruntime_cpu.session(self.folder / file, optimize=self.precision != "int8")

    def engine(self, graph: str, profiles: Profiles) -> str:
        """The file that the backend runs for ``graph``: the graph itself, or the engine that is built of it."""
        made = engines.build_part(self.work, self.folder, graph, profiles)
        if made is None:
            return graph
        file, self.built[file] = made
        return file

    def check(self, what: str, runs: tuple[Run, Run], samples: Samples, present: np.ndarray, file: Path) -> None:
        """Raise MismatchError where a cut graph, the second of ``runs``, does not give what the whole one does.

        Compared are the outputs that both have.
        """
        whole, part = runs
        relative = 1e-4 if self.precision != "fp16" else TOLERANCES["fp16"][0]
        names: set[str] = set()

        def noted(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            outputs = part(inputs)
            names.update(outputs)
            return outputs

        contract = self.work.contract
        for agreement in agreements(what, whole, noted, contract, samples, present):
            compared = agreement.output in names or agreement.output in contract.heads
            if compared and not agreement.within(relative, SAME if agreement.whole else 0):
                raise MismatchError(
                    f"{what} differs from the whole graph by {agreement.max_abs:.3g} in {agreement.output!r}",
                    where=str(file),
                    todo="turn off export.per_subset and export.split for this model, and report its graph",
                )


def per_subset(cuts: Cuts) -> dict[str, SubsetRecord]:
    """Cut, verify and judge an engine for every proper subset: {subset: file and latency} of those that are worth it.

    Where the backend runs here, those that are faster than the whole; elsewhere those that have less to compute or to
    read.
    """
    names = tuple(cuts.work.contract.modalities)
    (cuts.folder / "subsets").mkdir()
    whole = cuts.opened(GRAPH)
    graphs = {}
    for subset in subsets(names)[:-1]:
        key = "+".join(subset)
        graphs[key] = f"subsets/{key}.onnx"
        cut.subset_graph(cuts.folder / GRAPH, cuts.work.contract, subset, cuts.folder / graphs[key])
        # Whether a modality that is given was there does not matter: both graphs get the same. What is not given is zeros.
        having = np.tile([name in subset for name in names], (len(cuts.test), 1))
        blank = {
            name: np.broadcast_to(np.zeros(1, x.dtype), x.shape)
            for name, x in cuts.test.inputs.items()
            if name not in subset
        }
        test = replace(cuts.test, inputs={**cuts.test.inputs, **blank})
        part, file = _taking(cuts.opened(graphs[key])), cuts.folder / graphs[key]
        cuts.check(f"the engine for {key} alone", (whole, part), test, having, file)
    kept = _timed(cuts, graphs) if can_run(cuts.work.backend.name) else _counted(cuts, graphs)
    for key, graph in graphs.items():
        if key not in kept and (cuts.folder / graph).is_file():
            (cuts.folder / graph).unlink()
    return kept


def _taking(session: Session) -> Any:
    """A session that may get more inputs than it takes."""
    return lambda inputs: session.run({name: inputs[name] for name in session.inputs})


def _timed(cuts: Cuts, graphs: Mapping[str, str]) -> dict[str, SubsetRecord]:
    """Those that are faster than the whole engine on the backend itself, in one interleaved run."""
    measure, kept = cuts.work.context.recipe.measure, {}
    files = {key: file for key, graph in graphs.items() if (file := _subset_engine(cuts, key, graph))}
    openers = {
        key: partial(opened, cuts.folder / file, cuts.work.backend.name, threads=measure.threads, host_code=True)
        for key, file in {"all": cuts.whole, **files}.items()
    }
    taken = time_sessions(openers, one_sample(cuts.test, measure.batch), measure, cuts.work.context.progress)
    for key, file in files.items():
        ratio = taken.ratio(key, "all").value
        if ratio < 1 - NOISE:
            kept[key] = SubsetRecord(file=file, p50_ms=taken.timing(key).p50_ms, ratio_to_all=ratio)
            cuts.work.notes.append(f"engine for {key} alone: {ratio:.2f} x the time of the whole")
        else:
            cuts.work.notes.append(f"no engine for {key} alone: it would take {ratio:.2f} x the time of the whole")
            if cuts.built.pop(file, None):
                (cuts.folder / file).unlink()
    return kept


def _counted(cuts: Cuts, graphs: Mapping[str, str]) -> dict[str, SubsetRecord]:
    """Those that have less to compute or fewer weights to read than the whole graph: all that can be known without the backend."""
    whole, kept, words = count(cuts.folder / GRAPH), dict[str, SubsetRecord](), dict[str, str]()
    for key, graph in graphs.items():
        weights, macs = (own / all_ if all_ else 1.0 for own, all_ in zip(count(cuts.folder / graph), whole))
        words[key] = f"{key} ({macs:.2f} x the MACs, {weights:.2f} x the weights)"
        worth = min(weights, macs) < 1 - NOISE and max(weights, macs) <= 1 + NOISE
        if worth and (file := _subset_engine(cuts, key, graph)):
            kept[key] = SubsetRecord(file=file)
    for what, keys in (("engines", kept), ("no engines", words.keys() - kept)):
        if keys:
            cuts.work.notes.append(
                f"{what} of subsets, by what they leave out of the whole: {', '.join(words[key] for key in words if key in keys)};"
                f" latency not measured: {_UNTIMED}"
            )
    return kept


def _subset_engine(cuts: Cuts, key: str, graph: str) -> str | None:
    """The file that the backend runs for a subset; None, with a note, where it builds none: the whole engine serves too."""
    whole = cuts.work.profiles
    try:
        return cuts.engine(graph, {name: whole[name] for name in key.split("+")})
    except MmedgeError as error:
        cuts.work.notes.append(f"no engine for {key} alone: {error.what}")
        return None


def split(cuts: Cuts) -> SplitRecord:
    """Encoders and fusion head apart, verified together against the whole graph."""
    names = tuple(cuts.work.contract.modalities)
    embeddings = cut.split_graph(cuts.folder / GRAPH, cuts.work.contract, cuts.folder / "split")
    graphs = {part: f"split/{part}.onnx" for part in (*names, "fusion")}
    sessions = {part: cuts.opened(graph) for part, graph in graphs.items()}

    def together(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        encoded: dict[str, np.ndarray] = {"present": inputs["present"]}
        for modality in names:
            encoded |= sessions[modality]({modality: inputs[modality]})
        return sessions["fusion"](encoded)

    run = cuts.opened(GRAPH)
    for subset in subsets(names):
        present = cuts.test.present_of(subset)
        what, file = f"the split engine with {'+'.join(subset)}", cuts.folder / GRAPH
        cuts.check(what, (run, together), cuts.test, present, file)
    one = one_sample(cuts.test, 1)
    lacking = run(one).keys() - together(one).keys()
    if lacking:
        cuts.work.notes.append(
            f"encoders and fusion head apart do not give {', '.join(sorted(lacking))}; the whole engine does"
        )
    profiles = _split_profiles(cuts, sessions)
    files = {part: cuts.engine(graph, profiles[part]) for part, graph in graphs.items()}
    if not can_run(cuts.work.backend.name):
        cuts.work.notes.append(f"encoders and fusion head apart: latency not measured: {_UNTIMED}")
    return SplitRecord(files=files, embeddings=embeddings)


def _split_profiles(cuts: Cuts, sessions: Mapping[str, Session]) -> dict[str, Profiles]:
    """Of every part: the encoders' are the whole graph's, the head takes what the encoders give for them."""
    whole = cuts.work.profiles
    profiles, fusion = {}, {"present": whole["present"]}
    for name, spec in cuts.work.contract.modalities.items():
        profiles[name] = {name: whole[name]}
        encoded = [sessions[name]({name: np.zeros(shape, spec.dtype)}) for shape in whole[name]]
        for tensor in encoded[0]:
            fusion[tensor] = [list(one[tensor].shape) for one in encoded]
    return {**profiles, "fusion": fusion}
