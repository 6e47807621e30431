"""A frozen teacher's outputs for the samples a student sees, computed once a view and kept in mapped files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.artifact import hash_json, replacing
from mmedge.data.samples import Samples
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.progress import Progress
from mmedge.recipe import Hint, Train
from mmedge.runtime.targets import onnxruntime_cpu
from mmedge.spec import Contract
from mmedge.training.batches import Batch, view_of
from mmedge.training.device import training_device
from mmedge.training.distillation import attention_map

_BATCH = 128


class Layer:
    """Keeps the output of one named layer of a module: [batch, features], or its attention map for that kind of hint."""

    def __init__(self, module: nn.Module, layer: str, kind: str, where: str) -> None:
        layers = {name.removeprefix("inner."): child for name, child in module.named_modules() if name}
        if layer.removeprefix("inner.") not in layers:
            raise UsageError(
                f"the {where} has no layer {layer!r}{did_you_mean(layer, layers)}; it has {_some(layers)}",
                where=f"distill.loss.hints.{where}",
            )
        self._kind = kind
        self._value: Tensor | None = None
        layers[layer.removeprefix("inner.")].register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        self._value = attention_map(value) if self._kind == "attention" else value.flatten(1)

    def take(self) -> Tensor:
        """The layer's output in the last forward pass."""
        assert self._value is not None, "the layer did not run"
        return self._value


def _some(layers: Mapping[str, nn.Module], most: int = 24) -> str:
    """Layer names, the outermost first: a large model has hundreds."""
    names = sorted(layers, key=lambda name: name.count("."))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Source(Protocol):
    """Whatever can teach: ``answer`` gives logits [batch, outputs], then one array [batch, f] for each hint."""

    contract: Contract

    def answer(self, inputs: Mapping[str, Tensor], present: Tensor) -> list[np.ndarray]: ...


class ModuleSource:
    """A torch module as a teacher, on the device that training runs on."""

    def __init__(self, module: nn.Module, contract: Contract, hints: Sequence[Hint]) -> None:
        self.contract = contract
        self._module, self._device = module.eval(), training_device()
        self._layers = [Layer(module, hint.teacher, hint.kind, "teacher") for hint in hints]
        module.to(self._device)

    def answer(self, inputs: Mapping[str, Tensor], present: Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            moved = {name: x.to(self._device) for name, x in inputs.items()}
            logits = self._module(present=present.to(self._device), **moved)[self.contract.output]
        return [x.cpu().numpy() for x in (logits, *(layer.take() for layer in self._layers))]


class GraphSource:
    """An ONNX graph that keeps the contract as a teacher, run by ONNX Runtime. It has no layers to hint at."""

    def __init__(self, graph: Path, contract: Contract, hints: Sequence[Hint]) -> None:
        if hints:
            raise UsageError(
                "an ONNX teacher has no layers by name", where="distill.loss.hints", todo="remove the hints"
            )
        self.contract = contract
        self._run = onnxruntime_cpu.session(graph, threads=torch.get_num_threads())

    def answer(self, inputs: Mapping[str, Tensor], present: Tensor) -> list[np.ndarray]:
        feed = {name: x.numpy() for name, x in inputs.items()}
        return [self._run({**feed, "present": present.numpy()})[self.contract.output]]


class Teacher:
    """Answers for (sample, view) pairs: logits [batch, outputs] and one array [batch, f] for each hint.

    The teacher sees every modality a sample has, whatever the student is shown. A view is computed for the whole split
    when it is first asked for; files are keyed by teacher, data, augmentation, view seed and view, and rows by sample.
    """

    def __init__(
        self,
        source: Source,
        samples: Samples,
        train: Train,
        *,
        key: str,
        view_seed: int,
        hints: Sequence[Hint],
        folder: Path,
        progress: Progress,
    ) -> None:
        self._source, self._samples, self._train = source, samples, train
        self._view_seed, self._folder, self._progress = view_seed, folder, progress
        self._hints = tuple(hints)
        augment = {name: a.model_dump() for name, a in train.augment.items()}
        asked = [(hint.teacher, hint.kind) for hint in hints]
        self._key = hash_json([key, source.contract.model_dump(mode="json"), augment, view_seed, asked])[:16]
        self._views: dict[int, list[np.ndarray]] = {}

    def outputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, list[Tensor]]:
        """The teacher's logits and hints for the samples of a batch, as the batch's view shows them, on ``device``."""
        logits, *features = (torch.from_numpy(part[batch.index]).to(device) for part in self._view(batch.view))
        return logits, features

    @property
    def widths(self) -> list[int]:
        """The width of each hint."""
        return [part.shape[1] for part in self._view(0)[1:]] if self._hints else []

    def _view(self, view: int) -> list[np.ndarray]:
        if view not in self._views:
            paths = [self._folder / f"{self._key}-{view}-{part}.npy" for part in range(1 + len(self._hints))]
            if not all(path.is_file() for path in paths):
                for path, values in zip(paths, self._compute(view), strict=True):
                    with replacing(path) as temporary:
                        np.save(temporary, values)
            self._views[view] = [np.load(path, mmap_mode="r") for path in paths]
        return self._views[view]

    def _compute(self, view: int) -> list[np.ndarray]:
        answers: list[list[np.ndarray]] = []
        total = len(self._samples)
        for start in range(0, total, _BATCH):
            index = np.arange(start, min(start + _BATCH, total))
            inputs = view_of(self._samples, index, self._train.augment, view_seed=self._view_seed, view=view)
            answers.append(self._source.answer(inputs, torch.from_numpy(np.array(self._samples.present[index]))))
            done, of = start + len(index), f"view {view + 1}/{self._train.views}"
            self._progress.step("teacher's answers", done, total, of)
        parts = [np.concatenate(part) for part in zip(*answers, strict=True)]
        for part in parts:
            if not np.isfinite(part).all():
                row = int(np.argwhere(~np.isfinite(part))[0][0])
                raise MmedgeError(
                    "the teacher's output holds NaN or infinity",
                    where=f"training sample {self._samples.ids[row]}",
                    todo="look at the teacher and at this sample",
                )
        return parts
