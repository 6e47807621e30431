"""Encoders of what nobody has are not run, and nothing shows of it."""

import torch

from mmedge.contract import Contract
from mmedge.models import load
from mmedge.recipe import Model

CONTRACT = Contract.model_validate(
    {
        "task": "classification",
        "labels": ["a", "b"],
        "modalities": {
            "picture": {"kind": "image", "height": 8, "width": 8},
            "name": {"kind": "text", "length": 4, "tokens": 9},
        },
    }
)
HEAD = next(iter(CONTRACT.heads))


def test_an_encoder_that_no_sample_of_a_batch_needs_is_not_run_and_the_outputs_are_the_same():
    torch.manual_seed(0)
    module = load.build(Model(embedding=4, hidden=4), CONTRACT).eval()
    inputs = {"picture": torch.randn(4, 3, 8, 8), "name": torch.tensor([[1, 2, 0, 0]] * 4)}
    mixed = torch.tensor([[False, True], [True, True], [False, True], [False, True]])
    with torch.no_grad():
        wanted = module(present=mixed, **inputs)[HEAD][[0, 2, 3]]
        runs = []
        module.encoders["picture"].features.forward = lambda x: runs.append(1) or 1 / 0
        alone = {name: x[[0, 2, 3]] for name, x in inputs.items()}
        assert torch.allclose(module(present=mixed[[0, 2, 3]], **alone)[HEAD], wanted, atol=1e-6)
    assert not runs


def test_in_training_a_sample_that_lacks_a_modality_is_not_in_its_norms_statistics():
    torch.manual_seed(0)
    module = load.build(Model(embedding=4, hidden=4), CONTRACT).train()
    picture, name = torch.randn(5, 3, 8, 8), torch.ones(5, 4, dtype=torch.int64)
    picture[3:] = 0
    present = torch.tensor([[True, True]] * 3 + [[False, True]] * 2)
    norm = next(layer for layer in module.encoders["picture"].modules() if isinstance(layer, torch.nn.BatchNorm2d))
    with torch.no_grad():
        module(present=present, picture=picture, name=name)
        mixed = norm.running_mean.clone()
        norm.reset_running_stats()
        module(present=present[:3], picture=picture[:3], name=name[:3])
    assert torch.allclose(mixed, norm.running_mean, atol=1e-6) and mixed.abs().max() > 0
