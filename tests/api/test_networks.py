"""A network is taken out of what it is wrapped in, on a copy, and what was done to it is said."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.api.networks import network
from mmedge.errors import UnusableModel, UsageError
from mmedge.models import load
from mmedge.recipe.code import load_attribute
from tests.api import digits


def outputs(found, arrays=None):
    held = arrays or {name: digits.arrays()[name][:4] for name in ("upper", "lower")}
    return next(iter(found.call(held).values()))


def test_training_mode_and_hooks_are_taken_off_a_copy_and_said():
    module = digits.trained().train()
    seen = []
    module.head.register_forward_hook(lambda *_: seen.append(1))
    module.register_forward_pre_hook(lambda *_: None)
    found = network(module)
    assert any("hooks of the whole, head" in note for note in found.notes)
    assert any("training mode" in note for note in found.notes)
    outputs(found)
    assert not seen and module.training and module.head._forward_hooks, "the caller's own stays as it is"
    assert not found.module.training


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off_and_said(wrap):
    bare = digits.trained()
    found = network(wrap(bare))
    assert found.takes == ("upper", "lower") and any("taken out of" in note for note in found.notes)
    np.testing.assert_array_equal(outputs(found), outputs(network(bare)))


def test_distributed_data_parallel_is_taken_off(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = network(nn.parallel.DistributedDataParallel(digits.trained()))
    finally:
        torch.distributed.destroy_process_group()
    assert found.notes == ("taken out of DistributedDataParallel",)


def test_compiled_in_place_is_a_plain_network():
    module = digits.trained()
    module.compile()
    assert network(module).notes == ("taken out of torch.compile",)


def test_hooks_that_a_network_computes_its_weights_with_stay():
    module = digits.trained()
    before = module(*(torch.from_numpy(digits.arrays()[name][:4]) for name in ("upper", "lower"))).detach().numpy()
    nn.utils.weight_norm(module.head)
    found = network(module)
    assert not any("hooks" in note for note in found.notes)
    np.testing.assert_allclose(outputs(found), before, atol=1e-6)


def test_another_device_and_precision_are_said():
    assert "its weights are taken in float32" in network(digits.trained().half()).notes
    with pytest.raises(UnusableModel, match="cannot be copied"):  # what has no weights yet, on torch's meta device
        network(digits.Halves().to("meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_the_gpu_is_copied_from_there():
    found = network(digits.trained().cuda())
    assert found.notes == ("copied from cuda:0 to the CPU",)
    np.testing.assert_array_equal(outputs(found), outputs(network(digits.trained())))


def test_weights_are_written_and_the_factory_makes_copies(tmp_path):
    module = digits.trained()
    found = network(module)
    section = found.written(tmp_path)["model"]
    copy = load_attribute(section["factory"], tmp_path)()
    assert copy is not module
    for x in copy.parameters():
        nn.init.zeros_(x)
    load.load_weights(copy, tmp_path / section["weights"])
    assert all(torch.equal(x, y) for x, y in zip(copy.parameters(), module.parameters()))


def test_one_network_has_one_name_and_another_another():
    name = network(digits.trained()).model["factory"]
    assert network(digits.trained()).model["factory"] == name
    other = digits.trained()
    other.head.bias.data[0] += 1
    assert network(other).model["factory"] != name
    assert network(functools.partial(digits.Halves, 8)).model["factory"] != network(digits.Halves).model["factory"]


def test_what_another_process_was_given_is_refused_with_what_is_needed(tmp_path):
    name = network(digits.Halves(4)).model["factory"]  # let go of at once
    with pytest.raises(UsageError, match=r"Model\.load\(folder, factory=") as caught:
        load_attribute(name, tmp_path)
    assert "model.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (12, "an int"),
        (torch.zeros(3), "a torch.Tensor"),
        (lambda: 3, "the factory returned an int"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda width: digits.Halves(width), "missing 1 required"),
    ],
)
def test_what_is_no_network_is_told(given, said):
    with pytest.raises(UnusableModel, match=said) as caught:
        network(given)
    assert len(str(caught.value).splitlines()) <= 3


def test_torchscript_is_refused():
    script = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(UnusableModel, match="TorchScript"):
        network(script)
