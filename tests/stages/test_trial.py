"""``check`` and a run agree: what trains and ships has no fault, and what would fail after training is told before."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from mmedge.errors import UsageError
from mmedge.models import load
from mmedge.models.traps import traps
from mmedge.recipe import Model
from mmedge.stages.trial import trial
from tests.models.networks import BROUGHT, HAND_WRITTEN, TABLE, TEXT, Network, TwoRelus

OWN = Model(factory="own:net")
TRIED = ("two-relus", "bottleneck", "siamese", "tied", "learned-queries", "Bert")


def tried(network):
    torch.manual_seed(0)
    trial(load.build(OWN, network.contract, factory=network.make), network.contract, "distill.model")


@pytest.mark.parametrize("network", [*HAND_WRITTEN, *BROUGHT], ids=lambda network: network.name)
def test_a_network_that_runs_has_no_fault(network):
    assert traps(OWN, network.contract, network.make, "distill.model") == []


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
