"""``check`` and a run agree: what trains and ships has no fault, and what would fail after training is told before."""

from __future__ import annotations

import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.models import load
from mmedge.models.traps import traps
from mmedge.recipe import Model
from mmedge.stages.trial import trial, try_export
from mmedge.tasks import Head
from mmedge.tasks.head import Decoding
from tests.models.networks import BROUGHT, HAND_WRITTEN, TABLE, TEXT, Network, TwoRelus

OWN = Model(factory="own:net")
TRIED = ("two-relus", "bottleneck", "siamese", "tied", "learned-queries", "Bert")


def tried(network, *, exported=True):
    torch.manual_seed(0)
    make = partial(load.build, OWN, network.contract, factory=network.make)
    module = trial(make, network.contract, "distill.model")
    if exported:
        try_export(module, network.contract, "distill.model")


@pytest.mark.long
@pytest.mark.parametrize("network", [*HAND_WRITTEN, *BROUGHT], ids=lambda network: network.name)
def test_a_network_that_runs_has_no_fault(network):
    assert traps(OWN, network.contract, network.make, "distill.model") == []
    tried(network, exported=False)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(each, id=each.name, marks=[] if each.name in TRIED else pytest.mark.slow)
        for each in [*HAND_WRITTEN, *BROUGHT]
    ],
)
def test_a_network_that_runs_is_exported_and_answers_as_before_with_every_subset(network):
    tried(network)


class Odd(TwoRelus):
    """Fails in its own way, told by ``how``, when it is exported."""

    how = "double"

    def __init__(self):
        super().__init__()
        self.rnn, self.conv = nn.GRU(2, 12, batch_first=True), nn.Conv1d(1, 12, 8)
        if self.how == "double":
            self.double()

    def forward(self, table):
        if self.how == "packed":
            lengths = torch.full((table.shape[0],), 4)
            packed = nn.utils.rnn.pack_padded_sequence(table.view(-1, 4, 2), lengths, True, False)
            return self.c(self.b(self.rnn(packed)[1][-1]))
        if self.how == "branch" and table.sum() > 100:
            return self.c(self.b(self.a(table + 1)))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.how == "autocast"):
            x = table.double() if self.how == "double" else table
            return self.c(self.b(self.conv(x[:, None])[:, :, 0]))


@pytest.mark.parametrize(
    "how, what, where, todo",
    [
        ("double", "computes in float64", r"distill\.model, conv \(Conv1d\)", r"\.float\(\)"),
        ("autocast", "computes in bfloat16", r"distill\.model, conv \(Conv1d\)", "autocast"),
        ("packed", "cannot be exported", r"distill\.model, Odd, test_trial\.py:\d+", "pack_padded_sequence"),
        ("branch", "data-dependent", r"distill\.model, Odd, test_trial\.py:\d+", "control flow"),
    ],
)
def test_what_cannot_be_exported_is_told_with_its_module_its_cause_and_what_to_do(how, what, where, todo):
    network = Network(how, type("Odd", (Odd,), {"how": how}), {"table": TABLE})
    with pytest.raises(UsageError) as told:
        tried(network)
    assert what in told.value.what and "step 1/3" not in told.value.what
    for pattern, text in ((where, told.value.where), (todo, told.value.todo)):
        assert re.search(pattern, text), text


def test_a_network_that_mixes_its_batch_is_refused_before_it_is_trained():
    class Mixing(TwoRelus):
        def forward(self, table):
            return super().forward(torch.softmax(table, 0))

    with pytest.raises(UsageError, match="depends on the rest of its batch"):
        tried(Network("mixing", Mixing, {"table": TABLE}))


class Unteachable(TwoRelus):
    """Runs, saves and exports, and fails at the first step of its training, or as soon as it is built again, by ``how``."""

    how = ""

    def __init__(self):
        super().__init__()
        self.memory, self.chance = None, [float(x) for x in torch.rand(8)]
        self.words = nn.Embedding(4, 8, sparse=self.how == "sparse")
        if self.how == "frozen":
            self.requires_grad_(False)

    def get_extra_state(self):
        return {"version": 3} if self.how == "state" else torch.zeros(1)

    def set_extra_state(self, state):
        pass

    def forward(self, table):
        if self.how == "chance":
            table = table * torch.tensor(self.chance)
        if self.how == "memory":
            self.memory = table.mean(0, keepdim=True) if self.memory is None else self.memory
            table = table - self.memory
        if self.how == "sparse":
            table = table + self.words((table[:, 0] > 0).long())
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "no_grad"):
            x = torch.sigmoid(self.a(table))
            doubled = x * 2
            out = self.c(self.b(x.mul_(2) if self.how == "in place" else doubled))
        if self.how == "whole":
            return out.round().long()
        return (out, out[:, :1]) if self.how == "auxiliary" and self.training else out


