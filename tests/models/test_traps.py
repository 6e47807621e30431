"""The traps of users' models: each one is found, and named by its submodule or line; a sound model has none."""

import textwrap

import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.models import load
from mmedge.models.traps import traps
from mmedge.recipe import Model
from mmedge.recipe.code import load_attribute
from mmedge.spec import TabularSpec

CONTRACT = Contract.model_validate(
    {
        "task": "classification",
        "labels": ["a", "b", "c"],
        "modalities": {"x": {"kind": "array", "shape": [4]}, "t": {"kind": "text", "length": 5, "tokens": 9}},
    }
)
HEAD = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.branch = Branch()
        self.out = nn.Linear(8, 3)
    def forward(self, x, t, present):
        return self.out(torch.cat([self.branch(x), self.words(t).mean(dim=1)], dim=1))

class Branch(nn.Module):
"""


def found(tmp_path, branch, more="", **section):
    name = f"net_{abs(hash((branch, more, str(tmp_path))))}"
    (tmp_path / f"{name}.py").write_text(HEAD + textwrap.indent(textwrap.dedent(branch), "    ") + more)
    factory = load_attribute(f"{name}:Net", tmp_path)
    return traps(Model(factory=f"{name}:Net", **section), CONTRACT, factory, "teacher.model")


LINEAR = """
def __init__(self):
    super().__init__()
    self.layer = nn.Linear(4, 4)
