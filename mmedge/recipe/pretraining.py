"""The section ``pretrain`` of a teacher or a student: what its encoders learn of the data's own pairs before any label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmedge.frozen import Frozen
from mmedge.spec import ModalitySpec

if TYPE_CHECKING:
    from mmedge.recipe.whole import Recipe


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
        description="Whether the same network is also trained from nothing, as many passes over the split in all, and the gain"
        " over it reported.",
    )


def learned_of(kind: str, modalities: Mapping[str, ModalitySpec]) -> tuple[str, ...]:
    """The modalities that a kind of pretraining learns from; none where it cannot be."""
    if kind == "contrastive":
        return tuple(modalities) if len(modalities) > 1 else ()
    if kind == "adversarial":
        return tuple(name for name, spec in modalities.items() if spec.kind == "audio" and len(spec.shape) == 3)
    return tuple(name for name, spec in modalities.items() if spec.ordered)


def learnable(section: Pretrain | None, modalities: Mapping[str, ModalitySpec]) -> Pretrain | None:
    """The section where there is one and something can be learned of these modalities: what a control of fewer of them begins with."""
    return section if section and learned_of(section.kind, modalities) else None


# Why there is none.
UNLEARNED = {
    "contrastive": "'contrastive' tells modalities apart, and there is one: take 'masked'",
    "masked": "'masked' hides places, and no modality has any: take 'contrastive'",
    "adversarial": "'adversarial' makes spectrograms, and no modality is one: take 'masked'",
}


def pretraining_faults(recipe: Recipe) -> Iterator[str]:
    """Sections ``pretrain`` of a network that has no encoders to train, and of modalities that nothing can be learned of."""
    for stage, section in recipe.sections.items():
        pretrain = getattr(section, "pretrain", None)
        if not pretrain:
            continue
        model, train = section.model, section.train  # type: ignore[attr-defined]
        if not getattr(section, "trained_here", True) or not model.encodes_each or (train and train.privacy):
            yield (
                f"{stage}.pretrain: needs a built-in network with an encoder a modality that is trained here, and not"
                " privately; leave out model.factory, model.fusion where it joins inputs or tokens, and train.privacy; or"
                " load weights that were pretrained elsewhere"
            )
            continue
        specs = {**recipe.data.modalities, **getattr(section, "preprocessing", {})}
        taken = {name: spec for name, spec in specs.items() if name in (model.modalities or specs)}
        if not learned_of(pretrain.kind, taken):
            yield f"{stage}.pretrain.kind: {UNLEARNED[pretrain.kind]}"
