"""A list of classes: weights that know more of them than the data at hand are taken, in the order that they have."""

import pytest
import torch
from torch import nn

from mmedge.data.store import samples
from mmedge.errors import UsageError
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from tests.conftest import parsed
from tests.data.made import write_table

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 5)

    def forward(self, x):
        return self.net(x)
"""
CLASSES = ["red", "green", "blue", "white", "black"]


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "many_colours.py").write_text(CODE)
    net = nn.Sequential()
    net.net = nn.Linear(2, 5)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    rows = [[i, i * 7 % 5, CLASSES[i % 3]] for i in range(90)]
    data = {
        "manifest": str(write_table(tmp_path / "m.csv", [["a", "b", "label"], *rows])),
        "modalities": {"x": {"kind": "tabular", "columns": ["a", "b"]}},
    }
    teacher = {"model": {"factory": "many_colours:Net", "weights": str(tmp_path / "w.pt")}}
    return {"schema": 1, "name": "t", "data": data, "teacher": teacher}


def errors(recipe, folder):
    card = check(parsed(recipe), folder / "out", code=folder, progress=Silent()).record()
    return [fault["what"] for fault in card["faults"] if fault["severity"] == "error"]


def test_weights_of_more_classes_than_the_data_has_are_taken_with_their_list(recipe, tmp_path):
    assert errors(recipe, tmp_path)  # five outputs for three classes
    recipe["data"]["classes"] = CLASSES
    assert errors(recipe, tmp_path) == []
    data = samples.prepare(parsed(recipe), tmp_path / "out", code=tmp_path, progress=Silent())
    (head,) = data.contract.heads.values()
    assert head.labels == tuple(CLASSES)
    assert set(data.train.targets["logits"].tolist()) == {0, 1, 2}


def test_a_label_that_the_list_lacks_is_told_in_every_split(recipe, tmp_path):
    recipe["data"]["classes"] = ["red", "green", "white", "black", "grey"]
    said = [what for what in errors(recipe, tmp_path) if "not among 'classes'" in what]
    assert [what.split()[5] for what in said] == ["train", "validation", "test"] and "'blue'" in said[0]


@pytest.mark.parametrize(("key", "value"), [("task", "regression"), ("task", "ordinal"), ("classes", ["red", "red"])])
def test_a_list_of_classes_that_means_nothing_is_refused(recipe, key, value):
    recipe["data"] |= {"classes": CLASSES, key: value}
    with pytest.raises(UsageError, match="'classes'"):
        parsed(recipe)
