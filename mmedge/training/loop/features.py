"""What a frozen pretrained encoder gives, in place of what it takes: computed once into a file, so that a head trains on it alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from mmedge.artifact import replacing
from mmedge.data.store.rows import Column
from mmedge.leftovers import removed_when_done
from mmedge.models.pretrained import Body, Tuned
from mmedge.progress import Progress
from mmedge.recipe import Augment
from mmedge.training.loop import processes
from mmedge.training.loop.batches import Training
from mmedge.training.loop.device import training_device

# Bytes of input, and rows, that a network is run on at a time: its maps inside are some ten to a hundred times as large, of
# a text's few ids thousands of times.
_CHUNK, _ROWS = 4 << 20, 64
# Bytes of a row's features, and the share of the free disk space that all may take.
_LARGEST, _DISK = 1 << 20, 0.5


@contextmanager
def in_place_of_inputs(
    module: nn.Module, objective: object, training: Training, folder: Path, progress: Progress
) -> Iterator[tuple[Training, list[str]]]:
    """Within the block ``module`` lacks the networks of its pretrained encoders that stay frozen, and gets their features.

    Gives the training with those as inputs, and notes. That goes where a sample is the same in every view, and its encoder
    gives one vector; others are left to ``frozen_parts``, and so are all where the ``objective`` is ``of_inputs``: what hides
    parts of an input, or makes them, asks for that itself. ``folder`` keeps the features for the same training after a kill
    or an interrupt.
    """
    left = {} if getattr(objective, "of_inputs", False) else _left_out(module, training)
    notes, splits = [], {"samples": training.samples, "validation": training.validation}
    bodies = {name: encoder.body for name, encoder in left.items()}
    with removed_when_done(folder):
        try:
            for name, body in bodies.items():
                rows, found = 0, {}
                for key, split in splits.items():
                    column = list(split.inputs).index(name)
                    present = np.asarray(split.present[:, column])
                    wanted = np.zeros(len(split), bool)
                    wanted[training.usable if key == "samples" else slice(None)] = True
                    index = np.flatnonzero(present & wanted)
                    found[key] = _features(body, split.inputs[name], index, folder / f"{name}-{key}.npy", progress)
                    rows += len(index)
                if any(features is None for features in found.values()):
                    continue
                splits = {key: replace(split, inputs={**split.inputs, name: cast(Column, found[key])}) for key, split in splits.items()}  # fmt: skip
                left[name].body = nn.Identity()  # type: ignore[assignment]
                notes.append(f"encoders.{name}.body is frozen, and was run once for each of {rows:,} samples")
            yield replace(training, samples=splits["samples"], validation=splits["validation"]), notes
        finally:
            for name, body in bodies.items():
                left[name].body = body


def _left_out(module: nn.Module, training: Training) -> dict[str, Tuned]:
    """{modality: its encoder}, of those whose features can stand for what they take."""
    train, encoders = training.schedule, getattr(module, "encoders", None)
    plain = (
        train.mix is None and train.precision == "fp32" and not train.compile and not train.privacy and not train.thaw
    )
    if not isinstance(encoders, nn.ModuleDict) or not plain or train.epochs == 1 or processes.count() > 1:
        return {}
    splits = (training.samples, training.validation)
    return {
        name: encoder
        for name, encoder in encoders.items()
        if isinstance(encoder, Tuned)
        and encoder.pool is None
        and train.augment.get(name, Augment()) == Augment()
        and _still(encoder.body)
        and all(name in split.inputs and not getattr(split.inputs[name], "streamed", False) for split in splits)
    }


def _still(body: Body) -> bool:
    """Whether nothing in it is trained, or changes because it is in training mode, and nobody listens inside."""
    heard = any(layer._forward_hooks or layer._forward_pre_hooks for layer in body.modules())
    return not heard and not body.training and not any(weight.requires_grad for weight in body.parameters())


def _features(body: Body, x: Column, index: np.ndarray, path: Path, progress: Progress) -> np.ndarray | None:
    """float32 [N, width], a file that is read as it is needed: of the rows ``index``, of the others 0. None where they are too large."""
    if path.is_file():
        return cast(np.ndarray, np.load(path, mmap_mode="c"))
    if not len(index):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    device = training_device()
    body.to(device)

    def given(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = body(torch.from_numpy(np.ascontiguousarray(x[rows])).to(device)).float().cpu().numpy()
        return found

    first = given(index[:1])
    free = shutil.disk_usage(path.parent).free
    if first.ndim != 2 or first.nbytes > _LARGEST or first.nbytes * len(x) > _DISK * free:
        return None
    with replacing(path) as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(x), first.shape[1]))
        step = min(_ROWS, max(1, _CHUNK // max(1, x[index[:1]].nbytes)))
        for start in range(0, len(index), step):
            rows = index[start : start + step]
            out[rows] = given(rows)
            progress.step(f"features of {path.stem}", start + len(rows), len(index))
        out.flush()
        del out
    return cast(np.ndarray, np.load(path, mmap_mode="c"))
