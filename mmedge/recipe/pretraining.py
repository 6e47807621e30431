"""The section ``pretrain`` of a teacher or a student: what its encoders learn of the data's own pairs before any label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from mmedge.frozen import Frozen
from mmedge.spec import ModalitySpec


class Pretrain(Frozen):
    """Training without labels, on every sample of the training split, labelled or not, before ``train`` begins."""

    kind: Literal["contrastive", "masked", "adversarial"] = Field(
        "masked",
        description="contrastive: to tell which modalities are of one sample, among those of the batch (InfoNCE); it needs two"
        " modalities. masked: parts of each modality are hidden, and made again from the features of all. adversarial: each"
        " encoder of spectrograms tells real ones from those that a small network makes of noise (GAN).",
    )
    epochs: int = Field(20, ge=1, le=1_000_000, description="Passes over the training split.")
    learning_rate: float = Field(1e-3, gt=0, le=100, description="At its height, after warm-up.")
    batch_size: int | None = Field(None, ge=2, le=1_000_000, description="Samples a step; those of 'train' where null.")
    hidden: float = Field(0.5, gt=0, lt=1, description="Of masked: share of a modality's parts that are hidden.")
    patch: int = Field(
        4,
        ge=1,
        le=1024,
        description="Of masked: side of the parts of a map, and steps of those of a series; tokens are one by one.",
    )
    dimensions: int = Field(64, ge=2, le=65_536, description="Of the space in which modalities are contrasted.")
    control: bool = Field(
        True,
        description="Whether the same network is also trained from nothing, as many steps in all, and the gain over it reported.",
    )


def learned_of(kind: str, modalities: Mapping[str, ModalitySpec]) -> tuple[str, ...]:
    """The modalities that a kind of pretraining learns from; none where it cannot be."""
    if kind == "contrastive":
        return tuple(modalities) if len(modalities) > 1 else ()
    if kind == "adversarial":
        return tuple(name for name, spec in modalities.items() if spec.kind == "audio" and len(spec.shape) == 3)
    return tuple(name for name, spec in modalities.items() if spec.ordered)


# Why there is none.
UNLEARNED = {
    "contrastive": "'contrastive' tells modalities apart, and there is one: take 'masked'",
    "masked": "'masked' hides places, and no modality has any: take 'contrastive'",
    "adversarial": "'adversarial' makes spectrograms, and no modality is one: take 'masked'",
}
