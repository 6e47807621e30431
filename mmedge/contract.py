"""What a model promises: its inputs and its outputs, in a recipe's run, in every artifact and in the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from pydantic import Field, model_validator

from mmedge import tasks
from mmedge.frozen import Frozen
from mmedge.spec import ModalitySpec
from mmedge.tasks import Head


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All 2^M - 1 subsets that have something in them, smallest first; ``"+".join`` of one is its name."""
    return [chosen for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]


class Contract(Frozen):
    """What a model promises: its inputs in order, with ``present``, bool [batch, modalities], and its named outputs.

    An output of a number is in the targets' own unit.
    """

    modalities: dict[str, ModalitySpec] = Field(description="The inputs in the order of the columns of ``present``.")
    heads: dict[str, Head] = Field(min_length=1, description="The outputs, by their names in the graph.")

    @model_validator(mode="before")
    @classmethod
    def _of_one_head(cls, values: Any) -> Any:
        """Version 0.1 described its one output beside the modalities."""
        if not isinstance(values, dict) or "heads" in values or "task" not in values:
            return values
        named = {"task": "task", "labels": "labels", "target_mean": "mean", "target_std": "std"}
        head = {ours: values[theirs] for theirs, ours in named.items() if theirs in values}
        rest = {name: value for name, value in values.items() if name not in (*named, "output")}
        return {**rest, "heads": {values.get("output", "logits"): head}}

    @property
    def output(self) -> str:
        """The name of the one head; raises ValueError where there are several."""
        (name,) = self.heads
        return name

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the one head."""
        return self.heads[self.output].labels

    @property
    def kinds(self) -> dict[str, str]:
        """{modality: its kind}."""
        return {name: spec.kind for name, spec in self.modalities.items()}

    def width(self, head: str) -> int:
        """The columns of a head's output."""
        return tasks.of(self.heads[head]).width(self.heads[head])

    @property
    def written(self) -> tuple[str, ...]:
        """The heads whose outputs are texts, written token by token."""
        return tuple(name for name, head in self.heads.items() if head.decoding)

    def with_labels(self, labels: Sequence[str]) -> Contract:
        """The contract of one head with other labels."""
        ((name, head),) = self.heads.items()
        return self.model_copy(update={"heads": {name: head.model_copy(update={"labels": tuple(labels)})}})

    def only(self, modalities: Sequence[str]) -> Contract:
        """The contract of a model that takes only some of the modalities, in this contract's order."""
        kept = {name: spec for name, spec in self.modalities.items() if name in modalities}
        return self.model_copy(update={"modalities": kept, "heads": {n: h.only(kept) for n, h in self.heads.items()}})

    def at_temperatures(self, temperatures: Mapping[str, float]) -> Contract:
        """The contract whose probabilities are taken at the temperatures of some heads."""
        heated = {name: self.heads[name].at(value) for name, value in temperatures.items() if name in self.heads}
        return self.model_copy(update={"heads": {**self.heads, **heated}}) if heated else self

    def with_dimensions(self, dimensions: int) -> Contract:
        """The contract with embeddings of so many dimensions, where a head gives some."""
        wide = {n: h.model_copy(update={"dimensions": dimensions}) for n, h in self.heads.items() if h.towers}
        return self.model_copy(update={"heads": {**self.heads, **wide}})
