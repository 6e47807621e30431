"""What an engine of towers does beside predicting: vectors, an index of them, the nearest, and labels never trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError
from mmedge.runtime.labels import LabelVectors
from mmedge.runtime.search import Hit, Index, Stored, likeliest, read_index, write_index
from mmedge.tasks import Prediction
from mmedge.tasks.retrieval import reading, vectors

Sample = Mapping[str, object]
# Items that are run at a time.
_BATCH = 64
# Sets of labels whose vectors are kept.
_SETS = 16


class Embedding:
    """The towers of an engine. ``outputs``: {head: float32 [n, W]} of some samples; ``bundle``: the sha256 of its bundle;
    ``own``: the labels that it has vectors of."""

    def __init__(
        self,
        contract: Contract,
        outputs: Callable[[list[dict[str, object]]], Mapping[str, np.ndarray]],
        bundle: str,
        own: LabelVectors | None = None,
    ) -> None:
        self._contract, self._outputs, self._bundle, self._own = contract, outputs, bundle, own
        self._head = next((name for name, head in contract.heads.items() if head.towers), None)
        self._index: tuple[str, Index] | None = None
        self._labels: dict[tuple[str, tuple[str, ...], str], np.ndarray] = {}

    def _towers(self, sample: Sample) -> list[str]:
        """The towers that see something of a sample; raises UsageError where the bundle has none at all."""
        if self._head is None:
            raise UsageError(
                "the bundle gives no embeddings: its task is another one",
                todo="use engine.predict, or train one with data.task: retrieval",
            )
        towers = self._contract.heads[self._head].towers
        return [tower for tower, sees in towers.items() if any(sample.get(name) is not None for name in sees)]

    def _one(self, sample: Sample, what: str) -> str:
        found = self._towers(sample)
        if len(found) != 1:
            raise UsageError(
                f"{what} is of one tower, and what is given is of {', '.join(found) or 'none'}",
                todo="; ".join(f"{tower}: {', '.join(sees)}" for tower, sees in self._sees.items()),
            )
        return found[0]

    @property
    def _sees(self) -> dict[str, tuple[str, ...]]:
        return self._contract.heads[self._head].towers if self._head else {}

    def _raw(self, samples: Sequence[Sample]) -> np.ndarray:
        """float32 [n, towers, dimensions], as long as the network gives them; raises MmedgeError where one is no number."""
        assert self._head is not None
        parts = [
            self._outputs([dict(sample) for sample in samples[start : start + _BATCH]])[self._head]
            for start in range(0, len(samples), _BATCH)
        ]
        found = np.concatenate(parts).reshape(len(samples), len(self._sees), -1)
        wrong = np.flatnonzero(~np.isfinite(found).all(axis=(1, 2)))
        if len(wrong):
            raise MmedgeError("the engine answered NaN or infinity", where=f"item {wrong[0]}")
        return found

    def _of_tower(self, samples: Sequence[Sample], tower: str) -> np.ndarray:
        """float32 [n, dimensions] of unit length."""
        assert self._head is not None
        raw = self._raw(samples)
        unit = vectors(raw.reshape(len(raw), -1), self._contract.heads[self._head])
        return unit[:, list(self._sees).index(tower)]

    def vectors(self, samples: Sequence[Sample], several: bool) -> Any:
        """See ``Engine.embed``."""
        if not all(map(self._towers, samples)):
            raise UsageError(f"nothing is given: give one of {', '.join(self._contract.modalities)}")
        towers = sorted({tower for sample in samples for tower in self._towers(sample)}, key=list(self._sees).index)
        found = {tower: self._of_tower(samples, tower) for tower in towers}
        given = found if several else {tower: x[0] for tower, x in found.items()}
        return given if len(given) > 1 else next(iter(given.values()))

    def index(self, items: Sequence[Sample], path: Path, ids: Sequence[str] | None, stored: Stored) -> Index:
        """See ``Engine.index``."""
        items = list(items)
        if not items:
            raise UsageError("there is nothing to index", where=str(path), todo="give at least one item")
        tower = self._one(items[0], "an index")
        for number, item in enumerate(items):
            if self._towers(item) != [tower]:
                raise UsageError(f"item {number} is not of the tower {tower} alone, as the first is", where=str(path))
        names = [str(name) for name in ids] if ids is not None else [str(number) for number in range(len(items))]
        found = write_index(path, self._of_tower(items, tower), names, tower=tower, bundle=self._bundle, stored=stored)
        self._index = str(path), found
        return found

    def search(self, query: Sample, index: Index | str | Path | None, k: int) -> list[Hit]:
        """See ``Engine.search``."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise UsageError(f"k is how many items are sought, 1 or more, not {k!r}")
        tower = self._one(query, "a query")
        found = self._opened(index)
        return found.nearest(self._of_tower([query], tower)[0], k)

    def _opened(self, index: Index | str | Path | None) -> Index:
        if isinstance(index, Index):
            if index.bundle != self._bundle:
                raise MmedgeError("the index is of another bundle, whose vectors stand in a space of their own")
            self._index = "", index
        elif index is not None and (self._index is None or self._index[0] != str(index)):
            self._index = str(index), read_index(index, self._bundle)
        if self._index is None:
            raise UsageError("there is no index to search", todo="name one: engine.search('items.index', text=…)")
        return self._index[1]

    def classify(self, sample: Sample, labels: Sequence[str] | None, template: str | None) -> Prediction:
        """See ``Engine.classify``."""
        tower = self._one(sample, "a sample")
        if labels is None and self._own is None:
            raise UsageError(
                "the bundle has no labels of its own",
                todo="name some: engine.classify(['cat', 'dog'], image=…), or export with export.zero_shot",
            )
        named = tuple(labels) if labels is not None else self._own.labels if self._own else ()
        template = template or (self._own.template if self._own else "{}")
        if len(set(named)) < 2 or len(set(named)) < len(named):
            raise UsageError("give two labels or more, each once", todo="engine.classify(['cat', 'dog'], image=…)")
        if "{}" not in template:
            raise UsageError(f"the template {template!r} has no place for a label", todo="write {} where it belongs")
        vectors = self._own.of(named, template, tower) if self._own else None
        vectors = self._labels_read(tower, named, template) if vectors is None else vectors
        query = self._raw([sample])[0, list(self._sees).index(tower)]
        likely = likeliest(query, vectors).tolist()
        return Prediction(named[likely.index(max(likely))], dict(zip(named, likely)))

    def _labels_read(self, asks: str, labels: tuple[str, ...], template: str) -> np.ndarray:
        """float32 [labels, dimensions], by the tower that reads them; kept for the next sample."""
        text = self._texts(asks)
        if (text, labels, template) not in self._labels:
            if len(self._labels) >= _SETS:
                self._labels.clear()
            texts = [{self._sees[text][0]: template.replace("{}", label)} for label in labels]
            self._labels[text, labels, template] = self._raw(texts)[:, list(self._sees).index(text)]
        return self._labels[text, labels, template]

    def _texts(self, asks: str) -> str:
        """The tower that reads a text alone and does not ask."""
        for tower in reading(self._sees, self._contract.kinds):
            if tower != asks:
                return tower
        has = self._own is not None and self._own.tower != asks
        own = f" those that the bundle has vectors of: {', '.join(self._own.labels)}" if self._own and has else ""
        raise UsageError(
            "no other tower of the bundle reads texts, in which labels could be given",
            todo=f"take{own}" if own else "search an index of examples instead: engine.search(…)",
        )
