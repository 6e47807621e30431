"""Whatever can teach, behind one call: a torch module, an ONNX graph or a file, with the samples preprocessed as it wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.artifact import hash_json
from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.data.outputs import StoredOutputs, no_common_sample
from mmedge.data.store.samples import Samples
from mmedge.errors import MmedgeError, UsageError
from mmedge.measure.classes import ClassMap
from mmedge.recipe import Augment, Hint, Mix
from mmedge.recipe.dependencies import path_state
from mmedge.training.loop import processes, sharding
from mmedge.training.loop.batches import Look, view_of
from mmedge.training.loop.device import training_device
from mmedge.training.loop.precision import autocast, channels_last, with_channels_last
from mmedge.training.teaching.layers import HintedLayer

# Bytes of input that a module is run on at a time; its maps inside are some ten to a hundred times as large.
_CHUNK = 4 << 20


@dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher gives for some samples.

    ``logits``: {head: float32 [batch, W]}, over the source's ``columns``; ``taught``: bool [batch], whether it has
    outputs for the sample (those of the others are 0 and mean nothing); ``hints``: one float32 [batch, f] for each
    hint.
    """

    logits: dict[str, np.ndarray]
    taught: np.ndarray
    hints: list[np.ndarray] = field(default_factory=list)


class Source(Protocol):
    """``outputs``: those for the rows ``index`` (int64 [batch]) of the training split under the augmented view ``view``.

    ``key`` names all that they depend on, ``heads`` whose outputs they are. ``fixed``: they are the same for every view. ``columns``: {head: the
    columns of the student's output that the logits stand for, int64}, of heads of which they are not all. ``notes``:
    what a reader must know. ``modules``: the networks that it runs.
    """

    key: str
    heads: tuple[str, ...]
    fixed: bool
    columns: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    modules: Sequence[nn.Module]

    def outputs(self, index: np.ndarray, view: int) -> TeacherOutputs: ...


