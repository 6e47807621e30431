"""A loaded bundle: raw files or arrays in, labels out; or tensors in, tensors out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import bundle as bundles
from mmedge import preprocess
from mmedge.artifact import contract_of
from mmedge.backends import GRAPH_BACKEND, opened
from mmedge.backends.session import Run, Session
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError, did_you_mean, first_line
from mmedge.runtime.embedding import Embedding
from mmedge.runtime.fits import check_belongs, check_takes
from mmedge.runtime.labels import label_vectors
from mmedge.runtime.prediction import predictions
from mmedge.runtime.samples import samples_of, unknown_modality
from mmedge.runtime.search import Hit, Index, Stored
from mmedge.runtime.warming import warm_up
from mmedge.tasks import Prediction

_BOOL = np.dtype(bool)


def load(
    path: str | Path,
    target: str | None = None,
    threads: int = 1,
    *,
    providers: Sequence[Any] | None = None,
    require_signature: str | Path | bytes | None = None,
    timeout_s: float | None = None,
    key: str | Path | bytes | None = None,
) -> Engine:
    """Load a bundle, a folder or a zip file, verifying every file before it is used.

    ``target``: one that the bundle holds; ``onnxruntime-cpu`` where none is named. ``providers``: ONNX Runtime's own,
    as ``["TensorrtExecutionProvider"]``, instead of the target's. ``require_signature``: the public key (PEM) that must
    have signed the bundle. ``key``: the file, or the 32 bytes, that an encrypted bundle was encrypted with: it is opened in
    memory, and nothing decrypted is written to a disk. ``timeout_s``: what opening a graph, and each of its runs, may take, for a bundle that you do
    not trust: an unsigned graph may compute for ever (``onnxruntime-cpu`` alone; it adds a process at opening and some
    0.2 ms a run). Raises MmedgeError for a damaged, foreign or unsigned one, and for one that takes longer, UsageError
    for an unknown target, MissingDependency where the target cannot run here.
    """
    for name, given, takes in (
        ("path", path, (str, os.PathLike)),
        ("target", target, (str, type(None))),
        ("threads", threads, int),
        ("providers", providers, (list, tuple, type(None))),
        ("require_signature", require_signature, (str, os.PathLike, bytes, type(None))),
        ("key", key, (str, os.PathLike, bytes, type(None))),
        ("timeout_s", timeout_s, (int, float, type(None))),
    ):
        if not isinstance(given, takes):
            raise UsageError(
                f"load's {name} cannot be {given!r}", todo="load('runs/demo/bundle', 'onnxruntime-cpu', 1)"
            )
    if timeout_s is not None and not 0 < timeout_s <= threading.TIMEOUT_MAX:
        raise UsageError(f"load's timeout_s cannot be {timeout_s!r}", todo="give seconds: timeout_s=10")
    read = bundles.read(Path(path), require_signature=require_signature, key=key)
    found = read.artifact
    contract = contract_of(found)
    backend = target or GRAPH_BACKEND
    entry = bundles.entry_of(found, backend)
    signed = require_signature is not None
    check_belongs(found, entry.engine, backend, contract, Path(path), signed=signed)

    def open_file(name: str) -> Session:
        file = bundles.verified_file(found, name)
        return opened(file, backend, threads=threads, providers=providers, host_code=signed, timeout_s=timeout_s)

    return Engine(contract, open_file, backend, entry, read)


class Engine:
    """A model ready to answer, from any thread. ``contract`` says what it takes; ``meta`` is the bundle's record."""

    def __init__(
        self,
        contract: Contract,
        open_file: Callable[[str], Session],
        backend: str,
        entry: bundles.Entry,
        read: bundles.Bundle,
    ) -> None:
        self.contract = contract = contract.at_temperatures(entry.temperatures)
        self.target, self.meta = backend, read.artifact.meta
        self._open, self._bundle = open_file, read  # the bundle is held, since a zip's unpacked files go with it
        file = entry.opened_file(backend)
        session = open_file(file)
        check_takes(session, contract, read.folder / file)
        self._run, self.inputs = session.checked or session.run, session.inputs
        # Of feeds that were checked, by their names and batch size: what runs them, and their shapes and dtypes.
        self._accepted: dict[tuple[tuple[str, ...], int], tuple[Run, list[tuple[str, tuple[int, ...], np.dtype]]]] = {}
        self._shapes = {name: spec.shape for name, spec in contract.modalities.items()}
        self._dtypes = {name: np.dtype(spec.dtype) for name, spec in contract.modalities.items()}
        self._checked = [
            (name, spec.shortest, spec.shape, self._dtypes[name]) for name, spec in contract.modalities.items()
        ]
        self._subset_files = {frozenset(name.split("+")): file for name, file in entry.subsets.items()}
        self._split = entry.split.files if entry.split else {}
        wrong = None
        if entry.split and self._split.keys() != {*self._shapes, "fusion"}:
            wrong = f"the split engine has the parts {', '.join(sorted(self._split)) or 'none'}, wanted are {', '.join(self._shapes)} and fusion"
        if strange := {name for names in self._subset_files for name in names} - self._shapes.keys():
            wrong = f"there is an engine of the subset {'+'.join(sorted(strange))!r}, which is not of {', '.join(self._shapes)}"
        if wrong:
            raise MmedgeError(
                wrong, where=str(read.folder), todo="graph and manifest do not belong together: export it again"
            )
        self._subsets: dict[frozenset[str], Session] = {}
        self._embedding = Embedding(contract, self._outputs, read.artifact.sha256, label_vectors(read.artifact))
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        takes = ", ".join(f"{name} {list(spec.shape)} ({spec.kind})" for name, spec in self.contract.modalities.items())
        heads = self.contract.heads
        named = {name: f"{len(head.labels)} labels" if head.labels else "a value" for name, head in heads.items()}
        named |= {name: f"an array {list(h.shape)}" for name, h in heads.items() if h.shape}
        named |= {name: f"the values {', '.join(h.values)}" for name, h in heads.items() if h.values}
        named |= {
            name: f"{h.dimensions} numbers of each of {', '.join(h.towers)}" for name, h in heads.items() if h.towers
        }
        named |= {name: f"texts of up to {h.decoding.length} tokens" for name, h in heads.items() if h.decoding}
        gives = (
            ", ".join(f"{name}: {what}" for name, what in named.items()) if len(named) > 1 else "".join(named.values())
        )
        return f"<mmedge engine on {self.target}: {takes} -> {gives}>"

    def run(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The bare graph: {modality: [batch, *shape] of its dtype, "present": bool [batch, M]} -> {output: float32 [batch, outputs]}.

        Shapes and dtypes are checked, values are not. Every modality is given, zeros where it is absent; or absent ones
        are left out together with ``present``, and the engine of that subset runs, where the bundle has one.
        Raises MmedgeError naming the input.
        """
        try:  # the short way, for what is as it was before: beside a small graph every microsecond counts
            run, wanted = self._accepted[tuple(tensors), next(iter(tensors.values())).shape[0]]
            for name, shape, dtype in wanted:
                given = tensors[name]
                # NumPy keeps one object of each dtype: to look whether it is that one is quicker than to compare.
                if given.shape != shape or (given.dtype is not dtype and given.dtype != dtype):
                    break
            else:
                return run(tensors)
        except (KeyError, AttributeError, IndexError, TypeError, StopIteration):
            pass
        except Exception as error:  # the targets' exceptions share no base class
            raise _refused(error) from error
        if not isinstance(tensors, Mapping):
            raise MmedgeError(f"run takes {{input: array}}, not {type(tensors).__name__}")
        if "present" not in tensors and tensors.keys() != self._shapes.keys():
            return self._run_subset(tensors)
        try:
            present: Any = tensors.get("present")
            rows, columns = present.shape
            if present.dtype != _BOOL or columns != len(self._checked) or not rows:
                raise ValueError
        except (ValueError, AttributeError):
            raise MmedgeError(
                f"present must be bool [batch, {len(self._shapes)}] with a batch of at least 1, not {_described(tensors.get('present'))}"
            ) from None
        self._check(tensors, self._checked, rows)
        if len(tensors) != len(self._checked) + 1:
            raise unknown_modality(self.contract, tensors.keys() - {*self._shapes, "present"})
        return self._first(self._run, tensors, rows)

    def _first(self, run: Run, tensors: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """Run what was checked, and remember it for the short way."""
        outputs = _executed(run, tensors)
        if len(self._accepted) >= 64:
            self._accepted.clear()
        self._accepted[tuple(tensors), rows] = (
            run,
            [(name, given.shape, given.dtype) for name, given in tensors.items()],
        )
        return outputs

    def warm_up(self, batch: int = 1) -> int:
        """Run on zeros until the latency is stable; how many runs that took. The subsets' engines are opened too."""
        if not isinstance(batch, int) or batch < 1:
            raise UsageError(f"a batch has at least 1 sample, not {batch!r}")
        zeros = {name: np.zeros((batch, *shape), self._dtypes[name]) for name, shape in self._shapes.items()}
        for names in self._subset_files:
            self._run_subset({name: zeros[name] for name in names})
        feed = {**zeros, "present": np.ones((batch, len(zeros)), bool)}
        return warm_up(lambda: self._run(feed))[0]

    def parts(self, kind: str) -> Session | None:
        """A part of a split engine: a modality's encoder by its name, or ``fusion``; None where the bundle is not split.

        Its ``run`` raises MmedgeError, whatever the target raises.
        """
        if not self._split:
            return None
        if kind not in self._split:
            raise UsageError(
                f"there is no part {kind!r}{did_you_mean(str(kind), self._split)}; there are {', '.join(self._split)}"
            )
        session = self._open(self._split[kind])
        return replace(session, run=partial(_executed, session.run))

    def _run_subset(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run without what is absent: by the subset's own engine, or by the whole one with zeros."""
        unknown = tensors.keys() - self._shapes.keys()
        if unknown:
            raise unknown_modality(self.contract, unknown)
        if not tensors:
            raise MmedgeError(f"nothing is given; at least one of {', '.join(self._shapes)}")
        rows = len(next(iter(tensors.values()))) if all(np.ndim(given) for given in tensors.values()) else 0
        self._check(tensors, [row for row in self._checked if row[0] in tensors], rows)
        if not rows:
            raise MmedgeError("the batch is empty")
        session = self._subset(frozenset(tensors))
        if session is not None:
            return self._first(session.checked or session.run, tensors, rows)
        absent = {n: np.zeros((rows, *shape), self._dtypes[n]) for n, shape in self._shapes.items() if n not in tensors}
        present = np.tile([name in tensors for name in self._shapes], (rows, 1))
        return _executed(self._run, {**tensors, **absent, "present": present})

    def _check(
        self,
        tensors: Mapping[str, np.ndarray],
        wanted: list[tuple[str, int | None, tuple[int, ...], np.dtype]],
        rows: int,
    ) -> None:
        for name, shortest, shape, dtype in wanted:
            given = tensors.get(name)
            try:
                took = given.shape  # type: ignore[union-attr]
                fits = given.dtype == dtype and took == (rows, *shape)  # type: ignore[union-attr]
                if not fits and shortest is not None and given.dtype == dtype:  # type: ignore[union-attr]
                    fits = took[:-1] == (rows, *shape[:-1]) and shortest <= took[-1] <= shape[-1]
            except (AttributeError, IndexError):
                fits = False
            if not fits:
                takes = [rows, *shape] if shortest is None else [rows, *shape[:-1], f"{shortest} to {shape[-1]}"]
                raise MmedgeError(f"{name} must be {dtype} [{', '.join(map(str, takes))}], not {_described(given)}")

    def _subset(self, names: frozenset[str]) -> Session | None:
        if names not in self._subset_files:
            return None
        if names not in self._subsets:
            with self._opening:
                if names not in self._subsets:
                    self._subsets[names] = self._open(self._subset_files[names])
        return self._subsets[names]

    def embed(self, **values: Any) -> Any:
        """Raw values of one tower's modalities, as ``predict`` takes them -> its vector, float32 [dimensions], of unit length.

        Lists of them -> [n, dimensions]. Values of several towers -> {tower: its vectors}.
        """
        return self._embedding.vectors(*samples_of(self.contract, values))

    def index(
        self,
        items: Sequence[Mapping[str, object]],
        path: str | Path,
        *,
        ids: Sequence[str] | None = None,
        stored: Stored = "float32",
    ) -> Index:
        """Write the vectors of items, each {modality: value} of one tower, into a folder, to be searched from then on.

        ``ids``: what they are called, their numbers from 0 where none are given; ``stored`` int8 takes a quarter of the
        room, hnsw is for more than some 100,000 (usearch), and ``Index.kept`` says what either costs.
        """
        return self._embedding.index(items, Path(path), ids, stored)

    def search(self, index: Index | str | Path | None = None, k: int = 5, **values: Any) -> list[Hit]:
        """The ``k`` items of an index that are nearest to a query, the nearest first.

        ``index``: its folder, or what ``index`` gave; left out, the one that was used last. Raises UsageError for a query
        of the items' own tower only where there is no other.
        """
        samples, several = samples_of(self.contract, values)
        if several:
            raise UsageError("search takes one query at a time")
        return self._embedding.search(samples[0], index, k)

    def classify(self, labels: Sequence[str] | None = None, template: str | None = None, **values: Any) -> Prediction:
        """Which of some labels, never trained on, a sample has: the likeliest text of ``template`` with a label in it.

        ``labels``: left out, those that the bundle has vectors of (``export.zero_shot``), which need no tower of texts;
        ``template``: "a picture of a {}", say; left out, the bundle's own, else the label itself. Vectors are kept for the
        next sample. Raises UsageError where no tower of the bundle reads texts alone.
        """
        samples, several = samples_of(self.contract, values)
        if several:
            raise UsageError("classify takes one sample at a time")
        return self._embedding.classify(samples[0], labels, template)

    def predict(self, **values: Any) -> Any:
        """Raw values of one sample -> a Prediction; lists of them -> a list of Predictions.

        A modality that is left out, or None, is missing; at least one must be given. Image: a path, bytes, or uint8
        [h, w(, c)]. Audio: a path, bytes, float [samples] at the bundle's rate, or (samples, rate). Text: a str.
        Tabular: numbers and words, or a dict by column, None where a cell is missing. Sensor: a path, [channels, time],
        or (that, rate). Array: a path of a .npy file, or an array.
        """
        samples, several = samples_of(self.contract, values)
        found = self._predict(samples)
        return found if several else found[0]

    def preprocess(self, samples: Sequence[Mapping[str, object]]) -> dict[str, np.ndarray]:
        """Raw samples, each {modality: value}, -> what ``run`` takes. Raises MmedgeError for a sample with nothing present."""
        if not isinstance(samples, list) or not samples or not all(isinstance(sample, dict) for sample in samples):
            raise UsageError("preprocess takes a list of samples, at least one, each {modality: value}")
        present = np.array([[name in sample for name in self._shapes] for sample in samples])
        empty = np.flatnonzero(~present.any(axis=1))
        if len(empty):
            where = f"sample {empty[0]} of the batch" if len(samples) > 1 else None
            raise UsageError(f"nothing is present: give at least one of {', '.join(self._shapes)}", where=where)
        tensors: dict[str, np.ndarray] = {"present": present}
        for column, (name, spec) in enumerate(self.contract.modalities.items()):
            given = np.stack(
                [
                    self._tensor(name, sample[name], row, len(samples))
                    if name in sample
                    else np.zeros(spec.shape, spec.dtype)
                    for row, sample in enumerate(samples)
                ]
            )
            tensors[name] = preprocess.trimmed(spec, given, present[:, column])
        return tensors

    def _tensor(self, name: str, value: Any, row: int, rows: int) -> np.ndarray:
        """One value preprocessed; an error of a batch names its sample."""
        try:
            return preprocess.tensor(self.contract.modalities[name], value, name)
        except MmedgeError as error:
            if rows == 1:
                raise
            place = f"sample {row} of the batch" + (f", {error.where}" if error.where else "")
            raise type(error)(error.what, where=place, todo=error.todo) from error

    def _outputs(self, samples: Sequence[Mapping[str, object]]) -> dict[str, np.ndarray]:
        names, tensors = frozenset(samples[0]), self.preprocess(samples)
        if names in self._subset_files and all(sample.keys() == names for sample in samples):
            return self._run_subset({name: tensors[name] for name in names})
        return _executed(self._run, tensors)

    def _predict(self, samples: Sequence[Mapping[str, object]]) -> list[Prediction]:
        found = self.predictions(self._outputs(samples))
        if len(found) != len(samples):
            raise MmedgeError(
                f"the engine gives {len(found)} outputs for {len(samples)} samples",
                todo="the bundle's graph and manifest do not belong together: export it again",
            )
        return found

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[Prediction]:
        """What ``run`` returns, as one Prediction a row of the batch."""
        return predictions(self.contract, outputs)

    answers = predictions  # as version 0.1 called it


def _executed(run: Run, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``run(tensors)``; whatever the target raises becomes MmedgeError."""
    try:
        return run(tensors)
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> MmedgeError:
    if isinstance(error, MmedgeError):
        return error
    reason = first_line(error)
    return MmedgeError(
        f"the engine does not run on these values: {reason}",
        todo="look at their range: the ids of a text must be those of the bundle's tokenizer",
    )


def _described(value: Any) -> str:
    return (
        "missing"
        if value is None
        else f"{getattr(value, 'dtype', type(value).__name__)} {list(getattr(value, 'shape', []))}"
    )
