"""Every figure of a task can be a gate: whole, of a head, of a subset, of one label; what a task lacks is refused with what it has."""

import pytest

from mmedge import gate
from mmedge.errors import UsageError
from mmedge.tasks import TASKS
from tests.conftest import parsed

TARGETS = {
    "classification": {"task": "classification", "target": "y"},
    "ordinal": {"task": "ordinal", "target": "y", "order": ["a", "b"]},
    "multilabel": {"task": "multilabel", "target": "y"},
    "regression": {"task": "regression", "target": ["y", "z"]},
    "frames": {"task": "frames", "target": "y"},
}


def recipe(task, name):
    modalities = {part: {"kind": "tabular", "columns": [f"{part}1", f"{part}2"]} for part in ("a", "b")}
    return {
        "schema": 1,
        "name": "t",
        "data": {"manifest": "m.csv", "modalities": modalities, **TARGETS[task]},
        "teacher": {"model": {}},
        "gates": {"teacher": {name: 0.5}},
    }


@pytest.mark.parametrize("task", TARGETS)
def test_every_figure_of_a_task_is_a_gate_whole_and_of_a_subset(task):
    for figure in TASKS[task].FIGURES:
        if figure != TASKS[task].METRIC:
            parsed(recipe(task, f"others.{figure}"))
            parsed(recipe(task, f"subset_others.a+b.{figure}"))
        assert gate.is_minimum(f"others.{figure}") == (TASKS[task].FIGURES[figure] != "error")
        assert gate.is_minimum(f"heads.h.subset_others.a.{figure}.cat") == (TASKS[task].FIGURES[figure] != "error")


@pytest.mark.parametrize(
    ("task", "name", "words"),
    [
        ("regression", "others.f1", "it has others.mae, others.rmse"),
        ("regression", "ece", "is no figure of a regression"),
        ("multilabel", "worst_class_recall", "is no figure of a multilabel"),
        ("multilabel", "others.top_3", "it has others.f1_micro"),
        ("classification", "subset_others.f1", "unknown figure"),
        ("classification", "subset_others.c.f1", "no subset of modalities 'c'"),
        ("classification", "others.accuracy", "is no figure of a classification"),
    ],
)
def test_what_a_task_lacks_is_refused_with_what_it_has(task, name, words):
    with pytest.raises(UsageError) as raised:
        parsed(recipe(task, name))
    assert words in str(raised.value)


def test_ece_is_a_gate_of_whatever_tells_how_sure_it_is():
    for task in ("classification", "ordinal", "multilabel"):
        parsed(recipe(task, "ece"))
        parsed(recipe(task, "subset_others.a.ece"))
    assert not gate.is_minimum("subset_others.a.ece") and gate.is_minimum("subset_others.a.worst_class_recall")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"task": "regression", "target": "y", "shape": [3, 2]}, "are those of frames"),
        ({"task": "classification", "target": ["y", "z"]}, "several columns, which a regression's are"),
        ({"task": "regression", "target": ["y", "y"]}, "'target' names a column twice"),
        ({"task": "regression", "target": ["y", "a1"]}, "is also the input of a modality"),
    ],
)
def test_keys_of_another_task_and_columns_that_are_taken_are_refused(data, words):
    values = recipe("regression", "quality")
    values["data"] = {"manifest": "m.csv", "modalities": values["data"]["modalities"], **data}
    with pytest.raises(UsageError) as raised:
        parsed(values)
    assert words in str(raised.value)
