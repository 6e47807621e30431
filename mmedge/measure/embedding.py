"""What a network makes of samples before and after fusion, laid out in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from mmedge.models.fusion import FusionNet

# Fewer have no neighbours to speak of.
LEAST = 10


def features(module: nn.Module, inputs: Mapping[str, np.ndarray], present: np.ndarray) -> dict[str, np.ndarray]:
    """{encoder's modality, or fusion: float [n, features]} of the built-in network; empty of any other."""
    net = next((part for part in module.modules() if isinstance(part, FusionNet)), None)
    if net is None:
        return {}
    found: dict[str, np.ndarray] = {}

    def keeping(name: str):  # type: ignore[no-untyped-def]
        return lambda _, given, output: found.__setitem__(name, output.detach().flatten(1).cpu().numpy())

    places = {**dict(net.encoders.items()), "fusion": net.fusion}
    hooks = [part.register_forward_hook(keeping(name)) for name, part in places.items()]
    try:
        with torch.no_grad():
            module(**{name: torch.from_numpy(x) for name, x in inputs.items()}, present=torch.from_numpy(present))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def laid_out(rows: np.ndarray, seed: int) -> np.ndarray:
    """float [n, 2] of float [n, features] by t-SNE (van der Maaten & Hinton 2008). At least ``LEAST`` rows."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(rows))
