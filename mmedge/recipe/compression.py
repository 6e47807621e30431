"""The sections ``prune`` and ``quantize``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mmedge.recipe.training import Train
from mmedge.spec import Frozen

Precision = Literal["fp32", "fp16", "int8"]


class Prune(Frozen):
    """Structured pruning. ``macs`` is the share of the parent's multiply-accumulates to keep, at most.

    ``round_to``: channels that are left are a multiple of it. Kernels work on blocks of 8 or 16 channels, on CPUs and GPUs:
    13 channels cost what 16 do, and more.
    """

    macs: float = Field(0.65, gt=0, lt=1)
    round_to: int = Field(8, ge=1)
    ignore: tuple[str, ...] = ()
    train: Train = Train(epochs=10, learning_rate=1e-3)


class Quantize(Frozen):
    """Candidate precisions; kept are those that lose no more than ``max_drop`` against FP32 on validation.

    ``max_subset_drop`` is the same for every subset of modalities; ``calibration`` the number of training samples.
    """

    candidates: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    max_drop: float = Field(0.01, ge=0)
    max_subset_drop: float = Field(0.02, ge=0)
    calibration: int = Field(300, ge=1)

    @field_validator("candidates")
    @classmethod
    def _with_fp32(cls, candidates: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if "fp32" not in candidates or len(set(candidates)) != len(candidates):
            raise ValueError("must hold 'fp32', to compare with, and each precision once")
        return candidates
