"""A regression's targets may be of any scale: the network need not learn it."""

import numpy as np
import torch

from mmedge.data import samples
from mmedge.measure.quality import predict_module, score
from mmedge.models import load
from mmedge.progress import Silent
from mmedge.training.fit import fit
from mmedge.training.objectives import supervised
from tests.data.made import parsed, write_table


def test_targets_in_the_hundred_thousands_are_learned_in_their_own_unit(tmp_path):
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
        "teacher": {"train": {"epochs": 20, "batch_size": 32}, "model": {"encoders": {"x": {"widths": [16]}}}},
    }
    recipe = parsed(values)
    dataset = samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    contract, train = dataset.contract, recipe.teacher.train
    assert abs(contract.target_mean - np.mean(dataset.train.targets)) < 1
    torch.manual_seed(0)
    module = load.build(recipe.teacher.model, contract)
    fit(
        module,
        supervised(contract, train),
        contract,
        dataset.train,
        dataset.validation,
        train,
        seed=0,
        view_seed=0,
        usable=np.arange(len(dataset.train)),
        state=tmp_path / "state.safetensors",
        task="t",
        progress=Silent(),
    )
    output = predict_module(module, contract, dataset.test, dataset.test.present)
    assert score(contract, output, dataset.test.targets) > 0.9
