"""A graph that computes for ever, when it is opened or when it runs, ends where a time is given."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge import artifact, runtime
from mmedge.errors import MmedgeError, UsageError
from tests.small import CONTRACT


def bundle_of(nodes, stored, path):
    """A bundle of a graph of these nodes, which give ``logits``; well hashed, as an attacker's is."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *spec.shape])
        for name, spec in CONTRACT.modalities.items()
    ]
    inputs.append(helper.make_tensor_value_info("present", TensorProto.BOOL, ["batch", 2]))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "hostile", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with artifact.creating(path, stage="bundle", key="hostile", parent=None) as (folder, meta):
        onnx.save(model, folder / "model.onnx")
        contract = CONTRACT.model_dump(mode="json", by_alias=True)
        meta |= {
            "name": "x",
            "contract": contract,
            "targets": {"onnxruntime-cpu": {"precision": "fp32"}},
            "figures": {},
        }
    return path


@pytest.fixture
def endless(tmp_path):
    """The vitals, to which 1 is added 2^62 times."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["go"]), helper.make_node("Add", ["x", "one"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    stored = {"times": np.array(2**62, np.int64), "true": np.array(True)}
    return bundle_of(
        [helper.make_node("Loop", ["times", "true", "vitals"], ["logits"], body=body)], stored, tmp_path / "bundle"
    )


@pytest.fixture
def slow_to_open(tmp_path):
    """A constant of two hundred products of large matrices, which ONNX Runtime computes while it opens the graph."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(200)]
    nodes += [
        helper.make_node("ReduceMax", ["m200"], ["most"], keepdims=0),
        helper.make_node("Add", ["vitals", "most"], ["logits"]),
    ]
    return bundle_of(nodes, {"shape": np.array([3000, 3000], np.int64)}, tmp_path / "bundle")


@pytest.mark.long
def test_a_graph_that_loops_for_ever_ends_in_a_sentence(endless, sample):
    engine = runtime.load(endless, timeout_s=2)  # on a busy machine it must have opened by then
    begun = time.monotonic()
    with pytest.raises(MmedgeError, match=r"the graph gives nothing within 2 s\n  do: do not run it"):
        engine.predict(**sample)
    tensors = engine.preprocess([sample])
    with pytest.raises(MmedgeError, match="gives nothing within"):  # it can be run again
        engine.run(tensors)
    assert time.monotonic() - begun < 60


def test_a_graph_that_takes_for_ever_to_open_ends_in_a_sentence(slow_to_open):
    with pytest.raises(MmedgeError, match="the graph does not open within 0.3 s\n  at: .*model.onnx"):
        runtime.load(slow_to_open, timeout_s=0.3)


def test_an_honest_bundle_answers_the_same_with_a_limit(made_bundle, sample):
    with_limit, without = runtime.load(made_bundle, timeout_s=60), runtime.load(made_bundle)
    assert with_limit.predict(**sample) == without.predict(**sample)
    assert with_limit.predict(image=sample["image"]) == without.predict(image=sample["image"])
    with pytest.raises(MmedgeError, match="vitals must be") as raised:
        with_limit.run({"image": np.zeros((1, 1, 8, 8), np.float32), "vitals": 3, "present": np.ones((1, 2), bool)})
    assert "within" not in str(raised.value)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "5"])
def test_a_limit_that_is_none_is_refused(made_bundle, wrong):
    with pytest.raises(UsageError, match="timeout_s"):
        runtime.load(made_bundle, timeout_s=wrong)
