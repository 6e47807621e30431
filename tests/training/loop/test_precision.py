"""Mixed precision and compilation: what they change, what they leave alone, and what a machine without them is told."""

import pytest
import torch
from torch import nn

from mmedge.errors import MissingDependency
from mmedge.recipe import Train
from mmedge.training.loop.precision import caller, require_precision, scaler_of

CPU = torch.device("cpu")


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
def test_without_a_compiler_compile_is_an_error_and_not_another_way_of_running(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    with pytest.raises(MissingDependency, match=r"torch\.compile does not work here"):
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
