"""Where a network looks: integrated gradients (Sundararajan et al. 2017, "Axiomatic attribution for deep networks"), by captum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mmedge.contract import Contract
from mmedge.errors import MissingDependency
from mmedge.measure.pictures import data_uri, planes_of
from mmedge.spec import ModalitySpec

_STEPS = 64


def integrated_gradients(
    module: nn.Module, contract: Contract, inputs: Mapping[str, np.ndarray], present: np.ndarray, head: str, column: int
) -> tuple[dict[str, np.ndarray], float]:
    """({modality: evidence [1, *shape]}, gap) of one sample for an output's column, from inputs of zeros: the training means.

    Modalities of whole numbers (texts) stay as they are: there is nothing between two tokens. Raises MissingDependency.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise MissingDependency(
            "integrated gradients need captum, which is not installed", todo="pip install 'mmedge[explain]'"
        ) from error
    names = [name for name in contract.modalities if np.issubdtype(inputs[name].dtype, np.floating)]
    fixed = {name: torch.from_numpy(np.array(x)) for name, x in inputs.items() if name not in names}
    there = torch.from_numpy(np.array(present))

    def output(*given: Tensor) -> Tensor:
        count = len(given[0])
        kept = {name: x.expand(count, *x.shape[1:]) for name, x in fixed.items()}
        every = dict(zip(names, given)) | kept
        outputs = module(**{name: every[name] for name in contract.modalities}, present=there.expand(count, -1))
        column_of: Tensor = outputs[head][:, column]
        return column_of

    given = tuple(torch.from_numpy(np.array(inputs[name])) for name in names)
    found, gap = IntegratedGradients(output).attribute(
        given, n_steps=_STEPS, return_convergence_delta=True, internal_batch_size=_STEPS
    )
    return {name: x.detach().numpy() for name, x in zip(names, found)}, float(gap.abs().max())


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
