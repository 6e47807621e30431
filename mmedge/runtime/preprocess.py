"""Where version 0.1 had the preprocessing: programs that import it by that name go on working."""

from mmedge.preprocess import raw_features, tensor, trimmed

__all__ = ["raw_features", "tensor", "trimmed"]
