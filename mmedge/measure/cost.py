"""What a model costs, by counting."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.graph.trace import example


def params(module: nn.Module) -> int:
    """Trained parameters; running statistics of batch norms are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, contract: Contract) -> int:
    """Multiply-accumulates of one sample, all modalities present: half the FLOPs that PyTorch's own counter counts."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    module.eval()
    # PyTorch's fused transformer layer and attention, and oneDNN's LSTM, are operations that its counter does not know.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore", UserWarning)  # of oneDNN, about GPUs
            with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
                module(**example(contract, batch=1, learning=True))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2
