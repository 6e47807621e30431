"""A loaded bundle: raw files or arrays in, labels out; or tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import artifact
from mmedge.errors import MissingDependency, MmedgeError, UsageError, did_you_mean
from mmedge.runtime import preprocess
from mmedge.runtime.targets import onnxruntime_cpu, tensorrt
from mmedge.spec import Contract, ModalitySpec, TabularSpec

_BY_TARGET = {"onnxruntime-cpu": "model.onnx"}


@dataclass(frozen=True)
class Prediction:
    """One sample's answer. Classification: ``label`` and ``probabilities`` {label: p}; regression: ``value``."""

    label: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    value: float | None = None

    def record(self) -> dict[str, Any]:
        return (
            {"value": self.value} if self.label is None else {"label": self.label, "probabilities": self.probabilities}
        )


def load(path: str | Path, target: str | None = None, threads: int = 1) -> Engine:
    """Load a bundle, verifying every file before it is used.

    ``target``: one that the bundle holds; ``onnxruntime-cpu`` where none is named. Raises MmedgeError for a damaged or
    foreign folder, UsageError for an unknown target, MissingDependency where the target cannot run here.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise MmedgeError("the bundle does not exist", where=str(folder))
    bundle = artifact.read(folder)
    if bundle.stage != "bundle":
        raise UsageError(
            f"this is the artifact of stage {bundle.stage!r}, not a bundle",
            where=str(folder),
            todo="mmedge run or mmedge export writes a bundle",
        )
    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    contract = Contract.model_validate(bundle.meta["contract"])
    target = target or "onnxruntime-cpu"
    if target not in bundle.meta["targets"]:
        raise UsageError(
            f"the bundle has no engine for {target!r}{did_you_mean(target, bundle.meta['targets'])}; it has {', '.join(bundle.meta['targets'])}",
            where=str(folder),
        )
    if target in tensorrt.PACKAGES:
        run = tensorrt.session(folder / target / "engine.plan", target=target, threads=threads)
    elif target in _BY_TARGET:
        run = onnxruntime_cpu.session(folder / _BY_TARGET[target], threads=threads)
    else:
        raise MissingDependency(f"this version of mmedge cannot run {target}", todo="upgrade mmedge")
    return Engine(contract, run, target, bundle.meta)


class Engine:
    """A model ready to answer. ``contract`` says what it takes; ``meta`` is the bundle's record, figures included."""

    def __init__(self, contract: Contract, run: onnxruntime_cpu.Run, target: str, meta: Mapping[str, Any]) -> None:
        self.contract, self.target, self.meta = contract, target, meta
        self._run = run
        self._shapes = {name: spec.shape for name, spec in contract.modalities.items()}
        self._dtypes = {name: np.dtype(spec.dtype) for name, spec in contract.modalities.items()}

    def run(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The bare graph: {modality: [batch, *shape] of its dtype, "present": bool [batch, M]} -> {output: float32 [batch, outputs]}.

        Shapes and dtypes are checked, values are not. Every modality must be given, zeros where it is absent.
        Raises MmedgeError naming the input.
        """
        present = tensors.get("present")
        if (
            present is None
            or present.dtype != bool
            or present.ndim != 2
            or present.shape[1] != len(self._shapes)
            or not len(present)
        ):
            raise MmedgeError(
                f"present must be bool [batch, {len(self._shapes)}] with a batch of at least 1, not {_described(present)}"
            )
        for name, shape in self._shapes.items():
            given = tensors.get(name)
            if (
                given is None
                or given.dtype != self._dtypes[name]
                or given.shape[1:] != shape
                or len(given) != len(present)
            ):
                raise MmedgeError(
                    f"{name} must be {self._dtypes[name]} {[len(present), *shape]}, not {_described(given)}"
                )
        if len(tensors) != len(self._shapes) + 1:
            raise self._unknown(tensors.keys() - {*self._shapes, "present"})
        return self._run(tensors)

    def predict(self, **values: Any) -> Any:
        """Raw values of one sample -> a Prediction; lists of them -> a list of Predictions.

        A modality that is left out, or None, is missing; at least one must be given. Image: a path, bytes, or uint8
        [h, w(, c)]. Audio: a path, bytes, float [samples] at the bundle's rate, or (samples, rate). Text: a str. Tabular: numbers
        and words, or a dict by column, None where a cell is missing. Sensor: a path, [channels, time], or (that, rate). Array: a path of a .npy file, or an array.
        """
        unknown = values.keys() - self._shapes.keys()
        if unknown:
            raise self._unknown(unknown)
        given = {name: value for name, value in values.items() if value is not None}
        batched = {name for name, value in given.items() if _is_batch(self.contract.modalities[name], value)}
        if batched and batched != given.keys():
            raise UsageError(
                f"either every modality is a list or none; {', '.join(sorted(given.keys() - batched))} is not"
            )
        if not batched:
            return self._predict([given])[0]
        sizes = {name: len(given[name]) for name in batched}
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise UsageError(f"the lists must be of one length, at least 1, not {sizes}")
        return self._predict(
            [
                {name: value for name in given if (value := given[name][row]) is not None}
                for row in range(next(iter(sizes.values())))
            ]
        )

    def preprocess(self, samples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Raw samples -> what ``run`` takes. Raises MmedgeError for a sample with nothing present."""
        present = np.array([[name in sample for name in self._shapes] for sample in samples])
        empty = np.flatnonzero(~present.any(axis=1))
        if len(empty):
            where = f"sample {empty[0]} of the batch" if len(samples) > 1 else None
            raise UsageError(f"nothing is present: give at least one of {', '.join(self._shapes)}", where=where)
        tensors: dict[str, np.ndarray] = {"present": present}
        for name, spec in self.contract.modalities.items():
            tensors[name] = np.stack(
                [
                    preprocess.tensor(spec, sample[name], name) if name in sample else np.zeros(spec.shape, spec.dtype)
                    for sample in samples
                ]
            )
        return tensors

    def _predict(self, samples: list[dict[str, Any]]) -> list[Prediction]:
        output = self._run(self.preprocess(samples))[self.contract.output]
        if not np.isfinite(output).all():
            raise MmedgeError(
                "the engine answered NaN or infinity",
                todo="the bundle is damaged, or its precision too low for this input",
            )
        if self.contract.task == "regression":
            return [Prediction(value=float(row[0])) for row in output]
        shifted = np.exp(output - output.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        labels = self.contract.labels
        return [
            Prediction(labels[int(row.argmax())], {label: float(p) for label, p in zip(labels, row)})
            for row in probabilities
        ]

    def _unknown(self, names: Any) -> UsageError:
        name = sorted(names)[0]
        return UsageError(
            f"the bundle has no modality {name!r}{did_you_mean(name, self._shapes)}; it has {', '.join(self._shapes)}"
        )


def _is_batch(spec: ModalitySpec, value: Any) -> bool:
    if not isinstance(value, list):
        return False
    if isinstance(spec, TabularSpec):  # a plain list of cells, words and None among them, is one sample
        return not value or any(isinstance(row, (list, tuple, dict, np.ndarray)) for row in value)
    # A plain list of numbers is one array.
    return (
        spec.kind != "array"
        or not value
        or isinstance(value[0], (list, tuple, dict, np.ndarray, str, Path, type(None)))
    )


def _described(value: Any) -> str:
    return (
        "missing"
        if value is None
        else f"{getattr(value, 'dtype', type(value).__name__)} {list(getattr(value, 'shape', []))}"
    )
