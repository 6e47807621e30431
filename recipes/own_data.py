"""A dataset and a network of one's own, for recipes/own_data.yaml: handwritten digits seen by two half-blind cameras.

A recipe names what is here as ``module:attribute``; mmedge imports it from the recipe's folder, or the environment.
The digits are scikit-learn's (1,797 of 8 x 8 pixels, from the UCI repository).
"""

import numpy as np
import torch
from torch import nn

SPLITS = {"train": slice(0, 1200), "validation": slice(1200, 1450), "test": slice(1450, 1797)}


class Digits:
    """Map-style: ``len()`` and ``[index]``, which gives a dict of

    - a raw value a modality: a path, bytes are not taken; an image is uint8 [h, w] or [h, w, 3], a sound float [samples]
      (or a pair with its rate), a text a str, a table's row a dict by column, a series float [channels, time];
      None, or no key at all, where the modality is missing for this sample,
    - the target, under the name of ``data.target``; None where the sample has no label,
    - ``id``, a name that is told in errors; and ``group``, where ``data.group`` asks for one.
    """

    def __init__(self, split: str, missing: float) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.images = (digits.images[SPLITS[split]] * 15.9).astype(np.uint8)  # [n, 8, 8], 0 to 254
        self.labels = digits.target[SPLITS[split]]
        self.split = split
        # Drawn once, so that an index always gives the same sample: mmedge caches what it has seen.
        self.absent = np.random.default_rng(0).random((len(self.labels), 2)) < missing

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        picture = self.images[index]
        left, right = self.absent[index]
        return {
            "id": f"{self.split}-{index}",
            "left": None if left else picture[:, :4],
            "right": None if right else picture[:, 4:],
            "ink": {"mean": float(picture.mean()), "filled": int((picture > 128).sum())},
            "label": str(self.labels[index]),
        }


def build(split: str, missing: float = 0.0) -> Digits:
    """``data.dataset``: called once for each of train, validation and test, with ``data.args``."""
    return Digits(split, missing)


class Halves(nn.Module):
    """``distill.model.factory``: a network of one's own. ``present``: bool [batch, modalities], in the recipe's order."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(1, hidden, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.right = nn.Sequential(nn.Conv2d(1, hidden, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.ink = nn.Linear(2, hidden)
        self.fusion = nn.Sequential(nn.Linear(2 * hidden * 32 + hidden, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, left, right, ink, present):
        shown = present.to(left.dtype)  # an absent modality's features become 0
        parts = [
            self.left(left) * shown[:, 0:1],
            self.right(right) * shown[:, 1:2],
            torch.relu(self.ink(ink)) * shown[:, 2:3],
        ]
        return self.head(self.fusion(torch.cat(parts, dim=1)))  # [batch, 10]


def small(hidden: int = 4) -> nn.Module:
    return Halves(hidden)
