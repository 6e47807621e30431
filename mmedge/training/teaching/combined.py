"""Several teachers at once: their outputs joined into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from mmedge.artifact import hash_json
from mmedge.contract import Contract
from mmedge.training import losses
from mmedge.training.losses.several import HeadOutputs
from mmedge.training.teaching.sources import Source, TeacherOutputs


class Combined:
    """The outputs of several teachers for each head, as its task joins them, and the first one's hints.

    ``contract``: the student's. ``combine``: ``average`` takes the weights as they are given; ``confidence`` multiplies
    them, sample by sample, by how sure a teacher is. Labels, which CA-MKD (Zhang, Chen & Wang 2022, "Confidence-aware
    multi-teacher knowledge distillation") needs for it, are not looked at, since most samples may have none. A teacher
    without an output for a sample does not count there.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], *, combine: str, contract: Contract
    ) -> None:
        self._sources, self._weights = sources, np.asarray(weights, np.float64)
        self._confidence, self._heads = combine == "confidence", contract.heads
        self.heads = tuple(contract.heads)
        self.key = hash_json([[source.key for source in sources], list(weights), combine])
        self.fixed = all(source.fixed for source in sources)
        self.modules: Sequence[nn.Module] = [module for source in sources for module in source.modules]
        self.notes = tuple(f"teacher {n}: {note}" for n, source in enumerate(sources, 1) for note in source.notes)
        self._known: dict[str, list[np.ndarray]] = {}
        self._union: dict[str, np.ndarray] = {}
        for name, head in contract.heads.items():
            every = np.arange(contract.width(name))
            self._known[name] = [source.columns.get(name, every) for source in sources]
            self._union[name] = np.unique(np.concatenate(self._known[name]))
            losses.of(head).check_together(self._known[name], self._union[name])
        self.columns: Mapping[str, np.ndarray] = {
            name: union for name, union in self._union.items() if len(union) < contract.width(name)
        }

    def outputs(self, index: np.ndarray, view: int) -> TeacherOutputs:
        each = [source.outputs(index, view) for source in self._sources]
        logits, taught = {}, np.ones(len(index), bool)
        for name, head in self._heads.items():
            parts = [HeadOutputs(one.logits[name], one.taught, known) for one, known in zip(each, self._known[name])]
            logits[name], of_head = losses.of(head).together(
                parts, self._weights, confidence=self._confidence, columns=self._union[name], head=head
            )
            taught &= of_head
        return TeacherOutputs(logits, taught, each[0].hints)
