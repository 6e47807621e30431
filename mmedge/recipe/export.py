"""The sections ``export`` and ``measure``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mmedge.recipe.compression import Precision
from mmedge.spec import Frozen

Target = Literal["onnxruntime-cpu", "openvino-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]

# Precisions that a target has no kernels for, and what to do about it.
_LACKING: dict[str, dict[Precision | None, str]] = {
    "onnxruntime-cuda": {"int8": "its GPU kernels compute in float; name fp16 for it, or the target tensorrt"}
}


class TargetOptions(Frozen):
    """How one target's engine is built."""

    precision: Precision | None = Field(
        None, description="Taken instead of the fastest, or where the target cannot be run here."
    )
    max_batch: int = Field(8, ge=1, description="The largest batch that an engine of TensorRT takes.")
    best_batch: int = Field(1, ge=1, description="The batch that an engine of TensorRT is optimised for.")
    workspace_mb: int | None = Field(None, ge=1, description="Memory that TensorRT's builder may use; null: all.")
    level: int | None = Field(
        None, ge=0, le=5, description="How hard TensorRT's builder tries; null: as it does by itself."
    )
    version_compatible: bool = Field(False, description="Engines for later versions of TensorRT too (tensorrt alone).")
    hardware_compatible: bool = Field(False, description="TensorRT engines for other GPUs too.")
    required: bool = Field(
        True, description="false leaves the target out, with a note, where its package is not installed."
    )

    @model_validator(mode="after")
    def _batches_in_order(self) -> TargetOptions:
        if self.best_batch > self.max_batch:
            raise ValueError(f"'best_batch' ({self.best_batch}) is above 'max_batch' ({self.max_batch})")
        return self


class Export(Frozen):
    """The engines to build."""

    targets: dict[Target, TargetOptions] = Field(
        {"onnxruntime-cpu": TargetOptions()}, description="Target -> how its engine is built."
    )
    per_subset: bool = Field(
        False,
        description="An engine for every smaller set of modalities, without the absent encoders, where it is faster; on a"
        ' target that cannot be timed here, where it has less to compute, noted "not measured".',
    )
    split: bool = Field(
        False, description="Encoders and fusion head apart too, for modalities that come at different rates."
    )

    @model_validator(mode="after")
    def _what_targets_have(self) -> Export:
        for name, options in self.targets.items():
            if options.precision in _LACKING.get(name, {}):
                raise ValueError(f"{name} lacks {options.precision}: {_LACKING[name][options.precision]}")
            if options.version_compatible and name == "tensorrt-rtx":
                raise ValueError(
                    "tensorrt-rtx builds no engine that is 'version_compatible': mmedge export --rebuild BUNDLE takes seconds"
                )
        return self

    @field_validator("targets")
    @classmethod
    def _with_the_graph(cls, targets: dict[Target, TargetOptions]) -> dict[Target, TargetOptions]:
        if "onnxruntime-cpu" not in targets:
            raise ValueError("must hold 'onnxruntime-cpu': its graph is the bundle's model.onnx")
        return targets

    @property
    def on_gpu(self) -> bool:
        """Whether a target is a GPU's."""
        return any(name not in ("onnxruntime-cpu", "openvino-cpu") for name in self.targets)

    @property
    def elsewhere(self) -> bool:
        """Whether a target is not ONNX Runtime on a CPU, and may take INT8 otherwise."""
        return any(name != "onnxruntime-cpu" for name in self.targets)

    @property
    def asks_int8(self) -> bool:
        """Whether a target's own precision is INT8."""
        return any(options.precision == "int8" for options in self.targets.values())


class Measure(Frozen):
    """How latency and intervals are taken."""

    batch: int = Field(1, ge=1, description="Samples a timed call.")
    threads: int = Field(1, ge=1, description="Threads of a session; one, which does not spin, is the honest default.")
    runs: int = Field(1000, ge=20, description="Timed calls of each model.")
    warmup: int = Field(50, ge=1, description="Calls before them that are not timed.")
    bootstrap: int = Field(2000, ge=100, description="Resamplings for the 95 % intervals.")
