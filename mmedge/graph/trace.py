"""The inputs that a model is traced, counted and checked with."""

from __future__ import annotations

import torch
from torch import Tensor

from mmedge.spec import Contract


def example(contract: Contract, batch: int = 2) -> dict[str, Tensor]:
    """Zeros of the contract's shapes, with everything present: what a model can be traced with."""
    inputs = {
        name: torch.zeros(batch, *spec.shape, dtype=getattr(torch, spec.dtype))
        for name, spec in contract.modalities.items()
    }
    return {"present": torch.ones(batch, len(contract.modalities), dtype=torch.bool), **inputs}
