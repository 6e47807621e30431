"""Real spectrograms or made ones: the discriminator of a GAN (Goodfellow et al. 2014) becomes the encoder.

As in Radford, Metz & Chintala 2016, "Unsupervised representation learning with deep convolutional GANs", whose discriminator's
features are used for classes. Both sides are trained in one step of one optimizer: each part of the loss reaches one of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mmedge.contract import Contract
from mmedge.recipe import Model, Pretrain
from mmedge.recipe.pretraining import learned_of
from mmedge.training.loop.batches import Batch

_NOISE, _CHANNELS = 32, 32


class Adversarial(nn.Module):
    """A generator for each modality of spectrograms, and what reads from its encoder's features whether they are real."""

    # Neither side's loss says which epoch is better: the last is kept.
    last = True
    # Real inputs stand beside made ones: features cannot stand for them.
    of_inputs = True

    def __init__(self, encoders: nn.ModuleDict, contract: Contract, section: Pretrain, model: Model) -> None:
        super().__init__()
        of = {name: contract.modalities[name].shape for name in learned_of(section.kind, contract.modalities)}
        self.make = nn.ModuleDict({name: _Generator(shape) for name, shape in of.items()})
        self.real = nn.ModuleDict({name: nn.Linear(model.embedding, 1) for name in of})

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        names, losses = list(batch.inputs), []
        for name in self.make:
            encoder = module.encoders[name]  # type: ignore[index]
            real = batch.inputs[name][batch.present[:, names.index(name)]]
            if len(real) < 2:
                continue
            made = self.make[name](torch.randn(len(real), _NOISE, device=real.device))
            told = self.real[name](encoder(real)), self.real[name](encoder(made.detach()))
            still = {key: value.detach().clone() for key, value in encoder.state_dict().items()}
            weight, bias = self.real[name].weight.detach(), self.real[name].bias.detach()
            fooled = F.linear(functional_call(encoder, still, (made,)), weight, bias)
            losses += [F.softplus(-told[0]).mean(), F.softplus(told[1]).mean(), F.softplus(-fooled).mean()]
        return torch.stack(losses).sum() if losses else next(self.parameters()).sum() * 0


class _Generator(nn.Module):
    """[batch, noise] -> [batch, 1, bands, frames]: a small map, twice doubled by convolutions."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.small = tuple(-(-size // 4) for size in shape[1:])
        self.first = nn.Linear(_NOISE, _CHANNELS * self.small[0] * self.small[1])
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(_CHANNELS), nn.ReLU(), nn.ConvTranspose2d(_CHANNELS, _CHANNELS, 4, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(_CHANNELS, shape[0], 3, padding=1))

    def forward(self, noise: Tensor) -> Tensor:
        x = self.layers(self.first(noise).reshape(-1, _CHANNELS, *self.small))
        return x[:, :, : self.shape[1], : self.shape[2]]