"""


def test_a_sound_model_has_no_trap(tmp_path):
    assert found(tmp_path, LINEAR + "def forward(self, x):\n    return self.layer(x)\n") == []


@pytest.mark.parametrize(
    "branch, kind, module",
    [
        (
            "def __init__(self):\n    super().__init__()\n    self.layers = [nn.Linear(4, 4)]\n"
            "def forward(self, x):\n    return self.layers[0](x)\n",
            "unregistered",
            "teacher.model.branch.layers",
        ),
        (
            "def __init__(self):\n    super().__init__()\n    self.scale = torch.ones(4)\n"
            "def forward(self, x):\n    return x * self.scale\n",
            "unregistered",
            "teacher.model.branch.scale",
        ),
        (
            "def __init__(self):\n    super().__init__()\n    self.register_buffer('mix', torch.randn(4, 4), persistent=False)\n"
            "def forward(self, x):\n    return x @ self.mix\n",
            "not-persistent",
            "teacher.model.branch.mix",
        ),
        (
            LINEAR + "def forward(self, x):\n    return F.dropout(self.layer(x), 0.5)\n",
            "train-mode",
            "teacher.model.branch",
        ),
        (
            LINEAR
            + "def train(self, mode=True):\n    return super().train(True)\ndef forward(self, x):\n    return self.layer(x)\n",
            "train-mode",
            "teacher.model.branch",
        ),
        (
            LINEAR + "def forward(self, x):\n    return self.layer(x)[:, None].squeeze()\n",
            "batch-1",
            "teacher.model.branch",
        ),
        (
            LINEAR + "def forward(self, x):\n    return self.layer(x - x.mean(dim=0))\n",
            "batch-1",
            "teacher.model.branch.layer",
        ),
        (LINEAR + "def forward(self, x):\n    return self.layer(x)[:, :3]\n", "model", "teacher.model"),
    ],
)
def test_a_trap_is_found_and_its_module_named(tmp_path, branch, kind, module):
    faults = [fault for fault in found(tmp_path, branch) if fault.severity == "error"]
    assert (kind, module) in {(fault.kind, fault.module) for fault in faults}, faults
    assert all(fault.todo for fault in faults)


@pytest.mark.parametrize(
    "line, kind",
    [
        ("return self.layer(x.cuda())", "device"),
        ("return self.layer(x.to('cuda:0'))", "device"),
        ("return self.layer(x + torch.zeros(4, device='cuda'))", "device"),
        ("return self.layer(x)[:, None].squeeze()", "squeeze"),
        ("return self.layer(x) + torch.zeros(1, 4).expand(len(x), -1)", "frozen-batch"),
    ],
)
def test_what_the_source_shows_is_told_with_its_line(tmp_path, line, kind):
    source = LINEAR + f"def forward(self, x):\n    {line}\n"
    fault = next(fault for fault in found(tmp_path, source) if fault.kind == kind and fault.file)
    file, _, number = fault.file.rpartition(":")
    with open(file) as stream:
        assert line in stream.read().splitlines()[int(number) - 1]


def test_what_forward_gives_beside_the_output_is_told(tmp_path):
    net = HEAD.replace("return self.out(", "y = self.out(").replace("class Branch", "class Branch", 1)
    net = net.replace("dim=1))", "dim=1))\n        return {'logits': y, 'attention': x, 'loss': y.sum(), 'maps': [x]}")
    (tmp_path / "two_outputs.py").write_text(
        net + textwrap.indent(LINEAR + "def forward(self, x):\n    return x\n", "    ")
    )
    factory = load_attribute("two_outputs:Net", tmp_path)
    faults = traps(Model(factory="two_outputs:Net"), CONTRACT, factory, "teacher.model")
    said = {fault.kind: fault.what for fault in faults}
    assert [fault.severity for fault in faults] == ["warning"] * 3
    assert "graphs will also hold attention" in said["other-outputs"]
    unused = [fault.what for fault in faults if fault.kind == "unused-output"]
    assert "'loss', which" in unused[0] and "no row a sample" in unused[0]
    assert "'maps', which" in unused[1] and "a list, not a tensor" in unused[1]
    assert not traps(
        Model(factory="two_outputs:Net", outputs=("logits", "attention")), CONTRACT, factory, "teacher.model"
    )


def test_a_network_that_looks_at_padding_is_told_where_the_length_is_dynamic(tmp_path):
    note = {"kind": "text", "length": 5, "min_length": 2, "tokens": 9}
    contract = Contract.model_validate({**CONTRACT.model_dump(by_alias=True), "modalities": {"t": note}})

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, t):
            return self.out(self.words(t).mean(dim=1))

    faults = traps(Model(factory="own:net"), contract, Mean, "teacher.model")
    assert any("min_length leaves away" in fault.what for fault in faults)


def test_a_squeeze_that_names_its_axis_is_no_trap(tmp_path):
    source = (
        LINEAR
        + "def forward(self, x):\n    y = torch.squeeze(self.layer(x)[:, None], 1)\n    return y[:, None].squeeze(1)\n"
    )
    assert found(tmp_path, source) == []


def test_a_whole_pickled_module_and_a_wrong_checkpoint_are_told(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    torch.save({"other": torch.ones(2)}, tmp_path / "other.pt")
    source = LINEAR + "def forward(self, x):\n    return self.layer(x)\n"
    for file, said in (("whole.pt", "more than weights"), ("other.pt", "do not fit"), ("none.pt", "does not exist")):
        (fault,) = found(tmp_path, source, weights=tmp_path / file)
        assert fault.kind == "checkpoint" and said in fault.what and file in fault.file


def test_a_constructor_that_raises_is_told_and_not_raised(tmp_path):
    (fault,) = found(tmp_path, "def __init__(self):\n    raise ValueError('no such size')\n")
    assert fault.kind == "model" and "no such size" in fault.what


def test_the_built_in_network_of_every_kind_has_no_trap():
    contract = Contract.model_validate(
        {
            "task": "regression",
            "output": "value",
            "modalities": {
                "image": {"kind": "image", "height": 12, "width": 10},
                "sound": {"kind": "audio", "mels": 8, "frames": 12},
                "text": {"kind": "text", "length": 6, "tokens": 20},
                "table": {"kind": "tabular", "columns": ["a", "b"]},
                "motion": {"kind": "sensor", "channels": 2, "length": 9},
                "array": {"kind": "array", "shape": [3, 2]},
            },
        }
    )
    assert traps(Model(), contract, None, "teacher.model") == []


class Logarithm(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(x).log()


def test_a_model_that_answers_nan_is_told_as_such():
    contract = Contract(
        task="classification",
        modalities={"x": TabularSpec(kind="tabular", columns=("a", "b", "c", "d"))},
        labels=("u", "v"),
    )
    kinds = [fault.kind for fault in traps(Model(factory="own:net"), contract, Logarithm, "teacher.model")]
    assert kinds == ["not-finite"]


def test_a_forward_that_fails_is_told_with_the_shapes_that_it_was_given(tmp_path):
    (fault,) = found(tmp_path, LINEAR + "def forward(self, x):\n    return self.layer(x.transpose(1, 2))\n")
    assert "forward fails" in fault.what and "it is called with x [2, " in fault.todo


def test_a_network_that_ends_in_a_softmax_is_told_and_does_not_teach_as_it_is(tmp_path):
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(9, 4), nn.Linear(8, 3)

        def forward(self, x, t):
            return self.out(torch.cat([x, self.words(t).mean(1)], 1)).softmax(1)

    (fault,) = traps(Model(factory="own:net"), CONTRACT, Sure, "distill.model")
    assert (fault.severity, fault.kind) == ("warning", "probabilities")
    with pytest.raises(UsageError, match="probabilities, and what teaches is taken for logits"):
        load.refuse_probabilities(
            load.build(Model(factory="own:net"), CONTRACT, factory=Sure), CONTRACT, "teacher.model"
        )
