"""The inputs that a model is traced, counted and checked with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmedge.contract import Contract


def example(contract: Contract, batch: int = 2, *, learning: bool = False) -> dict[str, Tensor]:
    """Zeros of the contract's shapes, with everything present: what a model can be traced with.

    ``learning``: with the texts that heads which write are given in training, so that what they give has a gradient.
    """
    inputs = {
        name: torch.zeros(batch, *spec.shape, dtype=getattr(torch, spec.dtype))
        for name, spec in contract.modalities.items()
    }
    heads = {name: contract.heads[name].decoding for name in contract.written if learning}
    texts = {name: torch.zeros(batch, how.steps, dtype=torch.int64) for name, how in heads.items() if how}
    return {"present": torch.ones(batch, len(contract.modalities), dtype=torch.bool), **inputs, **texts}


def noise(contract: Contract) -> dict[str, Tensor]:
    """Random inputs [4, *shape], everything present. Token ids are 0 or 1, which every vocabulary has."""
    inputs = example(contract, batch=4)
    return {
        name: x if name == "present" else torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 2)
        for name, x in inputs.items()
    }


def generated(contract: Contract, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs [batch, *shape] as data gives them, everything present: standard normal numbers, and texts with padding behind."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, x in example(contract, batch).items():
        if name == "present":
            out[name] = x
        elif x.is_floating_point():
            out[name] = torch.randn(x.shape, generator=generator)
        else:
            spec = contract.modalities[name]
            pad, tokens = getattr(spec, "pad", 0), getattr(spec, "tokens", None) or 2
            ids = torch.randint(0, tokens, x.shape, generator=generator)
            ids = torch.where(ids == pad, 0 if pad else 1, ids)
            long = x.shape[-1] if spec.shape else 1
            lengths = torch.randint(1, long + 1, (batch, *(1 for _ in spec.shape)), generator=generator)
            out[name] = torch.where(torch.arange(long) < lengths, ids, pad) if spec.shape else ids
    return out


# What graphs and NumPy share.
_DTYPES = {torch.float16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool}


def outputs_of(module: nn.Module, contract: Contract) -> tuple[list[str], dict[str, str]]:
    """The outputs of a module that its graph has, in order, and {output: why} of those that it cannot have."""
    module.eval()
    with torch.no_grad():
        two, three = (module(**example(contract, batch)) for batch in (2, 3))
    left = {}
    for name, x in two.items():
        if x.dim() == 0 or (x.shape[0], three[name].shape[0]) != (2, 3):
            left[name] = f"it has no row a sample, but shape {list(x.shape)} for a batch of 2"
        elif name in contract.modalities or name == "present":
            left[name] = "an input has the same name"
        elif x.dtype not in _DTYPES:
            left[name] = f"it is of {x.dtype}"
    return [name for name in two if name not in left], left
