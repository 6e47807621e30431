"""Encoders of timm: pictures. The user's machine has timm, and a file of weights in its names."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from mmedge.errors import MissingDependency, UsageError, first_line
from mmedge.models.pretrained.brought import Brought, of_image
from mmedge.models.pretrained.weights import load_into
from mmedge.recipe import Pretrained
from mmedge.spec import ImageSpec, ModalitySpec


def network(encoder: Pretrained, spec: ModalitySpec, fresh: bool) -> nn.Module:
    """A model of timm without its classifier: float32 [batch, 3, height, width] -> [batch, width]."""
    if not isinstance(spec, ImageSpec):
        raise UsageError(f"timm's models take pictures, and this is of kind {spec.kind}")
    module: nn.Module = _created(encoder)
    if not fresh:
        load_into(module, encoder.weights, without=_classifiers(module))
    return module


def _classifiers(module: Any) -> set[str]:
    """What timm left out with the classes: the layers that it calls classifiers; with its norm where nothing else is left there."""
    said = module.pretrained_cfg.get("classifier") or ()
    tops = {name.partition(".")[0] for name in module.state_dict()}
    names = (said,) if isinstance(said, str) else said
    return {name if (top := name.partition(".")[0]) in tops else top for name in names}


def brought(encoder: Pretrained, spec: ModalitySpec) -> Brought:
    """What timm says of a model's weights: size, mean and std, and the share of a larger picture that it cuts the size out of."""
    if not isinstance(spec, ImageSpec):
        return Brought(spec)
    said: Any = _created(encoder).pretrained_cfg
    size = said["input_size"][1:]
    before = math.floor(size[0] / (said.get("crop_pct") or 1))  # as timm rounds the height that it resizes to
    center, share = said.get("crop_mode", "center") == "center", min(1.0, size[0] / before)
    return Brought(of_image(spec, size, said["mean"], said["std"], center=center, share=share))


def _created(encoder: Pretrained) -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingDependency(f"timm cannot be imported: {first_line(error)}", todo="pip install timm") from None
    except Exception as error:  # torchvision of another torch
        raise MissingDependency(
            f"timm cannot be imported: {first_line(error)}", todo="install the torchvision that belongs to your torch"
        ) from error
    try:
        return timm.create_model(encoder.timm, pretrained=False, num_classes=0)
    except Exception as error:  # of a name on the Hub, or of a folder, whatever its library of connections raises
        raise UsageError(f"timm has no such model: {first_line(error)}", where=encoder.timm) from error
