"""A module that teaches: in parts, samples of the same modalities together, and what it gives is as if in one pass."""

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.graph.export import export
from mmedge.models import load
from mmedge.recipe import Hint, Model
from mmedge.training.teaching import sources
from mmedge.training.teaching.combined import Combined
from mmedge.training.teaching.sources import GraphSource, ModuleSource, TrainingViews


def test_samples_are_run_with_their_like_in_parts_and_come_back_in_their_order(monkeypatch):
    modalities = {
        "a": {"kind": "sensor", "channels": 2, "length": 8},
        "b": {"kind": "sensor", "channels": 1, "length": 8},
    }
    contract = Contract.model_validate({"task": "classification", "labels": ["x", "y"], "modalities": modalities})
    random = np.random.default_rng(0)
    present = random.random((20, 2)) < 0.6
    present[~present.any(axis=1)] = True
    inputs = {
        name: random.normal(size=(20, *spec.shape)).astype(np.float32) for name, spec in contract.modalities.items()
    }
    samples = Samples("train", tuple(map(str, range(20))), inputs, present, {}, np.arange(20), contract.heads)
    torch.manual_seed(0)
    module = load.build(Model(embedding=4, hidden=4), contract).eval()
    index = random.permutation(20)
    given = {name: torch.from_numpy(x[index]) for name, x in inputs.items()}
    fused = []
    with torch.no_grad():
        handle = module.fusion.register_forward_hook(lambda layer, x, out: fused.append(out))
        wanted = module(present=torch.from_numpy(present[index]), **given)
        handle.remove()
    monkeypatch.setattr(sources, "_CHUNK", 3 * sum(x[0].nbytes for x in inputs.values()))
    source = ModuleSource(module, contract, TrainingViews(samples, {}, 0), [Hint()], key="k", who="it")
    sizes = []
    module.fusion.register_forward_hook(lambda layer, x, out: sizes.append(len(out)))
    found = source.outputs(index, 0)
    (head,) = contract.heads
    np.testing.assert_allclose(found.logits[head], wanted[head].numpy(), atol=1e-6)
    np.testing.assert_allclose(found.hints[0], fused[0].numpy(), atol=1e-6)
    assert max(sizes) <= 3 and sum(sizes) == 20


@pytest.mark.parametrize("kind", ["module", "graph"])
def test_a_teacher_that_sees_nothing_of_a_sample_does_not_teach_it(kind, tmp_path):
    series = {"kind": "sensor", "channels": 1, "length": 8}
    both = Contract.model_validate(
        {"task": "classification", "labels": ["x", "y"], "modalities": {"a": series, "b": series}}
    )
    random = np.random.default_rng(0)
    present = np.array([[True, True], [True, False], [False, True]] * 4)
    inputs = {name: random.normal(size=(12, *both.modalities[name].shape)).astype(np.float32) for name in "ab"}
    samples = Samples("train", tuple(map(str, range(12))), inputs, present, {}, np.arange(12), both.heads)

    def source(number, *taken):
        contract = both.only(taken)
        torch.manual_seed(number)
        module = load.build(Model(embedding=4, hidden=4), contract).eval()
        views = TrainingViews(samples.only(taken), {}, 0, alone=False)
        if kind == "module":
            return ModuleSource(module, contract, views, [], key="k", who="it")
        export(module, contract, tmp_path / f"{number}.onnx")
        return GraphSource(tmp_path / f"{number}.onnx", contract, views, [], key="k", who="it")

    whole, heard = source(0, "a", "b"), source(1, "b")
    index, lacking = np.arange(12), ~present[:, 1]
    assert whole.outputs(index, 0).taught.all() and whole.notes == ()
    np.testing.assert_array_equal(heard.outputs(index, 0).taught, present[:, 1])
    assert heard.notes == (
        "nothing that the teacher takes is in 4 of the 12 train samples: they are left to the other teachers",
    )
    together = Combined([whole, heard], [1.0, 3.0], combine="average", contract=both).outputs(index, 0)
    assert together.taught.all()
    (head,) = both.heads
    alone, mean = (torch.from_numpy(x.logits[head]).softmax(dim=1) for x in (whole.outputs(index, 0), together))
    torch.testing.assert_close(mean[lacking], alone[lacking])
    assert not torch.allclose(mean[~lacking], alone[~lacking])