@pytest.mark.parametrize(
    "how, what, todo",
    [
        ("frozen", "no weight of the network can be trained", "requires_grad"),
        ("no_grad", "do not depend on its weights", r"no_grad\(\)"),
        ("whole", "do not depend on its weights", "rounding"),
        ("sparse", "gradient of words.weight is sparse", "sparse=False"),
        ("in place", "no gradient can be computed", "in place"),
        ("auxiliary", "fails in training mode", "same outputs"),
        ("chance", "numbers that are not saved", "register_buffer"),
        ("memory", "numbers that are not saved", "from one call to the next"),
        ("state", "'inner._extra_state', a dict", "buffer"),
    ],
)
def test_what_would_end_or_spoil_a_run_after_the_teacher_is_trained_is_told_before(how, what, todo):
    network = Network(how, type("Unteachable", (Unteachable,), {"how": how}), {"table": TABLE})
    with pytest.raises(UsageError, match=what) as told:
        tried(network, exported=False)
    assert told.value.where == "distill.model" and re.search(todo, told.value.todo)


def test_a_network_that_only_answers_need_not_learn():
    frozen = Network("frozen", type("Unteachable", (Unteachable,), {"how": "frozen"}), {"table": TABLE})
    make = partial(load.build, OWN, frozen.contract, factory=frozen.make)
    with pytest.raises(UsageError, match="can be trained"):
        trial(make, frozen.contract, "teacher.model")
    trial(make, frozen.contract, "teacher.model", trains=False)


@pytest.mark.parametrize(
    "head",
    [
        Head(task="generation", decoding=Decoding(fitted="{}", end=5, length=3)),
        Head(task="frames", shape=(4, 6), varies=True),
        Head(task="regression", values=("x", "y"), mean=(0.0, 1.0), std=(1.0, 2.0)),
    ],
    ids=lambda head: head.task,
)
def test_a_network_of_any_output_learns_and_is_built_again(head):
    """As one with an encoder that has learnt elsewhere is tried, whatever its task."""
    contract = Contract.model_validate({"modalities": {"x": TABLE}, "heads": {"out": head.model_dump()}})
    trial(partial(load.build, Model(embedding=8, hidden=8), contract), contract, "distill.model")


def test_torchscript_inside_a_network_is_told_by_its_name():
    class Scripted(TwoRelus):
        def __init__(self):
            super().__init__()
            self.a = torch.jit.script(self.a)

    network = Network("scripted", Scripted, {"table": TABLE})
    assert traps(OWN, network.contract, network.make, "distill.model") == []
    with pytest.raises(UsageError, match="a is TorchScript"):
        tried(network)


def test_an_input_that_is_changed_in_place_is_told_by_check_and_by_a_run():
    class Clamping(TwoRelus):
        def forward(self, table, present):  # an input of a module without ``present`` is a copy
            return super().forward(table.clamp_(0))

    network = Network("clamping", Clamping, {"table": TABLE})
    (fault,) = traps(OWN, network.contract, network.make, "distill.model")
    assert (fault.severity, fault.kind) == ("error", "changed-input") and "'table'" in fault.what
    with pytest.raises(UsageError, match="changes its input 'table' in place"):
        tried(network, exported=False)


def test_ids_that_an_embedding_has_no_row_for_are_told_by_check_and_by_a_run():
    class Short(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.EmbeddingBag(TEXT["tokens"] - 20, 3)

        def forward(self, name):
            return self.rows(name)

    network = Network("short", Short, {"name": TEXT})
    (fault,) = traps(OWN, network.contract, network.make, "distill.model")
    assert "forward fails" in fault.what and "ids of name from 0 to 39" in fault.todo
    with pytest.raises(UsageError, match=r"forward fails(.|\n)*ids of name from 0 to 39"):
        tried(network, exported=False)


def test_a_weight_that_is_computed_anew_at_each_call_is_no_weight_that_is_not_saved():
    class Normed(TwoRelus):
        def __init__(self):
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and in many networks
                self.a, self.b = nn.utils.weight_norm(self.a), nn.utils.spectral_norm(self.b)

    network = Network("normed", Normed, {"table": TABLE})
    assert traps(OWN, network.contract, network.make, "distill.model") == []
    tried(network)


def test_an_absent_text_is_one_token_so_that_attention_gives_numbers_and_the_graph_the_same():
    bert = next(each for each in BROUGHT if each.name == "Bert")
    contract = Network("both", bert.make, {"text": TEXT}).contract
    module = load.build(OWN, contract, factory=bert.make).eval()
    absent = module.mean_text
    assert (absent != 0).sum() == 1 and absent[0] != 0
    with torch.no_grad():
        said = module(present=torch.zeros(2, 1, dtype=torch.bool), text=torch.zeros(2, 10, dtype=torch.int64))["logits"]
        one = torch.zeros(2, 10, dtype=torch.int64)
        one[:, 0] = absent[0]
        expected = module(present=torch.ones(2, 1, dtype=torch.bool), text=one)["logits"]
    assert torch.isfinite(said).all() and torch.equal(said, expected)
