"""Several heads at once: from the table to the bundle, with a figure, a loss and a teacher a head."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mmedge import runtime
from mmedge.artifact import Artifact
from mmedge.cli.predict import predict
from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.pipeline import fold
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from mmedge.recipe import Train
from mmedge.report.html import write_html
from mmedge.report.record import parsed as parsed_report
from mmedge.report.schema import Report
from mmedge.report.table import print_report
from mmedge.spec import ArraySpec
from mmedge.tasks import Head
from mmedge.training.objectives import Weighing
from tests.conftest import parsed
from tests.data.made import write_table

pytestmark = pytest.mark.long

GRADES = ("slow", "steady", "fast")


def recipe_values(manifest):
    """Diabetes patients, as scikit-learn has them: how the disease progressed (a number), and how fast (a grade)."""
    train = {"epochs": 12, "batch_size": 32, "learning_rate": 0.01}
    return {
        "schema": 1,
        "name": "diabetes",
        "data": {
            "manifest": str(manifest),
            "modalities": {
                "body": {"kind": "tabular", "columns": ["age", "sex", "bmi", "bp"]},
                "blood": {"kind": "tabular", "columns": [f"s{n}" for n in range(1, 7)]},
            },
            "targets": {"progress": {"task": "regression"}, "pace": {"task": "ordinal", "order": list(GRADES)}},
        },
        "teacher": {"model": {"encoders": {"body": {"widths": [32]}, "blood": {"widths": [32]}}}, "train": train},
        "distill": {
            "model": {"encoders": {"body": {"widths": [8]}, "blood": {"widths": [8]}}, "embedding": 8, "hidden": 8},
            "train": train | {"head_weights": "uncertainty"},
            "controls": {"seeds": 1},
        },
        "quantize": {"max_drop": 1.0, "max_subset_drop": 1.0, "calibration": 40},
        "export": {"targets": {"onnxruntime-cpu": {}}},
        "measure": {"runs": 20, "warmup": 2, "bootstrap": 100},
        "gates": {"distill": {"heads.pace.quality": 0.4, "heads.progress.subset.blood": 0.1}},
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Every seventh row lacks the grade, every eleventh the number, as tables of several targets do."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    edges = np.quantile(data.target, [1 / 3, 2 / 3])
    rows = [[*data.feature_names, "progress", "pace"]]
    for number, (features, value) in enumerate(zip(data.data, data.target)):
        grade = GRADES[int((value > edges).sum())]
        rows.append([*features, "" if number % 11 == 0 else value, "" if number % 7 == 0 else grade])
    return write_table(tmp_path_factory.mktemp("diabetes") / "m.csv", rows)


@pytest.fixture(scope="module")
def ran(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("heads") / "out"
    outcome = fold.run(parsed(recipe_values(manifest)), out, code=out.parent, progress=Silent())
    return out, outcome.report.record()


def test_a_model_of_two_heads_has_a_figure_of_each_and_of_both(ran):
    _, report = ran
    stages = {stage["stage"]: stage for stage in report["stages"]}
    for name in ("teacher", "distill", "quantize", "export-onnxruntime-cpu"):
        record = stages[name]
        number, grade = (record["heads"][head] for head in ("progress", "pace"))
        assert (number["quality"]["metric"], grade["quality"]["metric"]) == ("r2", "accuracy")
        assert record["quality"]["metric"] == "mean"
        mean = (number["quality"]["value"] + grade["quality"]["value"]) / 2
        assert record["quality"]["value"] == pytest.approx(mean)
        assert set(grade["quality"]["others"]) == {"mae_ranks", "kappa"}
        assert set(grade["subsets"]) == set(number["subsets"]) == {"body", "blood", "body+blood"}
        # Each head is judged over the rows that have its target: one in seven lacks the grade, one in eleven the number.
        assert number["quality"]["n"] != grade["quality"]["n"] < record["quality"]["n"]
    assert stages["teacher"]["heads"]["progress"]["quality"]["value"] > 0.2
    assert stages["teacher"]["heads"]["pace"]["quality"]["value"] > 0.45


def test_page_and_table_show_each_head(ran, tmp_path, capfd):
    _, report = ran
    write_html(parsed_report(report, Report), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    quality = next(s for s in report["stages"] if s["stage"] == "distill")["heads"]["pace"]["quality"]
    assert "<h2>Heads</h2>" in page and f"{quality['value']:.3f} <span" in page
    assert f"kappa {quality['others']['kappa']:.3f}" in page
    print_report(parsed_report(report, Report))
    assert f"distill: pace accuracy {quality['value']:.3f}" in capfd.readouterr().err


def test_gates_may_name_a_head(ran):
    _, report = ran
    gates = {gate["name"]: gate for stage in report["stages"] for gate in stage["gates"]}
    record = next(stage for stage in report["stages"] if stage["stage"] == "distill")
    assert gates["heads.pace.quality"]["value"] == record["heads"]["pace"]["quality"]["value"]
    assert gates["heads.progress.subset.blood"]["value"] == record["heads"]["progress"]["subsets"]["blood"]


def test_one_engine_gives_all_outputs_and_a_prediction_has_a_prediction_a_head(ran, manifest):
    out, _ = ran
    engine = runtime.load(out / "bundle")
    given = {"body": [50.0, 1.0, 25.0, 90.0], "blood": [180.0, 100.0, 50.0, 4.0, 4.6, 88.0]}
    prediction = engine.predict(**given)
    assert set(prediction.heads) == {"progress", "pace"} and prediction.label is None
    assert prediction.heads["pace"].label in GRADES
    outputs = engine.run(engine.preprocess([given]))
    assert outputs["progress"].shape == (1, 1) and outputs["pace"].shape == (1, 2)
    assert prediction.heads["progress"].value == pytest.approx(float(outputs["progress"][0, 0]))
    record = json.loads(json.dumps(prediction.record()))
    assert record["pace"]["rank"] == GRADES.index(record["pace"]["label"]) and "value" in record["progress"]
    alone = engine.predict(blood=given["blood"])
    assert alone.heads["progress"].value != prediction.heads["progress"].value


def test_the_command_line_tells_every_heads_prediction(ran):
    out, _ = ran
    cells = ["--body", "50,1,25,90", "--blood", "180,100,50,4,4.6,88"]
    told = CliRunner().invoke(predict, [str(out / "bundle"), *cells])
    lines = [line.split("\t") for line in told.output.splitlines()]
    assert told.exit_code == 0 and [line[0] for line in lines] == ["progress", "pace", "pace", "pace"]
    assert float(lines[0][1]) > 0 and {line[1] for line in lines[1:]} == set(GRADES)


def test_check_tells_each_heads_targets(manifest, tmp_path):
    card = check(parsed(recipe_values(manifest)), tmp_path, code=tmp_path, progress=Silent(), media=False).record()
    assert card["errors"] == 0, card["faults"]
    heads = card["splits"]["train"]["heads"]
    assert set(heads["pace"]["classes"]) == set(GRADES) and heads["progress"]["target"]["min"] >= 25
    assert card["labels"] == {"progress": [], "pace": list(GRADES)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"targets": {"pace": {"task": "ordinl"}}}}, "no task 'ordinl' (did you mean 'ordinal'?)"),
        ({"gates": {"teacher": {"heads.pase.quality": 0.5}}}, "no head 'pase' (did you mean 'pace'?)"),
        ({"gates": {"teacher": {"heads.pace.qualty": 0.5}}}, "unknown figure 'heads.pace.qualty'"),
        ({"gates": {"teacher": {"heads.pace.subset.blod": 0.5}}}, "no subset of modalities 'blod'"),
        ({"distill": {"train": {"head_weights": {"price": 2.0}}}}, "no head 'price'"),
        ({"teacher": {"classes": {"a": "b"}}}, "classes: are of one head"),
        ({"data": {"task": "regression"}}, "with 'targets', each head has its own task"),
        ({"data": {"targets": {"body": {"task": "regression"}}}}, "a head's name"),
        ({"data": {"targets": {"a": {"column": "pace"}, "b": {"column": "pace"}}}}, "two heads of 'targets' read one"),
    ],
)
def test_a_recipe_whose_heads_do_not_fit_is_refused_with_the_key(manifest, change, said):
    values = recipe_values(manifest)
    for section, keys in change.items():
        values[section] = values[section] | keys
    with pytest.raises(UsageError) as raised:
        parsed(values)
    assert said in str(raised.value)


def test_a_head_whose_column_is_missing_is_told_by_check_and_run(manifest, tmp_path):
    values = recipe_values(manifest)
    values["data"]["targets"]["price"] = {"task": "regression"}
    card = check(parsed(values), tmp_path, code=tmp_path, progress=Silent(), media=False).record()
    (fault,) = (fault for fault in card["faults"] if fault["kind"] == "missing-column")
    assert fault["column"] == "price" and "data.targets.price" in fault["todo"]
    with pytest.raises(UsageError, match=r"(?s)no column 'price'.*data\.targets\.price"):
        fold.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())


def test_given_weights_multiply_the_heads_losses_and_uncertainty_learns_them():
    spec = {"x": ArraySpec(kind="array", shape=(1,))}
    heads = {"a": Head(task="regression"), "b": Head(task="regression")}
    contract = Contract(modalities=spec, heads=heads)
    each = {"a": torch.tensor(2.0), "b": torch.tensor(0.5)}
    given = Weighing(contract, Train(head_weights={"a": 3.0}))
    assert given(each).item() == pytest.approx(3 * 2 + 0.5) and not list(given.parameters())
    learned = Weighing(contract, Train(head_weights="uncertainty"))
    assert learned(each).item() == pytest.approx(2.5)  # exp(-0) * loss + 0 / 2
    learned(each).backward()
    slopes = {name: value.grad.item() for name, value in learned.log_variances.items()}
    assert slopes == pytest.approx({"a": -2 + 0.5, "b": -0.5 + 0.5})


def test_an_old_runtime_is_told_in_a_sentence_of_a_task_that_it_does_not_know(ran):
    from mmedge.artifact import contract_of, read
    from mmedge.errors import MmedgeError

    out, _ = ran
    found: Artifact = read(out / "bundle")
    strange = json.loads(json.dumps(found.meta["contract"]).replace('"ordinal"', '"segmentation"'))
    with pytest.raises(MmedgeError, match="this version knows no task 'segmentation'"):
        contract_of(replace(found, meta=found.meta | {"contract": strange}))
