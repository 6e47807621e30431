"""The same images, changes and batches as `tests.benchmarks.data` has, by torch alone and by WebDataset."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES, BATCH = 1024, 64


class Plain(Dataset[tuple[Tensor, int]]):
    """What one writes by hand with torch alone: from the same file of pixels, or from JPEG files by Pillow."""

    def __init__(self, pixels: np.ndarray | None, files: list[Path]) -> None:
        self.pixels, self.files = pixels, files
        self.mean, self.std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self.pixels is not None:
            image = torch.from_numpy(np.array(self.pixels[row]))
        else:
            image = opened(self.files[row].read_bytes())
        return self.changed(image), row % 10

    def changed(self, image: Tensor) -> Tensor:
        """uint8 [3, h, w] -> float32 [3, 224, 224], by torchvision's arithmetic."""
        height, width = image.shape[1:]
        area = float(torch.empty(1).uniform_(0.08, 1)) * height * width
        aspect = float(torch.exp(torch.empty(1).uniform_(np.log(3 / 4), np.log(4 / 3))))
        h, w = min(height, round((area / aspect) ** 0.5)), min(width, round((area * aspect) ** 0.5))
        top, left = (int(torch.randint(most + 1, (1,))) for most in (height - h, width - w))
        part = image[None, :, top : top + h, left : left + w]
        image = torch.nn.functional.interpolate(part, (224, 224), mode="bilinear", antialias=True)[0]
        if torch.rand(1) < 0.5:
            image = image.flip(-1)
        x = image.float() / 255
        for part_of in ("brightness", "contrast", "saturation"):
            factor = float(torch.empty(1).uniform_(0.6, 1.4))
            gray = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
            other = {"brightness": torch.zeros(()), "contrast": gray.mean(), "saturation": gray}[part_of]
            x = (factor * x + (1 - factor) * other).clamp(0, 1)
        return (x - self.mean) / self.std


def opened(content: bytes) -> Tensor:
    """A JPEG file's pixels at 224 x 224, as the store has them."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def plain(dataset: Plain, workers: int) -> Iterator[Any]:
    """Shuffled batches of a plain DataLoader, epoch after epoch."""
    loader: Any = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True
    )
    return (batch for _ in range(1000) for batch in loader)


def web(folder: Path, dataset: Plain, workers: int) -> Iterator[Any] | None:
    """The same from tar shards by WebDataset, where that is installed."""
    try:
        import webdataset
    except ImportError:
        return None
    for shard in range(4):
        if not (folder / f"{shard}.tar").exists():
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for row in range(shard, IMAGES, 4):
                    tar.add(folder / f"{row}.jpg", f"{row}.jpg")
    urls = [str(folder / f"{shard}.tar") for shard in range(4)]

    def sample(found: dict[str, Any]) -> tuple[Tensor, int]:
        return dataset.changed(opened(found["jpg"])), int(found["__key__"]) % 10

    whole = webdataset.WebDataset(urls, shardshuffle=4, nodesplitter=None).shuffle(256).map(sample).batched(BATCH)
    loader: Any = DataLoader(whole, None, num_workers=workers, persistent_workers=workers > 0)
    return (batch for _ in range(1000) for batch in loader)
