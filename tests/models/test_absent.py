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
    inputs = {"picture": torch.randn(3, 3, 8, 8), "name": torch.tensor([[1, 2, 0, 0]] * 3)}
    mixed = torch.tensor([[False, True], [True, True], [False, True]])
    with torch.no_grad():
        wanted = module(present=mixed, **inputs)[HEAD][[0, 2]]
        runs = []
        module.encoders["picture"].features.forward = lambda x: runs.append(1) or 1 / 0
        alone = {name: x[[0, 2]] for name, x in inputs.items()}
        assert torch.allclose(module(present=mixed[[0, 2]], **alone)[HEAD], wanted, atol=1e-6)
    assert not runs
