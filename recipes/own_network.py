"""A network and data of one's own, as a notebook has them: scikit-learn's handwritten digits, in an upper and a lower half.

``from recipes.own_network import loader, model`` gives both trained and ready; ``python recipes/own_network.py DIR`` writes
them as files for the command line: net.safetensors, net.onnx and digits.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """[N, 1, 4, 8] and [N, 1, 4, 8] -> logits [N, 10]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.upper, self.lower = self._encoder(width), self._encoder(width)
        self.head = nn.Sequential(nn.Linear(2 * 8 * width, 64), nn.ReLU(), nn.Linear(64, 10))

    @staticmethod
    def _encoder(width: int) -> nn.Module:
        layers = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten())

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        return self.head(torch.cat([self.upper(upper), self.lower(lower)], dim=1))


def samples(first: int) -> TensorDataset:
    """(upper, lower, label) of real digits: every second one, from ``first`` on."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images[first::2].astype(np.float32))[:, None] / 16
    return TensorDataset(pixels[:, :, :4], pixels[:, :, 4:], torch.from_numpy(digits.target[first::2].astype(np.int64)))


def trained(epochs: int = 40) -> Net:
    """A network that a plain loop has taught, on digits that ``loader`` does not have: what is measured on it is fair."""
    torch.manual_seed(0)
    net, loader = Net(), DataLoader(samples(0), batch_size=64, shuffle=True)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for upper, lower, label in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(upper, lower), label).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


loader = DataLoader(samples(1), batch_size=64)


def __getattr__(name: str) -> Net:
    if name != "model":
        raise AttributeError(name)
    return trained()


if __name__ == "__main__":
    from safetensors.torch import save_file

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    model = trained()
    save_file(model.state_dict(), folder / "net.safetensors")
    upper, lower, label = (x.numpy() for x in samples(1).tensors)
    np.savez(folder / "digits.npz", upper=upper, lower=lower, label=label)
    shapes = {"upper": {0: "batch"}, "lower": {0: "batch"}}
    inputs = (torch.zeros(2, 1, 4, 8), torch.zeros(2, 1, 4, 8))
    torch.onnx.export(model, inputs, folder / "net.onnx", dynamo=True, dynamic_shapes=shapes, verbose=False)
