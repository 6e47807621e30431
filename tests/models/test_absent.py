"""Encoders of what nobody has are not run, and nothing shows of it."""

import pytest
import torch
from torch import nn

from mmedge.backends import onnxruntime_cpu
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.graph.export import export
from mmedge.models import load
from mmedge.models.fusion import FusionNet
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


class Read(torch.nn.Module):
    """A network of the user's own, which takes a text in two tensors, as BERT does."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(9, 3), torch.nn.Linear(3, 2)

    def forward(self, picture, input_ids, attention_mask):
        seen = attention_mask.unsqueeze(2).float()
        return self.out((self.embed(input_ids) * seen).sum(1) / seen.sum(1)) + picture.flatten(1).mean(1, keepdim=True)


def read(**inputs):
    section = Model.model_validate({"factory": "their:factory", "inputs": inputs})
    return load.build(section, CONTRACT, factory=Read).eval()


def test_a_network_of_ids_and_mask_gets_both_of_one_text_and_is_exported(tmp_path):
    module = read(name={"ids": "input_ids", "mask": "attention_mask"})
    inputs = {"picture": torch.zeros(3, 3, 8, 8), "name": torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]])}
    present = torch.tensor([[True, True], [True, True], [True, False]])
    with torch.no_grad():
        found = module(present=present, **inputs)[HEAD]
        table, out = module.inner.embed.weight, module.inner.out
        torch.testing.assert_close(found[:2], out(torch.stack([table[[1, 2]].mean(0), table[3]])))
    assert torch.isfinite(found[2]).all(), "an absent text is one token"
    export(module, CONTRACT, tmp_path / "model.onnx")
    run = onnxruntime_cpu.session(tmp_path / "model.onnx")
    feed = {name: x.numpy() for name, x in {**inputs, "present": present}.items()}
    torch.testing.assert_close(torch.from_numpy(run(feed)[HEAD]), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"name": {"ids": "input_ids", "mask": "attention"}}, "did you mean 'attention_mask'"),
        ({"name": "input_ids", "picture": {"ids": "picture", "mask": "attention_mask"}}, "follows from padding"),
    ],
)
def test_a_mask_that_cannot_be_is_told(inputs, told):
    with pytest.raises(UsageError, match=told):
        read(**inputs)


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


def test_a_sample_that_is_there_and_all_zeros_is_learned_from_as_it_is_answered():
    """Silence, a black picture, the mean of every column: nothing but zeros, and no absence."""
    torch.manual_seed(0)
    encoder = nn.Linear(3, 4)
    net = FusionNet({"row": encoder, "other": nn.Linear(3, 4)}, 4, 4, {"y": lambda: nn.Linear(4, 2)})
    rows = torch.randn(4, 3)
    rows[1] = 0
    present = torch.tensor([[True, True], [True, True], [False, True], [True, True]])
    inputs = {"row": rows, "other": torch.randn(4, 3)}
    trained, answered = net.train()(present=present, **inputs), net.eval()(present=present, **inputs)
    torch.testing.assert_close(trained["y"], answered["y"])
