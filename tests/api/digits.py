"""A user's own network and data: scikit-learn's real handwritten digits, cut into an upper and a lower half."""

from __future__ import annotations

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Halves(nn.Module):
    """Two encoders and a head: [N, 1, 4, 8] each -> [N, 10]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.upper = self._encoder(width)
        self.lower = self._encoder(width)
        self.head = nn.Linear(2 * width, 10)

    @staticmethod
    def _encoder(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        return self.head(torch.cat([self.upper(upper), self.lower(lower)], 1))


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    """300 digits: upper, lower float32 [300, 1, 4, 8], label int64 [300]."""
    found = load_digits()
    pixels = (found.images[:300] / 16).astype(np.float32)[:, None]
    return {"upper": pixels[:, :, :4], "lower": pixels[:, :, 4:], "label": found.target[:300].astype(np.int64)}


@functools.cache
def trained_weights() -> dict[str, Tensor]:
    """What a plain loop of the user's own teaches a ``Halves`` in some seconds."""
    torch.manual_seed(0)
    module, data = Halves(), {name: torch.from_numpy(x) for name, x in arrays().items()}
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for step in range(150):
        rows = torch.randperm(300, generator=torch.Generator().manual_seed(step))[:64]
        loss = nn.functional.cross_entropy(module(data["upper"][rows], data["lower"][rows]), data["label"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.state_dict()


def trained() -> Halves:
    """A trained network, in evaluation mode."""
    module = Halves()
    module.load_state_dict(trained_weights())
    return module.eval()


def build(width: int = 16) -> nn.Module:
    """Named by tests as a recipe names it."""
    return Halves(width)
