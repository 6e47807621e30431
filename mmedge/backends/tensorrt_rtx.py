"""TensorRT for RTX: TensorRT's code path with its own package, whose engines run on every GPU from Ampere on."""

from __future__ import annotations

from pydantic import model_validator

from mmedge.backends import tensorrt


class Options(tensorrt.Options):
    """How TensorRT for RTX builds an engine; what is null is left to the builder."""

    @model_validator(mode="after")
    def _of_this_version_alone(self) -> Options:
        if self.version_compatible:
            raise ValueError(
                "tensorrt-rtx builds no engine that is 'version_compatible': mmedge export --rebuild BUNDLE takes seconds"
            )
        return self


BACKEND = tensorrt.backend_of("tensorrt-rtx", Options)
