"""What of a network that has learnt elsewhere is trained on, and by small matrices beside its own."""

from __future__ import annotations

from pydantic import Field

from mmedge.frozen import Frozen


class Lora(Frozen):
    """Low-rank matrices that are trained beside frozen layers and added to them at the end (Hu et al. 2022, "LoRA")."""

    rank: int = Field(8, ge=1, le=1024, description="Of the two matrices beside a layer.")
    alpha: float = Field(16.0, gt=0, description="What they give counts alpha / rank.")
    layers: tuple[str, ...] = Field(
        ("query", "value"),
        min_length=1,
        description="Linear layers of the pretrained encoders: by their own name, query, or with more of what is before it.",
    )
