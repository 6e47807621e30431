"""``mmedge evaluate`` of every task, alone and several in one bundle, with figures worked out by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge import artifact
from mmedge.contract import Contract
from mmedge.tasks import Head

# Each head's outputs are cells of the row: what the network says is what the test writes. The amount also adds ``y``.
COLUMNS = {"kind": (0, 1, 2), "grade": (3, 4), "tags": (5, 6), "amount": (7,)}
HEADS = {
    "kind": Head(task="classification", labels=("a", "b", "c")),
    "grade": Head(task="ordinal", labels=("low", "middle", "high")),
    "tags": Head(task="multilabel", labels=("red", "blue")),
    "amount": Head(task="regression"),
}
MODALITIES = {
    "x": {"kind": "tabular", "columns": [f"x{n}" for n in range(8)]},
    "y": {"kind": "tabular", "columns": ["y0"]},
}
# (outputs of kind, grade, tags, amount; y; what is right)
ROWS = [
    ((9, 0, 0, -5, -5, 9, -9, 1.0), 0.5, {"kind": "a", "grade": "low", "tags": "red", "amount": 1.5}),
    ((0, 9, 0, 5, -5, -9, 9, 2.0), 0.0, {"kind": "b", "grade": "middle", "tags": "blue", "amount": 2.0}),
    ((0, 0, 9, 5, 5, 9, 9, 3.0), 1.0, {"kind": "c", "grade": "high", "tags": "red;blue", "amount": 4.0}),
    ((9, 0, 0, 5, 5, 9, -9, 4.0), 0.0, {"kind": "b", "grade": "low", "tags": "blue", "amount": 8.0}),
    ((0, 9, 0, 5, -5, -9, 9, 5.0), None, {"kind": "b", "grade": None, "tags": "blue", "amount": 5.0}),
    ((0, 9, 0, -5, -5, 9, 9, 6.0), None, {"kind": None, "grade": "low", "tags": None, "amount": None}),
]


@pytest.fixture
def bundle(tmp_path):
    def write(*names):
        nodes, stored = [], {"y_at": np.array([1], np.int64)}
        nodes.append(helper.make_node("Gather", ["present", "y_at"], ["has_y"], axis=1))
        nodes.append(helper.make_node("Cast", ["has_y"], ["y_there"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", ["y", "y_there"], ["shift"]))
        for name in names:
            stored[f"{name}_at"] = np.array(COLUMNS[name], np.int64)
            output = name if name != "amount" else "bare"
            nodes.append(helper.make_node("Gather", ["x", f"{name}_at"], [output], axis=1))
            if name == "amount":
                nodes.append(helper.make_node("Add", ["bare", "shift"], ["amount"]))
        floats, batch = TensorProto.FLOAT, "batch"
        graph = helper.make_graph(
            nodes,
            "heads",
            [
                helper.make_tensor_value_info("x", floats, [batch, 8]),
                helper.make_tensor_value_info("y", floats, [batch, 1]),
                helper.make_tensor_value_info("present", TensorProto.BOOL, [batch, 2]),
            ],
            [helper.make_tensor_value_info(name, floats, [batch, len(COLUMNS[name])]) for name in names],
            [numpy_helper.from_array(value, name) for name, value in stored.items()],
        )
        contract = Contract.model_validate({"modalities": MODALITIES, "heads": {name: HEADS[name] for name in names}})
        with artifact.creating(tmp_path / "bundle", stage="bundle", key="heads", parent=None) as (folder, meta):
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
            onnx.save(model, folder / "model.onnx")
            meta |= {
                "name": "heads",
                "contract": contract.model_dump(mode="json", by_alias=True),
                "targets": {"onnxruntime-cpu": {"precision": "fp32"}},
                "figures": {},
            }
        return tmp_path / "bundle"

    return write


@pytest.fixture
def table(tmp_path):
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(f"x{n}" for n in range(8)), "y0", *HEADS])
        for outputs, y, right in ROWS:
            writer.writerow([*outputs, "" if y is None else y, *("" if v is None else v for v in right.values())])
    return tmp_path / "rows.csv"


def r_squared(right, found):
    right, found = np.array(right), np.array(found)
    return 1 - ((right - found) ** 2).sum() / ((right - right.mean()) ** 2).sum()


# red: two of the three that score 9 are right, all there are; blue: three of four at precision 1, the last at 4/5.
TAGS = (2 / 3 + (3 / 4 + 1 / 4 * 4 / 5)) / 2
AMOUNT = r_squared([1.5, 2, 4, 8, 5], [1.5, 2, 4, 4, 5])


@pytest.mark.parametrize(
    ("head", "metric", "value", "n", "others"),
    [
        # Five rows say their kind, of which the fourth is taken for an a.
        ("kind", "accuracy", 4 / 5, 5, {}),
        # Of five grades the fourth is wrong, by two.
        ("grade", "accuracy", 4 / 5, 5, {"mae_ranks": 2 / 5}),
        ("tags", "average_precision", TAGS, 5, {}),
        ("amount", "r2", AMOUNT, 5, {}),
    ],
)
def test_a_bundle_of_each_task_has_the_figures_of_its_table(mmedge, bundle, table, head, metric, value, n, others):
    said = mmedge("evaluate", bundle(head), table, "--truth", head, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["rows"] == 6 and found["wrong"] == 0 and "heads" not in found
    assert (found["quality"]["metric"], found["quality"]["n"]) == (metric, n)
    assert found["quality"]["value"] == pytest.approx(value, abs=1e-6)
    assert found["quality"]["ci95"][0] <= value <= found["quality"]["ci95"][1]
    for name, figure in others.items():
        held = found["quality"]["others"][name]
        assert (held["value"] if isinstance(held, dict) else held) == pytest.approx(figure, abs=1e-6)
    assert found["subsets"]["x"]["n"] == 5 and f"{metric} {value:.3f}" in said.err


def test_several_heads_are_judged_each_over_the_rows_that_say_what_is_right(mmedge, bundle, table):
    said = mmedge("evaluate", bundle(*HEADS), table, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    expected = {"kind": 4 / 5, "grade": 4 / 5, "tags": TAGS, "amount": AMOUNT}
    assert {name: figure["value"] for name, figure in found["heads"].items()} == pytest.approx(expected, abs=1e-6)
    # Every row is known of some head.
    assert found["quality"]["metric"] == "mean" and found["quality"]["n"] == 6
    assert found["quality"]["value"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    # Without y the amount is the bare one: of the whole rows only the four that have y are judged by both.
    assert found["subsets"]["x+y"]["n"] == 4 and found["subsets"]["x"]["n"] == 6
    bare = {**expected, "amount": r_squared([1.5, 2, 4, 8, 5], [1, 2, 3, 4, 5])}
    assert found["subsets"]["x"]["value"] == pytest.approx(np.mean(list(bare.values())), abs=1e-6)
    assert all(f"  {name} {value:.3f}" in said.err for name, value in expected.items())


def test_a_heads_column_may_have_another_name_and_what_no_head_can_mean_is_told(mmedge, bundle, table):
    text = table.read_text()
    table.write_text(text.replace("grade", "mark", 1).replace("middle", "medium"))
    told = mmedge("evaluate", bundle("kind", "grade"), table, "--truth", "grade=mark")
    assert told.code == 1 and "does not know 'medium'" in told.err and "column mark" in told.err
    table.write_text(text.replace("grade", "mark", 1))
    assert mmedge("evaluate", bundle("kind", "grade"), table, "--truth", "grade=mark").code == 0
    told = mmedge("evaluate", bundle("kind", "grade"), table)
    assert told.code == 2 and "no column 'grade'" in told.err and "--truth grade=COLUMN" in told.err
    table.write_text(text.replace("8.0", "eight"))
    told = mmedge("evaluate", bundle("amount"), table, "--truth", "amount")
    assert told.code == 1 and "'eight' is nothing that amount can be" in told.err
