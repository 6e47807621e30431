"""A regression's targets may be of any scale: the network need not learn it."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmedge.contract import Contract
from mmedge.data.store import samples
from mmedge.measure.quality import predict_module, score
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.recipe import Model
from mmedge.spec import TabularSpec
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import fit
from mmedge.training.objectives import Supervised
from tests.data.made import parsed, write_table


class Own(nn.Module):
    """A user's own network, which knows nothing of the target's scale."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("factory", [None, Own])
def test_targets_in_the_hundred_thousands_are_learned_in_their_own_unit(tmp_path, factory):
    rng = np.random.default_rng(0)
    rows = [["a", "b", "price"]]
    rows += [[a, b, 300_000 + 50_000 * a - 20_000 * b] for a, b in rng.standard_normal((400, 2)).round(3).tolist()]
    values = {
        "schema": 1,
        "name": "t",
        "data": {
            "manifest": str(write_table(tmp_path / "m.csv", rows)),
            "task": "regression",
            "target": "price",
            "modalities": {"x": {"kind": "tabular", "columns": ["a", "b"]}},
        },
        "teacher": {
            "train": {"epochs": 20, "batch_size": 32, "learning_rate": 0.01},
            "model": {"encoders": {"x": {"widths": [16]}}},
        },
    }
    recipe = parsed(values)
    dataset = samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    contract, train = dataset.contract, recipe.teacher.train
    assert abs(contract.heads["value"].mean - np.mean(dataset.train.targets["value"])) < 1
    torch.manual_seed(0)
    section = recipe.teacher.model.model_copy(update={"factory": factory and "own:Own"})
    module = load.build(section, contract, factory=factory)
    fit(
        module,
        Supervised(contract, train),
        Training(contract, dataset.train, dataset.validation, train, np.arange(len(dataset.train)), 0, 0),
        state=tmp_path / "state.safetensors",
        task="t",
        progress=Silent(),
    )
    output = predict_module(module, contract, dataset.test, dataset.test.present)
    assert score(contract, output, dataset.test.targets) > 0.9


def test_weights_of_the_users_own_answer_in_the_unit_they_have_learned(tmp_path):
    own = Own()
    save_file(own.state_dict(), tmp_path / "w.safetensors")
    spec = TabularSpec(kind="tabular", columns=("a", "b"))
    contract = Contract(task="regression", modalities={"x": spec}, output="value", target_mean=1e5, target_std=1e4)
    module = load.build(Model(factory="own:Own", weights=tmp_path / "w.safetensors"), contract, factory=Own)
    x = torch.randn(3, 2)
    assert torch.equal(module(x=x, present=torch.ones(3, 1, dtype=torch.bool))["value"], own(x))