@dataclass(frozen=True)
class TrainingViews:
    """The training split as one teacher sees it: its modalities, its preprocessing, augmented by ``view_seed``.

    ``texts``: {head that writes: int64 [N, steps]}, what it is led through, token by token. ``alone``: there is no other
    teacher.
    """

    samples: Samples
    augment: Mapping[str, Augment]
    view_seed: int
    mix: Mix | None = None
    texts: Mapping[str, np.ndarray] = field(default_factory=dict)
    alone: bool = True

    def seen(self, index: np.ndarray) -> np.ndarray:
        """bool [batch]: the samples that have a modality of the teacher's. What it gives of nothing at all teaches nobody."""
        return np.asarray(self.samples.present[index].any(axis=1))

    @property
    def _unseen(self) -> int:
        return int((~self.samples.present.any(axis=1)).sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """How many samples it is not shown anything of."""
        of = f"{self._unseen} of the {len(self.samples)} {self.samples.split} samples"
        note = f"nothing that the teacher takes is in {of}: they {without_outputs(self.alone)}"
        return (note,) if self._unseen else ()

    @property
    def key(self) -> str:
        """Names the augmented views; which samples they are of is the teacher's to know."""
        augment = {
            name: [a.model_dump(mode="json"), "".join(path_state(folder) for folder in a.folders.values())]
            for name, a in self.augment.items()
            if name in self.samples.inputs
        }
        mix = [self.mix.model_dump(mode="json")] if self.mix else []
        texts = {head: sha256(x.tobytes()).hexdigest() for head, x in self.texts.items()}
        unseen = ["untaught where it sees nothing"] if self._unseen else []
        return hash_json([augment, self.view_seed, *mix, *([texts] if texts else []), *unseen])

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample's inputs."""
        return sum(x[:1].nbytes for x in self.samples.inputs.values())

    def inputs(self, index: np.ndarray, view: int) -> dict[str, Tensor]:
        """{modality: [batch, *shape]}, and the texts of heads that write."""
        texts = {head: torch.from_numpy(x[index]) for head, x in self.texts.items()}
        return view_of(self.samples, index, Look(self.augment, self.view_seed, view, self.mix)) | texts

    def present(self, index: np.ndarray) -> Tensor:
        """bool [batch, modalities]: all that the samples have, whatever the student sees."""
        return torch.from_numpy(np.array(self.samples.present[index]))

    def finite(self, parts: Sequence[np.ndarray], index: np.ndarray, who: str) -> None:
        """Raise MmedgeError that names the first sample where a part of its outputs is not finite."""
        for part in parts:
            if not np.isfinite(part).all():
                row = int(index[np.argwhere(~np.isfinite(part))[0][0]])
                raise MmedgeError(
                    f"the output of {who} holds NaN or infinity",
                    where=f"training sample {self.samples.ids[row]}",
                    todo="look at the teacher and at this sample",
                )


@dataclass(frozen=True)
class Inference:
    """How a module that teaches is run: ``precision`` and ``sharded`` of its section.

    ``sharded``: of several processes each holds a part of it (``loop/sharding.py``), and all have to ask at once; its outputs are the same.
    """

    precision: str = "fp32"
    sharded: bool = False


class ModuleSource:
    """A torch module as a teacher, on the device that training runs on. ``key`` names its weights and data."""

    fixed = False
    columns: Mapping[str, np.ndarray] = {}

    def __init__(
        self,
        module: nn.Module,
        contract: Contract,
        views: TrainingViews,
        hints: Sequence[Hint],
        *,
        key: str,
        who: str,
        how: Inference = Inference(),
    ) -> None:
        precision = how.precision
        self.key = hash_json(
            [key, contract.model_dump(mode="json"), views.key, *([precision] if precision != "fp32" else [])]
        )
        self.heads, self._views, self._who = tuple(contract.heads), views, who
        self._precision, self._device = precision, training_device()
        module = module.eval().requires_grad_(False)
        self._in_parts = how.sharded and processes.count() > 1
        self._module = sharding.sharded(module) if self._in_parts else module.to(self._device)
        unshared = sharding.NOTHING_SHARED if how.sharded and not processes.launched() else ()
        self.notes: tuple[str, ...] = (*unshared, *views.notes)
        self.modules: Sequence[nn.Module] = (module,)
        self._last = channels_last(module, precision, self._device, contract)
        self._layers = [HintedLayer(module, hint.teacher, hint.kind, "teacher") for hint in hints]

    def outputs(self, index: np.ndarray, view: int) -> TeacherOutputs:
        # Samples that have the same modalities together, so that nothing is run for what none of them has.
        kinds, which = np.unique(self._views.present(index).numpy(), axis=0, return_inverse=True)
        own = [
            sharding.Pass(tuple(kind.tolist()), rows, len(rows))
            for number, kind in enumerate(kinds)
            for rows in _parts(np.flatnonzero(which.ravel() == number), self._views.row_bytes)
        ]
        passes = sharding.in_step(own) if self._in_parts else own
        parts = [self._together(one, index, view) for one in passes]
        back = np.argsort(np.concatenate([one.rows for one in passes]), kind="stable")
        each = [np.concatenate(part)[back] for part in zip(*parts)]
        self._views.finite(each, index, self._who)
        logits, hints = dict(zip(self.heads, each)), each[len(self.heads) :]
        return TeacherOutputs(logits, self._views.seen(index), hints)

    def _together(self, one: sharding.Pass, index: np.ndarray, view: int) -> list[np.ndarray]:
        """The logits of each head, then the hints, of a pass's rows; it is filled up with others that are let go of."""
        shown = index[np.resize(one.rows if len(one.rows) else 0, one.count)]
        present = torch.tensor(one.kind).repeat(one.count, 1)
        with torch.no_grad(), autocast(self._precision, self._device, f"{self._who}.precision"):
            moved = {name: x.to(self._device) for name, x in self._views.inputs(shown, view).items()}
            moved = with_channels_last(moved) if self._last else moved
            outputs = self._module(present=present.to(self._device), **moved)
        found = [*(outputs[name] for name in self.heads), *(layer.take(one.count) for layer in self._layers)]
        return [x[: len(one.rows)].float().cpu().numpy() for x in found]


class GraphSource:
    """An ONNX graph that keeps the contract as a teacher, run by ONNX Runtime. It has no layers to hint at."""

    fixed = False
    columns: Mapping[str, np.ndarray] = {}
    modules: Sequence[nn.Module] = ()

    def __init__(
        self, graph: Path, contract: Contract, views: TrainingViews, hints: Sequence[Hint], *, key: str, who: str
    ) -> None:
        no_hints(hints, "an ONNX teacher")
        self.key = hash_json([key, contract.model_dump(mode="json"), views.key])
        self.heads, self._views, self._who = tuple(contract.heads), views, who
        self.notes: tuple[str, ...] = views.notes
        self._run = onnxruntime_cpu.session(graph, threads=torch.get_num_threads())

    def outputs(self, index: np.ndarray, view: int) -> TeacherOutputs:
        feed = {name: x.numpy() for name, x in self._views.inputs(index, view).items()}
        outputs = self._run({**feed, "present": self._views.present(index).numpy()})
        logits = {name: outputs[name].astype(np.float32) for name in self.heads}
        self._views.finite(list(logits.values()), index, self._who)
        return TeacherOutputs(logits, self._views.seen(index))


def _parts(rows: np.ndarray, row_bytes: int) -> list[np.ndarray]:
    """``rows`` in parts of as many inputs as a network's maps of stay in fast memory: large batches of pictures take thrice as long."""
    return np.array_split(rows, -(-len(rows) * row_bytes // _CHUNK))


def without_outputs(alone: bool) -> str:
    """What becomes of samples that a file of outputs lacks. ``alone``: there is no other teacher."""
    return "learn from their labels alone" if alone else "are left to the other teachers"


class OutputsSource:
    """Outputs that were computed elsewhere, found by the sample's id: the same for every augmented view."""

    fixed = True
    columns: Mapping[str, np.ndarray] = {}
    modules: Sequence[nn.Module] = ()

    def __init__(
        self, stored: StoredOutputs, head: str, ids: Sequence[str], *, key: str, split: str, alone: bool = True
    ) -> None:
        self.key = key
        self.heads: tuple[str, ...] = (head,)
        self._logits, self._rows = stored.logits, stored.rows(ids)
        covered = int((self._rows >= 0).sum())
        if not covered:
            raise no_common_sample(stored, ids, split)
        self.notes: tuple[str, ...] = ("outputs from a file: all augmented views of a sample are taught by the same",)
        if covered < len(ids):
            self.notes += (
                f"the file has {covered} of the {len(ids)} {split} samples; the others {without_outputs(alone)}",
            )

    def outputs(self, index: np.ndarray, view: int) -> TeacherOutputs:
        rows = self._rows[index]
        return TeacherOutputs(
            {self.heads[0]: np.where(rows[:, None] >= 0, self._logits[rows], np.float32(0))}, rows >= 0
        )


class MappedSource:
    """A teacher with classes of its own: its outputs as probabilities of those of the data's classes that it knows.

    Samples of which it gives more than half to classes that the data does not have are not taught by it.
    """

    def __init__(self, source: Source, classes: ClassMap) -> None:
        self._source, self._classes = source, classes
        self.heads: tuple[str, ...] = (classes.head,)
        self.key = hash_json([source.key, classes.theirs, classes.ours, classes.to])
        self.fixed, self.notes, self.modules = source.fixed, (*source.notes, classes.note()), source.modules
        whole = len(classes.columns) == len(classes.ours)
        self.columns: Mapping[str, np.ndarray] = {} if whole else {classes.head: classes.columns}

    def outputs(self, index: np.ndarray, view: int) -> TeacherOutputs:
        own = self._source.outputs(index, view)
        logits, kept = self._classes.known(own.logits[self._classes.head])
        return replace(own, logits={self._classes.head: logits}, taught=own.taught & (kept >= 0.5))


def no_hints(hints: Sequence[Hint], who: str) -> None:
    """Raise UsageError where hints name layers of a teacher that has no layers."""
    if hints:
        raise UsageError(f"{who} has no layers by name", where="distill.loss.hints", todo="remove the hints")
