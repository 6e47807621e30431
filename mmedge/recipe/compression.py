"""The sections ``prune`` and ``quantize``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmedge.backends.backend import Precision
from mmedge.frozen import Frozen
from mmedge.recipe.section import OnMiss, StageSection
from mmedge.recipe.train import Train

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
    "int8-dynamic",
    "int8-hybrid",
    "int8-apart",
    "int8-mixed",
    "int4-weights",
]


# What is best among candidates inside the accuracy budget; ``stages/preference.py`` decides by it.
Prefer = Literal["latency", "size", "energy", "accuracy"]


def precision_of(candidate: str) -> str:
    """``int8`` of ``int8-mixed``."""
    return candidate.partition("-")[0]


def computes_int8(candidate: str) -> bool:
    """Whether activations have codes of calibrated ranges: all of INT8 but ``int8-weights`` and ``int8-dynamic``."""
    return precision_of(candidate) == "int8" and candidate not in ("int8-weights", "int8-dynamic")


def is_of(candidate: str, required: str) -> bool:
    """Whether a candidate is what ``quantize.require`` asks for: weights alone in 8 bits are no INT8."""
    return computes_int8(candidate) if required == "int8" else candidate == required


def _without_privacy(section: Any) -> Any:
    """Raise ValueError where a stage that trains without noise is to be private."""
    if section.train.privacy:
        raise ValueError("'train.privacy' is of teacher and distill alone: this training has no private form")
    return section


class Budget(Frozen):
    """The shares of the parent that may be left; all that are given count."""

    latency: float | None = Field(None, gt=0, lt=1, description="Of the median latency at batch 1, measured here.")
    macs: float | None = Field(None, gt=0, lt=1, description="Of the multiply-accumulates of one sample.")
    params: float | None = Field(None, gt=0, lt=1, description="Of the parameters.")


class Prune(StageSection):
    """Structured pruning: whole channels and attention heads go, the rest is recovered with the teacher."""

    macs: float | None = Field(
        None, gt=0, lt=1, description="Short for budget.macs; 0.65 where the recipe gives no budget at all."
    )
    budget: Budget = Field(
        Budget(),
        description="What may be left. One that is given and cannot be met is exit code 4, or 3 where accuracy forbids it;"
        " the best that was found is kept.",
    )
    allocation: Literal["branches", "uniform"] = Field(
        "branches",
        description="branches: what each branch (an encoder, fusion, head) loses and saves is measured, and the budget"
        " shared out accordingly; uniform: the same share goes everywhere.",
    )
    ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.2, 0.4, 0.6, 0.8), min_length=1, description="Shares of a branch that are tried to measure it."
    )
    probe_steps: int = Field(40, ge=0, description="Training steps before each of these measurements.")
    branches: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {}, description="Branch -> the largest share of it, channels and blocks, that may go; 0 leaves it alone."
    )
    importance: Literal["l1", "l2", "bn", "taylor", "random"] = Field(
        "l2",
        description="What ranks channels: the sum of absolute weights (l1) or squares (l2), the scale of a batch norm (bn),"
        " the first order change of the loss (taylor, Molchanov et al. 2019), or random, a control.",
    )
    steps: int = Field(
        1,
        ge=1,
        le=20,
        description="Above 1: prune and recover in so many steps, and keep the last that lost no more than max_drop and"
        " max_subset_drop. With 1, a smaller cut is tried where the first lost more.",
    )
    max_drop: float = Field(
        0.01,
        ge=0,
        description="What quality may fall by against the parent, on validation; it must be proved with gates.confidence.",
    )
    max_subset_drop: float = Field(0.02, ge=0, description="The same for every subset of modalities.")
    on_miss: OnMiss = Field(
        "try-next",
        description="Where the first cut is not proved to lose so little. try-next: smaller ones are tried; keep-parent: none"
        " is; either way the parent is returned where none is left. stop: the run ends, with exit code 3.",
    )
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Channels that are left are a multiple of it, since kernels work on blocks of them. auto: measured on"
        " this CPU, and at least 8 where a GPU is a target.",
    )
    depth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Largest share of a stack's blocks (layers of a transformer, residual blocks of one width) that may go whole,"
        " before channels do: those without which the outputs on validation change least. Where no cut of what is left is kept"
        " all blocks stay.",
    )
    rank: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of its weights that a large linear layer keeps as two of lower rank, before channels go; embeddings"
        " too where a budget of parameters or a size is given, or preferred. Layers stay whole whose factors would keep less"
        " than 80 % of the power of what they give on training samples, and all do where no cut of what is left is kept.",
    )
    sparsity: Literal["2:4"] | None = Field(
        None,
        description="Of each four weights along a layer's inputs two become zero after the cut, and stay so in recovery and in"
        " 8 bits. GPUs from Ampere on skip them under TensorRT, and no CPU does: it needs such a target, or 'faster: false'.",
    )
    ignore: tuple[str, ...] = Field((), description="Layers that are not pruned, by name.")
    faster: bool = Field(
        True,
        description="false takes a model inside the budget that is no faster than its parent here, for its size or another"
        " machine.",
    )
    max_size_kb: float | None = Field(
        None,
        gt=0,
        description="Largest FP32 graph that may be left, in 1000 bytes: a budget of parameters that follows from it. Codes of 8"
        " bits take a quarter, see quantize.max_size_kb. One that cannot be met is exit code 4, or 3 where accuracy forbids it.",
    )
    train: Train = Field(Train(epochs=10, learning_rate=1e-3), description="The schedule of recovery.")

    _no_privacy = model_validator(mode="after")(_without_privacy)

    @model_validator(mode="after")
    def _one_budget_in_macs(self) -> Prune:
        if self.macs is not None and self.budget.macs is not None:
            raise ValueError("give 'macs' or 'budget.macs', not both")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """{latency, macs or params: share of the parent's that may be left}."""
        given = {name: limit for name, limit in self.budget if limit is not None}
        return given | ({} if self.macs is None else {"macs": self.macs}) or {"macs": 0.65}

    @property
    def demanded(self) -> bool:
        """Whether the recipe asked for a budget, so that missing it is a failure."""
        return self.macs is not None or any(limit is not None for _, limit in self.budget)


def sparsity_faults(prune: Prune | None, targets: Iterable[str], *, skips_zeros: bool) -> list[str]:
    """What is wrong with zeros that none of the ``targets`` gains by."""
    if prune is None or not (prune.sparsity and prune.faster) or skips_zeros:
        return []
    return [
        f"prune.sparsity: zeros make nothing faster on {', '.join(targets)}: add the target tensorrt or tensorrt-rtx, or say"
        " prune.faster: false"
    ]


class Quantize(StageSection):
    """Candidate precisions; kept are those inside the accuracy budget, and the fastest of them is taken."""

    candidates: tuple[Candidate, ...] = Field(
        ("fp32", "fp16", "int8", "int8-mixed"),
        description="What is made and measured. INT8 has per-channel weights: int8 takes the mean of each sample's extremes"
        " as an activation's range; -extremes the extremes of all samples; -percentile the mean of each sample's outermost"
        " 0.01 %; -histogram the range of least error; -narrow weights of 7 bits, which do not saturate on CPUs without"
        " VNNI; -bias corrects biases layer by layer instead of at once; -smooth is SmoothQuant; -weights"
        " quantizes weights alone, and int4-weights those of linear layers to 4 bits in blocks of 32; -dynamic gives the inputs of linear layers a range while it runs, on ONNX Runtime's CPU: neither"
        " calibrates; -hybrid, which int8 stands for too in a graph with attention, has convolutions as int8 and linear layers as -dynamic;"
        " -mixed takes layers that the runtime computes in float anyway back to FP32, and of the"
        " others the most sensitive until the budget holds. In a graph with attention or layer norms convolutions, linear layers and"
        " embeddings alone are quantized, outliers are smoothed, weights are rounded together (GPTQ), biases are corrected, and int8 takes the range of least error.",
    )
    fallbacks: tuple[Candidate, ...] = Field(
        ("int8-narrow", "int8-smooth", "int8-extremes", "int8-percentile", "int8-mixed"),
        description="Tried in order while no INT8 candidate is inside the budget.",
    )
    max_drop: float = Field(
        0.01,
        ge=0,
        description="What quality may fall by against FP32, on validation; it must be proved with gates.confidence.",
    )
    max_subset_drop: float = Field(0.02, ge=0, description="The same for every subset of modalities.")
    on_miss: OnMiss = Field(
        "try-next",
        description="Where no candidate in 8 bits is proved to lose so little. try-next: fallbacks and training are tried;"
        " keep-parent: neither is; either way FP32 is kept where none is left. stop: the run ends, with exit code 3.",
    )
    calibration: int | None = Field(
        None,
        ge=1,
        description="Training samples to calibrate on; null: doubled until the ranges of the activations change by less"
        " than 2 %.",
    )
    ignore: tuple[str, ...] = Field(
        (), description="Layers that stay in float, by name, by their place in the model (encoders.audio) or by branch."
    )
    qat: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Training with the quantization in the graph (int8-qat), taught as in distillation. auto: where every"
        " other INT8 candidate missed the budget and INT8 was measured faster than FP32.",
    )
    train: Train = Field(Train(epochs=6, learning_rate=5e-4), description="The schedule of that training.")
    require: Precision | None = Field(
        None,
        description="The precision that the result must have, on every target that has it and names no other; where no candidate"
        " of it is inside the budget, the best is kept and the run ends with exit code 3.",
    )
    search_seconds: float = Field(120.0, gt=0, description="Seconds that the search for int8-mixed may take.")
    max_size_kb: float | None = Field(
        None,
        gt=0,
        description="Largest graph that may be taken, in 1000 bytes; int8-weights and int4-weights are then tried too. Where none"
        " that holds max_drop is so small, the smallest is taken and the run ends with exit code 4.",
    )

    _no_privacy = model_validator(mode="after")(_without_privacy)

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
