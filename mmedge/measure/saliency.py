"""Where a network looks: integrated gradients (Sundararajan et al. 2017, "Axiomatic attribution for deep networks") and Grad-CAM
(Selvaraju et al. 2017, "Grad-CAM: Visual explanations from deep networks via gradient-based localization"), by captum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.errors import MissingDependency
from mmedge.measure.pictures import data_uri, planes_of
from mmedge.spec import ModalitySpec

_STEPS = 64


def require_captum() -> None:
    """Raises MissingDependency where captum is not installed."""
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "integrated gradients and Grad-CAM need captum, which is not installed",
            todo="pip install 'mmedge[explain]'",
        ) from error


@dataclass(frozen=True)
class Question:
    """What the evidence is for: one ``column`` of a head's outputs for one sample, ``inputs`` [1, *shape] with ``present`` bool [1, M]."""

    contract: Contract
    inputs: Mapping[str, np.ndarray]
    present: np.ndarray
    head: str
    column: int

    @property
    def names(self) -> list[str]:
        """The modalities that have something between two values. Texts, of whole numbers, have nothing between two tokens."""
        return [name for name in self.contract.modalities if np.issubdtype(self.inputs[name].dtype, np.floating)]

    def given(self) -> tuple[Tensor, ...]:
        """The inputs of ``names``."""
        return tuple(torch.from_numpy(np.array(self.inputs[name])) for name in self.names)

    def asked_of(self, module: nn.Module) -> Callable[..., Tensor]:
        """``f(*given) -> [n]``: the column for any number of rows."""
        fixed = {name: torch.from_numpy(np.array(x)) for name, x in self.inputs.items() if name not in self.names}
        there = torch.from_numpy(np.array(self.present))

        def output(*given: Tensor) -> Tensor:
            count = len(given[0])
            kept = {name: x.expand(count, *x.shape[1:]) for name, x in fixed.items()}
            every = dict(zip(self.names, given)) | kept
            outputs = module(
                **{name: every[name] for name in self.contract.modalities}, present=there.expand(count, -1)
            )
            # captum asks for the gradient of every input; an absent one is not looked at, and has none but zero.
            nothing = 0 * torch.stack([x.flatten(1).sum(1) for x in given]).sum(0)
            column_of: Tensor = outputs[self.head][:, self.column] + nothing
            return column_of

        return output


def integrated_gradients(module: nn.Module, question: Question) -> tuple[dict[str, np.ndarray], float]:
    """({modality: evidence [1, *shape]}, gap), from inputs of zeros: the training means. Raises MissingDependency.

    Modalities of whole numbers stay as they are.
    """
    require_captum()
    from captum.attr import IntegratedGradients

    found, gap = IntegratedGradients(question.asked_of(module)).attribute(
        question.given(), n_steps=_STEPS, return_convergence_delta=True, internal_batch_size=_STEPS
    )
    return {name: x.detach().numpy() for name, x in zip(question.names, found)}, float(gap.abs().max())


def grad_cam(module: nn.Module, question: Question, layer: str, size: tuple[int, int]) -> np.ndarray:
    """float32 [1, 1, *size], 0 or more: what a layer's convolutional map says for the output. Raises MissingDependency."""
    require_captum()
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(question.asked_of(module), module.get_submodule(layer))
    found = cam.attribute(question.given(), relu_attributions=True)
    return np.asarray(LayerAttribution.interpolate(found, size, "bilinear").detach().numpy())


def overlay(spec: ModalitySpec, tensor: np.ndarray, evidence: np.ndarray) -> str | None:
    """A data URI: the input [*shape] in grey, red where ``evidence`` [*shape] is for the output, blue where against."""
    planes, evidence_planes = planes_of(spec, tensor), planes_of(spec, evidence)
    if planes is None or evidence_planes is None:
        return None
    grey = planes.mean(axis=-1)
    grey = 255 - 140 * (grey - grey.min()) / max(float(np.ptp(grey)), 1e-12)
    sums = evidence_planes.sum(axis=-1)
    strength = np.clip(sums / max(float(np.percentile(np.abs(sums), 99)), 1e-12), -1, 1)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    for sign, colour in ((1, (214, 40, 40)), (-1, (40, 90, 214))):
        weight = np.clip(sign * strength, 0, 1)[..., None]
        pixels = pixels * (1 - weight) + np.array(colour) * weight
    return data_uri(pixels.round().astype(np.uint8))
