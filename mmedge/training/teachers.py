"""A frozen teacher's outputs for the samples a student sees, computed once a view and kept in mapped files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.artifact import hash_json, replacing
from mmedge.data.samples import Samples
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.progress import Progress
from mmedge.recipe import Train
from mmedge.spec import Contract
from mmedge.training.batches import Batch, view_of
from mmedge.training.device import training_device

_BATCH = 128


class Hint:
    """Keeps the output of one named layer of a module, flattened to [batch, features]."""

    def __init__(self, module: nn.Module, layer: str, where: str) -> None:
        layers = {name: child for name, child in module.named_modules() if name}
        found = layers.get(layer, layers.get(f"inner.{layer}"))
        if found is None:
            raise UsageError(
                f"the {where} has no layer {layer!r}{did_you_mean(layer, layers)}; it has {', '.join(layers)}",
                where=f"distill.loss.hint.{where}",
            )
        self.value: Tensor | None = None
        found.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.value = output.flatten(1)

    def take(self) -> Tensor:
        """The layer's output in the last forward pass, [batch, features]."""
        assert self.value is not None, "the layer did not run"
        return self.value


class Teacher:
    """Answers for (sample, view) pairs: logits [batch, outputs] and, where a hint is named, features [batch, f].

    The teacher sees every modality a sample has, whatever the student is shown. A view is computed for the whole split
    when it is first asked for; files are keyed by teacher, data, augmentation, view seed and view, and rows by sample.
    """

    def __init__(
        self,
        module: nn.Module,
        contract: Contract,
        samples: Samples,
        train: Train,
        *,
        key: str,
        view_seed: int,
        hint: str | None,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._module, self._contract, self._samples, self._train = module.eval(), contract, samples, train
        self._view_seed, self._folder, self._progress = view_seed, folder, progress
        self._hint = Hint(module, hint, "teacher") if hint else None
        augment = {name: a.model_dump() for name, a in train.augment.items()}
        self._key = hash_json([key, contract.model_dump(mode="json"), augment, view_seed, hint])[:16]
        self._views: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def outputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The teacher's logits and hint for the samples of a batch, as the batch's view shows them, on ``device``."""
        if batch.view not in self._views:
            self._views[batch.view] = self._load(batch.view)
        logits, features = self._views[batch.view]
        hint = None if features is None else torch.from_numpy(features[batch.index]).to(device)
        return torch.from_numpy(logits[batch.index]).to(device), hint

    @property
    def features(self) -> int:
        """Width of the hint."""
        if 0 not in self._views:
            self._views[0] = self._load(0)
        features = self._views[0][1]
        assert features is not None
        return features.shape[1]

    def _load(self, view: int) -> tuple[np.ndarray, np.ndarray | None]:
        paths = [self._folder / f"{self._key}-{view}-{what}.npy" for what in ("logits", "features")]
        wanted = paths if self._hint else paths[:1]
        if not all(path.is_file() for path in wanted):
            for path, values in zip(wanted, self._compute(view)):
                with replacing(path) as temporary:
                    np.save(temporary, values)
        loaded = [np.load(path, mmap_mode="r") for path in wanted]
        return loaded[0], loaded[1] if self._hint else None

    def _compute(self, view: int) -> list[np.ndarray]:
        logits, features, total = [], [], len(self._samples)
        device = training_device()
        self._module.to(device)
        with torch.no_grad():
            for start in range(0, total, _BATCH):
                index = np.arange(start, min(start + _BATCH, total))
                inputs = view_of(self._samples, index, self._train.augment, view_seed=self._view_seed, view=view)
                present = torch.from_numpy(np.array(self._samples.present[index])).to(device)
                answer = self._module(present=present, **{name: x.to(device) for name, x in inputs.items()})
                logits.append(answer[self._contract.output].cpu().numpy())
                if self._hint:
                    features.append(self._hint.take().cpu().numpy())
                self._progress.step(
                    "teacher's answers", start + len(index), total, f"view {view + 1}/{self._train.views}"
                )
        answers = [np.concatenate(part) for part in (logits, features) if part]
        for part in answers:
            if not np.isfinite(part).all():
                row = int(np.argwhere(~np.isfinite(part))[0][0])
                raise MmedgeError(
                    "the teacher's output holds NaN or infinity",
                    where=f"training sample {self._samples.ids[row]}",
                    todo="look at the teacher and at this sample",
                )
        return answers
