"""Fuzzing: whatever a recipe says, ``check`` answers with its faults or one of our errors. ``make fuzz`` goes on for longer."""

from __future__ import annotations

import copy
import csv
import json
import math
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mmedge.cli.main import cli
from tests.fuzzing import fuzzed

# What a recipe may take at most: seconds of this process, or on a machine that is busy so many times what an unknown layer
# takes, whose name is sought in an exported graph; and megabytes that it grows by.
_SLOWEST, _TIMES, _LARGEST = 5.0, 2, 1000

TRAIN = {"epochs": 1, "batch_size": 8, "augment": {"note": {"mask": 2}}}
GOOD: dict[str, Any] = {
    "schema": 1,
    "name": "fuzzed",
    "seed": 0,
    "data": {
        "manifest": "m.csv",
        "task": "classification",
        "target": "label",
        "id": "row",
        "group": "who",
        "ratios": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "redact": {"drop": ["email"], "hash": []},
        "modalities": {
            "note": {"kind": "text", "column": "note", "length": 8, "vocabulary": 40},
            "vitals": {"kind": "tabular", "columns": ["age", "pulse"], "categorical": ["colour"]},
        },
    },
    "teacher": {"model": {"encoders": {"note": {"widths": [8]}}, "embedding": 8, "hidden": 8}, "train": TRAIN},
    "distill": {
        "model": {"embedding": 4, "hidden": 4, "modalities": ["note", "vitals"]},
        "loss": {"kind": "kd", "temperature": 2.0, "hints": [{"teacher": "fusion", "student": "fusion"}]},
        "train": TRAIN,
        "controls": {"seeds": 1},
    },
    "prune": {"budget": {"macs": 0.7}, "branches": {"note": 0.5}, "train": TRAIN},
    "quantize": {"candidates": ["fp32", "int8"], "ignore": ["head"], "calibration": 4},
    "export": {"targets": {"onnxruntime-cpu": {"precision": "fp32"}}},
    "measure": {"runs": 50, "threads": 1},
    "gates": {"distill": {"quality": 0.5, "subset.note": 0.1}},
}
SEVERAL = copy.deepcopy(GOOD) | {"gates": {}}
for key in ("task", "target"):
    del SEVERAL["data"][key]
SEVERAL["data"]["targets"] = {"label": {}, "weight": {"task": "regression", "column": "mass"}}
SEVERAL["teacher"]["train"] = TRAIN | {"head_weights": {"label": 1.0, "weight": 0.5}}
# Names that mean something elsewhere, or are hard to print, to write or to import.
NAMES = [
    *("fusion", "logits", "target", "json", "threads", "present", "self", "inputs", "id", "split", "label", "age"),
    *("[/x]", "[bold]", "a b", "a.b", "$", "a/b", "../x", "/tmp/x", "\ud800", "é", "e\u0301", "\x00", "\u202e", ""),
    *("1", "null", "true", "~", "-", "*", "&a", "!t", "%", "a" * 300, "kind", "column", "__class__", "onnxruntime-cpu"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**64, 10**30, 0.5, -0.5, 1e-300, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [1], ["age"], ["age", "age"], {"1": 2}, {"a": {"b": {}}}, [None], "auto", "every", "none", "m.csv"),
    *("os:system", "nowhere:net", "a:b:c", ":", "note", "vitals", "text", "image", "regression", "multilabel"),
]
values = (
    st.sampled_from(VALUES).map(copy.deepcopy)
    | st.sampled_from(NAMES)
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
)
names = st.sampled_from(NAMES) | st.text(max_size=5)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("fuzz") / "m.csv"
    with file.open("w", newline="") as stream:
        write = csv.writer(stream)
        write.writerow(["row", "who", "note", "age", "pulse", "colour", "email", "mass", "label"])
        for i in range(60):
            words = " ".join(["red", "blue", "green", "cold", "warm"][j] for j in (i % 5, i % 3, i % 2))
            write.writerow([i, f"p{i % 12}", words, 20 + i, 60 + i % 9, "rgb"[i % 3], f"m{i}@x", i * 1.5, "ab"[i % 2]])
    return str(file)


@pytest.fixture(scope="module")
def slowest(table: str) -> float:
    seconds = []
    for name in ("a", "b"):  # the first imports what all need
        began = time.process_time()
        checked(json.dumps(GOOD | {"quantize": {"ignore": [f"no such layer {name}"]}}), table)
        seconds.append(time.process_time() - began)
    return max(_SLOWEST, _TIMES * seconds[-1])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in [(*path, key), *places(inner, (*path, key))]]


def mutated(recipe: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    recipe = copy.deepcopy(recipe)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(sorted(places(recipe), key=str) or [("name",)]))
        held: Any = recipe
        for step in parents:
            held = held[step]
        match data.draw(st.sampled_from(("replace", "replace", "remove", "rename", "add"))):
            case "replace":
                held[last] = data.draw(values)
            case "remove":
                del held[last]
            case "rename" if isinstance(held, dict):
                held[data.draw(names | st.integers(-2, 2))] = held.pop(last)
            case _ if isinstance(held, dict):
                held[data.draw(names)] = data.draw(values)
            case _:
                held.append(data.draw(values))
    return recipe


def checked(text: str, table: str, slowest: float = math.inf) -> dict[str, Any]:
    """Run ``check --json`` over a recipe's text; what it answers is one document of faults, or of one of our errors."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "m.csv").write_bytes(Path(table).read_bytes())
        recipe = Path(folder) / "r.yaml"
        recipe.write_text(text, encoding="utf-8", errors="surrogatepass")
        began, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = CliRunner().invoke(cli, ["check", str(recipe), "--out", f"{folder}/out", "--json"])
        assert time.process_time() - began < slowest
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024 < _LARGEST
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    document = json.loads(result.stdout)
    assert not document.get("error", {}).get("what", "").startswith("unexpected "), document
    json.dumps(document, allow_nan=False).encode()  # half a surrogate pair is written as an escape
    return document


@pytest.mark.parametrize("recipe", [GOOD, SEVERAL])
def test_the_recipes_that_are_changed_have_no_fault(table, recipe):
    assert checked(json.dumps(recipe), table)["errors"] == 0


@fuzzed(15)
@given(data=st.data())
def test_a_recipe_with_anything_changed_is_checked_or_told_of(table, slowest, data):
    recipe = mutated(data.draw(st.sampled_from((GOOD, SEVERAL))), data)
    checked(json.dumps(recipe), table, slowest)


@fuzzed(15)
@given(data=st.data())
def test_a_recipe_with_characters_changed_is_checked_or_told_of(table, slowest, data):
    text = list(json.dumps(GOOD, indent=1))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from([*"[]{}:,&*!|>'\"%@`#-? \n\t0", ""]) | st.characters())
    checked("".join(text), table, slowest)
