"""Mixed precision and compilation: what they change, what they leave alone, and what a machine without them is told."""

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.errors import MissingDependency
from mmedge.progress import Silent
from mmedge.recipe import Train
from mmedge.spec import ArraySpec
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import fit
from mmedge.training.loop.precision import caller, channels_last, require_precision, scaler_of
from mmedge.training.objectives import Supervised
from mmedge.training.teaching.sources import ModuleSource, TrainingViews
from tests.heads import samples

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.seen = None

    def forward(self, present, x):
        out = self.layer(x)
        self.seen = out.dtype
        return {"logits": out}


def test_bf16_runs_the_forward_pass_in_bf16_and_hands_float32_to_the_loss():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(4, 6)
    output = caller(net, Train(precision="bf16"), CPU)(present=None, x=x)["logits"]
    assert net.seen == torch.bfloat16 and output.dtype == torch.float32
    output.sum().backward()
    assert net.layer.weight.grad.dtype == torch.float32
    exact = net(present=None, x=x)["logits"]
    assert not torch.equal(output, exact) and torch.allclose(output, exact, atol=0.05)


def test_fp32_runs_the_module_itself():
    net = Net()
    assert caller(net, Train(), CPU) is net and scaler_of(Train(), CPU) is None


def test_fp16_without_a_gpu_is_told_with_what_to_use_instead():
    with pytest.raises(MissingDependency, match="use bf16 or fp32") as raised:
        require_precision("fp16", CPU)
    assert raised.value.exit_code == 6


@pytest.mark.long
def test_without_a_compiler_compile_is_an_error_and_not_another_way_of_running():
    torch._dynamo.reset()
    # Not monkeypatch, which takes the setting for a class's and deletes it in the end.
    compiler = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with compiler, pytest.raises(MissingDependency, match=r"torch\.compile does not work here"):
        caller(Net(), Train(compile=True), CPU)


class Hinted(nn.Module):
    """Keeps what a layer put out, as the hints of distillation do."""

    def __init__(self, student):
        super().__init__()
        self.kept = None
        student.layer.register_forward_hook(self._keep)

    def _keep(self, _module, _inputs, output):
        self.kept = output

    def forward(self, call, batch):
        output = call(present=None, x=batch)["logits"]
        return output.square().mean() + self.kept.mean()


@pytest.mark.slow
def test_a_compiled_model_has_the_gradients_of_the_model_and_its_hooks_run():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(4, 6)
    objective, gradients = Hinted(net), []
    for train in (Train(), Train(compile=True)):
        net.zero_grad()
        objective.kept = None
        objective(caller(net, train, CPU), x).backward()
        gradients.append(net.layer.weight.grad.clone())
    torch.testing.assert_close(*gradients)


class Maps(nn.Module):
    """Convolutions, and what makes a vector of their maps."""

    def __init__(self, channels, flat=lambda x: x.flatten(1)):
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3)
        self.head, self.flat, self.seen = nn.Linear(16, 3), flat, []

    def forward(self, present, x):
        maps = self.second(self.first(x))
        self.seen.append(maps.is_contiguous(memory_format=torch.channels_last))
        return {"logits": self.head(self.flat(maps))}


def contract_of(channels=3):
    spec = ArraySpec(kind="array", shape=(channels, 6, 6))
    return Contract(task="classification", modalities={"x": spec}, labels=("a", "b", "c"))


def test_convolutions_get_channels_last_on_cpus_and_in_half_precision_where_they_can():
    """By what the network is and whether it runs so: nothing is timed."""
    asked = contract_of()
    assert all(channels_last(Maps(3), precision, CPU, asked) for precision in ("fp32", "bf16"))
    assert all(channels_last(Maps(3), precision, CUDA, asked) for precision in ("fp16", "bf16"))
    assert not channels_last(Maps(3), "fp32", CUDA, asked)
    assert not channels_last(Maps(3, lambda x: x.view(len(x), -1)), "fp32", CPU, asked)
    assert not channels_last(Maps(3, lambda x: x.view(len(x), -1)), "bf16", CUDA, asked)
    assert not channels_last(Net(), "bf16", CUDA, asked)
    for mode in (True, False):
        net = Maps(3).train(mode)
        assert channels_last(net, "bf16", CUDA, asked) and net.training is mode


@pytest.mark.parametrize(("channels", "precision", "near"), [(1, "fp32", 1e-5), (3, "fp32", 1e-5), (3, "bf16", 0.05)])
def test_maps_lie_with_their_channels_last_and_weights_and_gradients_as_ever(channels, precision, near):
    torch.manual_seed(0)
    net, x, train = Maps(channels), torch.randn(4, channels, 6, 6), Train(precision=precision)
    found = []
    for last in (False, True):
        net.zero_grad()
        output = caller(net, train, CPU, last=last)(present=torch.ones(4, 1) > 0, x=x)["logits"]
        output.square().sum().backward()
        found.append([output.detach(), net.first.weight.grad, net.second.weight.grad])
    assert net.seen == [False, True]
    torch.testing.assert_close(*found, rtol=near, atol=near)
    assert all(weight.is_contiguous() for weight in net.parameters())


def data(count=12):
    rng = np.random.default_rng(0)
    x, rows = {"x": rng.normal(size=(count, 3, 6, 6)).astype(np.float32)}, np.arange(count)
    return samples("train", tuple(map(str, rows)), x, np.ones((count, 1), bool), rows % 3, rows)


def test_a_training_and_a_frozen_teacher_run_so(tmp_path):
    net, asked, train = Maps(3), contract_of(), Train(epochs=1, batch_size=6)
    training = Training(asked, data(), data(), train, np.arange(12), 0, 0)
    fit(net, Supervised(asked, train), training, state=tmp_path / "s", task="t", progress=Silent())
    assert net.seen[:3] == [True, True, True] and not any(net.seen[3:])  # tried, two steps; validation
    assert all(weight.is_contiguous() for weight in net.parameters())
    net.seen.clear()
    views = TrainingViews(data(), {}, 0)
    ModuleSource(net, asked, views, [], key="k", who="t").outputs(np.arange(3), 0)
    assert net.seen == [True, True]
