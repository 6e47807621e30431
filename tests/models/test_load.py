"""Models: rebuilt from their artifact bit for bit, built-in or a user's, pruned or not; weights without pickles."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mmedge import artifact
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError
from mmedge.graph.trace import example
from mmedge.measure.cost import macs, params
from mmedge.models import load
from mmedge.recipe import Model, Prune
from mmedge.spec import ArraySpec
from tests.conftest import narrowed

CONTRACT = Contract(
    task="classification",
    modalities={"image": ArraySpec(kind="array", shape=(1, 12, 10)), "series": ArraySpec(kind="array", shape=(20,))},
    labels=("a", "b", "c"),
)
BUILT_IN = Model(encoders={"image": {"widths": (8, 16)}, "series": {"widths": (16,)}}, embedding=16, hidden=16)
HALVED = Prune(round_to=2)


class Theirs(nn.Module):
    """A network that knows nothing of mmedge: positional names of its own, no presence, one tensor out."""

    def __init__(self, width=16):
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * 30, width),
            nn.ReLU(),
        )
        self.hear = nn.Sequential(nn.Linear(20, width), nn.ReLU())
        self.join = nn.Sequential(nn.Linear(2 * width, 24), nn.ReLU())
        self.out = nn.Linear(24, 3)

    def forward(self, picture, sound):
        return self.out(self.join(torch.cat([self.see(picture), self.hear(sound)], dim=1)))


THEIRS = Model(factory="x:Theirs", inputs={"image": "picture", "series": "sound"})
CASES = [pytest.param(BUILT_IN, None, id="built-in"), pytest.param(THEIRS, Theirs, id="factory")]


def built(model, factory):
    torch.manual_seed(0)
    means = {"image": np.full((1, 12, 10), 0.3, np.float32), "series": np.arange(20, dtype=np.float32)}
    module = load.build(model, CONTRACT, factory=factory, means=means)
    for layer in module.modules():  # statistics that are not those of a fresh model
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return module.eval()


def saved(module, model, path, history=()):
    with artifact.creating(path, stage="teacher", key="k", parent=None) as (folder, meta):
        load.save(module, folder, list(history))
        meta |= {"contract": CONTRACT.model_dump(mode="json", by_alias=True), "model": model.model_dump(mode="json")}
    return artifact.read(path)


def answers(module):
    torch.manual_seed(1)
    inputs = {name: torch.randn(6, *spec.shape) for name, spec in CONTRACT.modalities.items()}
    present = torch.tensor([[True, True]] * 2 + [[True, False]] * 2 + [[False, True]] * 2)
    with torch.no_grad():
        return module(present=present, **inputs)["logits"]


@pytest.mark.parametrize(("model", "factory"), CASES)
def test_a_rebuilt_model_answers_bit_for_bit(tmp_path, model, factory):
    module = built(model, factory)
    made = saved(module, model, tmp_path / "a")
    torch.manual_seed(99)
    assert torch.equal(answers(load.rebuild(made, factory)), answers(module))


@pytest.mark.parametrize(("model", "factory"), CASES)
def test_a_pruned_model_is_rebuilt_bit_for_bit_and_can_be_pruned_again(tmp_path, model, factory):
    module = built(model, factory)
    whole = macs(module, CONTRACT)
    history = narrowed(module, CONTRACT, HALVED, 0.5)
    once = macs(module, CONTRACT)
    assert once <= 0.7 * whole
    first = saved(module, model, tmp_path / "a", history)
    again = load.rebuild(first, factory)
    assert torch.equal(answers(again), answers(module))

    history = load.history_of(first) + narrowed(again, CONTRACT, HALVED, 0.5)
    assert macs(again, CONTRACT) <= 0.7 * once
    second = saved(again, model, tmp_path / "b", history)
    rebuilt = load.rebuild(second, factory)
    assert params(rebuilt) == params(again) and torch.equal(answers(rebuilt), answers(again))


def test_a_flattened_map_in_a_concatenation_which_torch_pruning_miscounts_is_left_and_the_rest_is_pruned(tmp_path):
    class Flattened(Theirs):
        def __init__(self):
            super().__init__()
            self.see, self.join = self.see[:4], nn.Linear(16 * 30 + 16, 24)

    module = load.build(THEIRS, CONTRACT, factory=Flattened)
    before = macs(module, CONTRACT)
    history = narrowed(module, CONTRACT, HALVED, 0.5)
    assert macs(module, CONTRACT) < before
    assert (module.inner.join.in_features, module.inner.join.out_features) == (16 * 30 + 16, 12)
    again = load.rebuild(saved(module, THEIRS, tmp_path / "a", history), Flattened)
    assert torch.equal(answers(again), answers(module))


@pytest.mark.parametrize(("model", "factory"), CASES)
def test_an_absent_modality_has_no_influence(model, factory):
    module = built(model, factory)
    inputs = {name: torch.randn(2, *spec.shape) for name, spec in CONTRACT.modalities.items()}
    present = torch.tensor([[True, False]] * 2)
    with torch.no_grad():
        first = module(present=present, **inputs)["logits"]
        inputs["series"] = torch.full((2, 20), 1e4)
        assert torch.equal(module(present=present, **inputs)["logits"], first)


def test_an_absent_input_of_a_users_model_is_the_training_mean():
    module = built(THEIRS, Theirs)
    image = torch.randn(1, 1, 12, 10)
    with torch.no_grad():
        got = module(present=torch.tensor([[True, False]]), image=image, series=torch.randn(1, 20))["logits"]
        expected = module.inner(image, torch.arange(20.0)[None])
    assert torch.equal(got, expected)


def test_a_users_model_that_takes_present_is_given_it():
    class Aware(Theirs):
        def forward(self, picture, sound, present):
            return {"logits": super().forward(picture, sound) * present.sum(dim=1, keepdim=True), "more": present}

    module = load.build(THEIRS, CONTRACT, factory=Aware)
    one, two = (
        module(**{**example(CONTRACT), "present": torch.tensor([[True, both]] * 2)})["logits"] for both in (False, True)
    )
    torch.testing.assert_close(one * 2, two)


def broken(**changes):
    class Broken(Theirs):
        def forward(self, picture, sound):
            return changes["forward"](super().forward(picture, sound))

    return Broken


@pytest.mark.parametrize(
    ("factory", "inputs", "said"),
    [
        (lambda: "no module", {}, "returned str, not a torch.nn.Module"),
        (Theirs, {"image": "pictuer", "series": "sound"}, "did you mean 'picture'"),
        (Theirs, {}, "no parameter 'image' for the modality 'image'"),
        (
            broken(forward=lambda x: {"scores": x, "more": x}),
            THEIRS.inputs,
            "gives scores, more, and none of them is called",
        ),
        (
            broken(forward=lambda x: (x, x)),
            THEIRS.inputs,
            r"say which are the heads', .*model\.outputs: \[output_0, output_1\]",
        ),
        (broken(forward=lambda x: None), THEIRS.inputs, "not NoneType"),
        (broken(forward=lambda x: x[:, :2]), THEIRS.inputs, r"shape \[2, 2\].*must be \[2, 3\]"),
        (broken(forward=lambda x: x.squeeze()), THEIRS.inputs, r"batch of 1; it must be \[1, 3\]"),
        (broken(forward=lambda x: x @ torch.zeros(7, 7)), THEIRS.inputs, "fails on a batch of 2"),
    ],
)
def test_a_wrong_factory_is_a_usage_error_of_three_lines_at_most(factory, inputs, said):
    model = Model(factory="x:make", inputs=inputs)
    with pytest.raises(UsageError, match=said) as raised:
        load.check_forward(load.build(model, CONTRACT, factory=factory), CONTRACT, "x:make")
    assert len(str(raised.value).splitlines()) <= 3


def test_outputs_of_the_built_in_network_cannot_be_named():
    with pytest.raises(UsageError, match="the built-in network has its heads alone"):
        load.build(BUILT_IN.model_copy(update={"outputs": ("scores",)}), CONTRACT)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_a_file_are_loaded_into_the_users_own_module(tmp_path, suffix):
    from safetensors.torch import save_file

    torch.manual_seed(5)
    theirs = Theirs()
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, path)
    else:
        save_file(theirs.state_dict(), path)
    module = load.build(THEIRS.model_copy(update={"weights": path}), CONTRACT, factory=Theirs)
    assert all(torch.equal(a, b) for a, b in zip(module.inner.state_dict().values(), theirs.state_dict().values()))


def whole_module(path):
    sys.modules["pickled_theirs"] = sys.modules[__name__]
    torch.save(Theirs(), path)


@pytest.mark.parametrize(
    ("write", "name", "said"),
    [
        (whole_module, "w.pt", "unpickles nothing"),
        (lambda path: None, "w.pt", "does not exist"),
        (lambda path: path.write_bytes(b"no weights"), "w.pt", "cannot be read|unpickles nothing"),
        (lambda path: path.write_bytes(b""), "w.pt", "cannot be read"),
        (lambda path: path.write_bytes(b"no weights"), "w.safetensors", "cannot be read"),
        (lambda path: torch.save(Theirs(8).state_dict(), path), "w.pt", "do not fit"),
        (
            lambda path: torch.save({"see.0.weight": torch.zeros(1), "x.y": torch.zeros(1)}, path),
            "w.pt",
            r"lacks \d+ weights .*has 1 weights \(x.y\) that",
        ),
        (lambda path: torch.save([1, 2], path), "w.pt", "holds a list, not a state_dict"),
    ],
)
def test_wrong_weights_are_told_with_their_path(tmp_path, write, name, said):
    write(tmp_path / name)
    with pytest.raises(MmedgeError, match=said) as raised:
        load.load_weights(Theirs(), tmp_path / name)
    assert name in str(raised.value) and len(str(raised.value).splitlines()) <= 3


@pytest.mark.parametrize("contract", [None, {"task": "x"}])
def test_a_contract_that_is_not_understood_is_told_with_its_artifact(finished, contract):
    made = finished.artifact("teacher")
    with pytest.raises(MmedgeError, match="says of contract") as raised:
        load.rebuild(replace(made, meta={**made.meta, "contract": contract}))
    assert str(made.path) in str(raised.value) and raised.value.todo


def test_an_artifact_without_a_model_says_which_have_one(finished):
    with pytest.raises(MmedgeError, match="teacher, distill or prune"):
        load.rebuild(finished.artifact("quantize"))


@pytest.mark.parametrize("stage", ["teacher", "distill", "prune"])
def test_a_runs_models_are_rebuilt_to_their_counted_size(finished, context, stage):
    module = context.rebuild(finished.artifact(stage))
    assert params(module) == finished.stage(stage)["params"]
    assert macs(module, load.contract_of(finished.artifact(stage))) == finished.stage(stage)["macs"]


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "net.inner."])
def test_weights_load_from_a_training_checkpoint_and_under_a_prefix(tmp_path, key, prefix):
    """DataParallel and Lightning put a prefix before every name; training scripts keep the optimizer beside the weights."""
    theirs = Theirs()
    state = {f"{prefix}{name}": x for name, x in theirs.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "w.pt")
    ours = Theirs()
    load.load_weights(ours, tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values()))


def test_weights_of_a_network_load_into_one_that_wraps_it(tmp_path):
    theirs = Theirs()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = nn.Sequential(Theirs())
    load.load_weights(ours, tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values()))


@pytest.mark.parametrize(
    "model", [{"encoders": {"x": {"widths": [65_536] * 3, "depth": 1000}}}, {"hidden": 65_536, "embedding": 65_536}]
)
def test_a_built_in_network_of_a_few_digits_too_many_is_refused_before_it_fills_the_memory(model):
    contract = Contract.model_validate(
        {
            "task": "classification",
            "labels": ["a", "b"],
            "modalities": {"x": {"kind": "sensor", "channels": 2, "length": 20}},
        }
    )
    with pytest.raises(UsageError, match="would have [0-9,]+ million parameters, more than 50 million"):
        load.build(Model.model_validate(model), contract)
