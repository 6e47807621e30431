"""What a student may cost, from which its encoders and widths are proposed."""

from __future__ import annotations

from pydantic import Field, model_validator

from mmedge.frozen import Frozen


class Budget(Frozen):
    """Limits that a student keeps; of the built-in networks inside all of them the one that computes most is taken."""

    latency_ms: float | None = Field(
        None,
        gt=0,
        description="Median of one call, as 'measure' takes it, on the first of export.targets that can time here.",
    )
    ratio: float | None = Field(None, gt=0, description="Its median over the teacher's, both in FP32 in one run.")
    params: int | None = Field(None, ge=1, description="Trained parameters at most.")
    size_kb: float | None = Field(None, gt=0, description="Largest FP32 graph, in 1000 bytes.")

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if not self.model_fields_set:
            raise ValueError("name one of 'latency_ms', 'ratio', 'params' and 'size_kb'")
        return self

    @property
    def timed(self) -> bool:
        return self.latency_ms is not None or self.ratio is not None
