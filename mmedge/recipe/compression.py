"""The sections ``prune`` and ``quantize``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mmedge.recipe.training import Train
from mmedge.spec import Frozen

Precision = Literal["fp32", "fp16", "int8"]
# What a graph can be made into: a precision, or a way to come to one. ``precision_of`` gives the precision.
Candidate = Literal[
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "int8-extremes",
    "int8-percentile",
    "int8-histogram",
    "int8-narrow",
    "int8-bias",
    "int8-smooth",
    "int8-weights",
    "int8-mixed",
]


def precision_of(candidate: str) -> str:
    """``int8`` of ``int8-mixed``."""
    return candidate.partition("-")[0]


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

    ``max_subset_drop`` is the same for every subset of modalities. ``calibration``: the number of training samples; None:
    doubled until the ranges of the activations change by less than 2 %. ``ignore``: layers that stay in float, by name, by
    their place in the model (``encoders.audio``) or by branch.

    INT8 has per-channel weights. ``int8`` takes the mean of each sample's extremes as an activation's range; ``-extremes``
    the extremes of all samples; ``-percentile`` the mean of each sample's outermost 0.01 %; ``-histogram`` the range of
    least error; ``-narrow`` weights of 7 bits, which do not saturate on CPUs without VNNI; ``-bias`` corrects biases layer
    by layer instead of at once; ``-smooth`` is SmoothQuant, for transformers; ``-weights`` quantizes weights alone;
    ``-mixed`` takes layers that the runtime computes in float anyway back to FP32, and of the others the most sensitive until
    the budget holds. ``fallbacks`` are
    tried in order while no INT8 candidate is inside the budget. ``search_seconds`` bounds the search for ``-mixed``.

    ``require``: the precision that the result must have; where no candidate of it is inside the budget, the best is kept
    and the run ends with exit code 3.
    """

    candidates: tuple[Candidate, ...] = ("fp32", "fp16", "int8", "int8-mixed")
    fallbacks: tuple[Candidate, ...] = ("int8-narrow", "int8-extremes", "int8-percentile", "int8-smooth", "int8-mixed")
    max_drop: float = Field(0.01, ge=0)
    max_subset_drop: float = Field(0.02, ge=0)
    calibration: int | None = Field(None, ge=1)
    ignore: tuple[str, ...] = ()
    require: Precision | None = None
    search_seconds: float = Field(120.0, gt=0)

    @model_validator(mode="after")
    def _required_is_made(self) -> Quantize:
        if self.require is not None and self.require not in self.candidates:
            raise ValueError(f"'require: {self.require}' needs {self.require} among 'candidates'")
        return self

    @field_validator("candidates")
    @classmethod
    def _with_fp32(cls, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        if "fp32" not in candidates or len(set(candidates)) != len(candidates):
            raise ValueError("must hold 'fp32', to compare with, and each precision once")
        return candidates
