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


def noise(contract: Contract) -> dict[str, Tensor]:
    """Random inputs [4, *shape], everything present. Token ids are 0 or 1, which every vocabulary has."""
    inputs = example(contract, batch=4)
    return {
        name: x if name == "present" else torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 2)
        for name, x in inputs.items()
    }
