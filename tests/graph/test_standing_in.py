"""What stands in for an absent input, exact behind its branch."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmedge.backends import onnxruntime_cpu
from mmedge.graph import placement, standing_in
from mmedge.graph.export import export
from mmedge.graph.placement import Form
from mmedge.models.heads import Wrapped
from tests.graph.test_cut import Masked, Own, given
from tests.small import CONTRACT, write_graph


class Deep(Own):
    """Its features are as large as the others': their error is not lost in the codes of what reads both."""

    def __init__(self):
        super().__init__()
        layers = [layer for ins in (1, 8, 8) for layer in (nn.Conv2d(ins, 8, 3), nn.ReLU())]
        self.look = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 8))
        nn.init.normal_(self.look[-1].weight, std=16)


def exported(module, path, seed=0):
    torch.manual_seed(seed)
    means = {name: torch.rand(*spec.shape) for name, spec in CONTRACT.modalities.items()}
    export(Wrapped(module(), {name: name for name in means}, means, {"logits": None}), CONTRACT, path)
    return onnx.load(path)


def calls(shown, batch=5):
    return given(batch) | {"present": np.tile(np.array([shown]), (batch, 1))}


@pytest.mark.parametrize("shown", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("batch", [1, 5])
def test_in_float_nothing_changes(tmp_path, shown, batch):
    model = exported(Own, tmp_path / "own.onnx")
    before = onnxruntime_cpu.session(model.SerializeToString())
    assert standing_in.fix(model, calls((True, True), 1))
    onnx.checker.check_model(model)
    after, x = onnxruntime_cpu.session(model.SerializeToString()), calls(shown, batch)
    np.testing.assert_allclose(after(x)["logits"], before(x)["logits"], atol=1e-6)


def test_in_8_bits_an_absent_input_no_longer_moves_all_answers_one_way(tmp_path):
    inputs = [{name: x[row : row + 1] for name, x in calls((row % 4 > 0, True), 64).items()} for row in range(64)]
    moved: dict[bool, float] = {False: 0.0, True: 0.0}
    for seed in range(6):
        model, x = exported(Deep, tmp_path / "own.onnx", seed), calls((False, True), 100)
        fp32 = onnxruntime_cpu.session(tmp_path / "own.onnx")
        for fixed in moved:
            assert not fixed or standing_in.fix(model, inputs[0])
            onnx.save(model, tmp_path / "float.onnx")
            placement.int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", inputs, Form())
            difference = onnxruntime_cpu.session(tmp_path / "int8.onnx")(x)["logits"] - fp32(x)["logits"]
            moved[fixed] += float(np.square(difference.mean(axis=0)).sum())
    assert moved[True] < 0.5 * moved[False]  # what is left is of the codes of what reads it, and of the other branch


def test_a_network_that_knows_presence_is_left_as_it_is(tmp_path):
    write_graph(tmp_path / "built_in.onnx")  # a Where behind each encoder, as the built-in network has it
    for model in (exported(Masked, tmp_path / "masked.onnx"), onnx.load(tmp_path / "built_in.onnx")):
        content = model.SerializeToString()
        assert not standing_in.fix(model, calls((True, True), 1)) and model.SerializeToString() == content


class Pairs(Own):
    """Both meet in all pairs of many features, as ids and their mask do in the scores of attention."""

    def forward(self, image, vitals):
        features = self.look(image).repeat(1, 16)
        pairs = (features[:, None] * features[:, :, None]) + self.feel(vitals).sum(1)[:, None, None]
        return self.head(pairs.mean(2)[:, :20])


def test_constants_that_take_what_8_bits_save_stand_in_for_nothing(tmp_path):
    model = exported(Pairs, tmp_path / "pairs.onnx")
    before = model.ByteSize()
    standing_in.fix(model, calls((True, True), 1))
    onnx.checker.check_model(model)
    assert model.ByteSize() < 1.25 * before  # the constants of the pairs alone would be sixteen times as much
