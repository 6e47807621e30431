"""What tests of whole prunings share."""

import numpy as np
import pytest
import torch

from mmedge.measure.latency import Ratio
from mmedge.models import load
from mmedge.stages.prune.work import PruneWork


def outputs(module, samples):
    inputs = {name: torch.from_numpy(np.array(x[:8])) for name, x in samples.inputs.items()}
    with torch.no_grad():
        return module(present=torch.from_numpy(np.array(samples.present[:8])), **inputs)["logits"]


@pytest.fixture
def saved(context, monkeypatch):
    """What each module answered at the moment when it was saved: its artifact, rebuilt, must answer the same."""
    real, answers = load.save, []

    def save(module, *given):
        answers.append(outputs(module.eval(), context.dataset.test))
        real(module, *given)

    monkeypatch.setattr(load, "save", save)
    return answers


@pytest.fixture
def untimed(monkeypatch):
    """Every cut is said to take .8 of the parent's time: what is not about latency need not export each to be timed."""
    monkeypatch.setattr(
        PruneWork, "latencies", lambda _, modules: dict.fromkeys(modules, Ratio(0.8, 0.7, 0.9, 0.08, 0.1))
    )
