"""Several labels a sample: cells, columns, splits, and a whole run."""

import json
from itertools import pairwise

import numpy as np
import polars
import pytest

from mmedge import runtime
from mmedge.data.manifest.targets import joined
from mmedge.data.wizard.propose import Wishes, propose
from mmedge.errors import MmedgeError, UsageError
from mmedge.pipeline import fold as pipeline
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from mmedge.tasks import Head, multilabel
from mmedge.tasks.head import Target
from mmedge.tasks.multilabel import labels_in
from tests.conftest import parsed, tiny
from tests.heads import samples

TARGET, HEAD = Target(task="multilabel"), Head(task="multilabel", labels=("a", "b", "c"))


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        (None, None),
        ("rain", {"rain"}),
        ("rain; wind ;", {"rain", "wind"}),
        (";", set()),
        ('["rain", "a;b"]', {"rain", "a;b"}),
        ("[]", set()),
        ("[not json; wind", {"[not json", "wind"}),
    ],
)
def test_a_cell_names_any_number_of_labels_and_an_empty_one_is_unlabelled(cell, names):
    assert labels_in(cell, ";") == names


def test_targets_are_ones_and_zeros_and_nan_where_unlabelled():
    targets = multilabel.targets(["a;b", None, ";"], HEAD, TARGET)
    np.testing.assert_array_equal(targets, np.array([[1, 1, 0], [np.nan] * 3, [0, 0, 0]], np.float32))
    assert multilabel.known(targets).tolist() == [True, False, True]


def test_columns_of_zero_and_one_become_one_cell_and_a_half_filled_row_is_told():
    table = polars.DataFrame({"rain": ["1", "0", None], "wind": ["true", "0", None]})
    assert joined(table, ["rain", "wind"], "m.csv").to_list() == ['["rain", "wind"]', "[]", None]
    with pytest.raises(MmedgeError, match="must hold 0 or 1, not None") as raised:
        joined(polars.DataFrame({"rain": ["1"], "wind": [None]}), ["rain", "wind"], "m.csv")
    assert "row 1, column wind" in str(raised.value)


def test_rows_are_spread_by_their_rarest_label():
    rows = ["a", "a;b", None, ";", "a"]
    assert multilabel.strata(rows, TARGET) == ["a", "b", "", "(none)", "a"]
    assert multilabel.spread(multilabel.targets(rows, HEAD, TARGET))[[0, 1, 4]].tolist() == [0, 1, 0]


def test_a_few_labels_are_spread_over_the_labels():
    targets = multilabel.targets(["a"] * 90 + ["a;b"] * 10, HEAD, TARGET)
    ids = tuple(map(str, range(100)))
    given = samples(
        "train", ids, {"x": np.zeros((100, 1))}, np.ones((100, 1), bool), targets, np.arange(100), head=HEAD
    )
    kept = given.with_labels(8, seed=0)
    assert kept.labelled.sum() == 8 and np.nansum(kept.targets["logits"][:, 1]) == 4


LABELS = {"even": "02468", "large": "56789", "round": "0689"}


@pytest.fixture(scope="module")
def table(media, tmp_path_factory):
    """The digits as a JSONL table with a list of labels a row; every tenth training row has none known."""
    rows = polars.read_csv(media / "manifest.csv", infer_schema=False).to_dicts()
    file = tmp_path_factory.mktemp("several") / "m.jsonl"
    lines = []
    for number, row in enumerate(rows):
        known = row["split"] != "train" or number % 10
        names = [name for name, digits in LABELS.items() if row["label"] in digits] if known else None
        paths = {name: str(media / row[name]) for name in ("image", "audio")}
        lines.append(json.dumps({**row, **paths, "label": names}))
    file.write_text("\n".join(lines))
    return file


def recipe_values(table):
    values = tiny(table)
    values["data"]["task"] = "multilabel"
    values["export"]["targets"] = {"onnxruntime-cpu": {}}
    values["teacher"]["train"] |= {"epochs": 6, "views": 1, "augment": {}}
    values["distill"]["train"] |= {"epochs": 4, "views": 1, "augment": {}}
    return {key: value for key, value in values.items() if key != "prune"}


@pytest.mark.long
def test_a_run_of_several_labels_ends_in_a_bundle_that_names_them(table, tmp_path):
    outcome = pipeline.run(parsed(recipe_values(table)), tmp_path / "out", code=tmp_path, progress=Silent())
    stages = {stage["stage"]: stage for stage in outcome.report.record()["stages"]}
    quality = stages["teacher"]["quality"]
    assert quality["metric"] == "average_precision" and set(quality["others"]) == {"f1_micro", "f1", "all_labels_right"}
    chance = np.mean([len(digits) / 10 for digits in LABELS.values()])
    assert quality["value"] > chance + 0.1
    assert (
        stages["distill"]["notes"][0].startswith("216 of 240") and outcome.report.record()["controls"][0]["seeds"] == 1
    )
    engine = runtime.load(tmp_path / "out" / "bundle")
    row = polars.read_csv(tmp_path / "out" / "data" / "test.csv", infer_schema=False).row(0, named=True)
    answer = engine.predict(image=row["image"], audio=row["audio"])
    assert set(answer.probabilities) == set(LABELS) and answer.label is None and answer.value is None
    assert set(answer.labels) == {name for name, p in answer.probabilities.items() if p > 0.5}
    logits = engine.run(engine.preprocess([{"image": row["image"], "audio": row["audio"]}]))["logits"][0]
    heat = engine.contract.heads["logits"].temperature  # fitted on validation, kept in the bundle, told in the report
    assert heat != 1 and stages["export-onnxruntime-cpu"]["temperatures"]["logits"]["temperature"] == heat
    logits = logits / heat
    assert list(answer.probabilities.values()) == pytest.approx((1 / (1 + np.exp(-logits))).tolist(), rel=1e-5)
    assert answer.record().keys() == {"labels", "probabilities"}
    assert all(answer.probabilities[a] >= answer.probabilities[b] for a, b in pairwise(answer.labels))


def test_a_table_of_several_labels_is_checked_and_proposed_as_one(table, tmp_path):
    card = check(parsed(recipe_values(table)), tmp_path, code=tmp_path, progress=Silent(), media=False).record()
    assert card["errors"] == 0 and set(card["splits"]["train"]["classes"]) == set(LABELS)
    proposal = propose(table, Wishes("label"))
    assert (proposal.task, proposal.classes) == ("multilabel", 3)


def test_a_label_that_training_never_saw_is_an_error(table, tmp_path):
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    next(row for row in rows if row["split"] == "test")["label"] = ["odd"]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(MmedgeError, match="the label 'odd' of 1 test samples is not in the training split"):
        pipeline.run(parsed(recipe_values(file)), tmp_path / "out", code=tmp_path, progress=Silent(), only="teacher")
    card = check(parsed(recipe_values(file)), tmp_path, code=tmp_path, progress=Silent(), media=False).record()
    assert any(fault["kind"] == "unseen-label" and "'odd'" in fault["what"] for fault in card["faults"])


def test_settings_of_exclusive_classes_are_refused_with_their_keys(table):
    values = recipe_values(table)
    values["distill"]["loss"] = {"kind": "dkd"}
    values["teacher"]["train"]["class_weights"] = "balanced"
    with pytest.raises(UsageError) as raised:
        parsed(values)
    assert "distill.loss.kind: 'dkd'" in str(raised.value) and "teacher.train.class_weights" in str(raised.value)
