"""report.json and manifest.json of a real run are what their published schemas say, field by field."""

import json

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from mmedge.report.schema import Report
from mmedge.stages.results import DistillResult, ExportResult, Manifest, PruneResult, QuantizeResult, StageResult


def unknown(value, path=""):
    """The places of all that a model's schema does not name."""
    if isinstance(value, BaseModel):
        yield from (f"{path}.{name}" for name in value.model_extra or ())
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from unknown(item, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from unknown(item, f"{path}.{number}")


def test_the_report_of_a_run_is_read_by_its_model_and_written_the_same(finished):
    text = (finished.out / "report.json").read_text()
    report = Report.model_validate_json(text)
    assert report.record() == json.loads(text)
    assert not list(unknown(report))
    assert [stage.stage for stage in report.stages][:2] == ["teacher", "distill"] and report.stages[0].parent is None


def test_the_manifests_of_a_run_are_read_by_their_models_and_written_the_same(finished):
    kinds = {"teacher": StageResult, "distill": DistillResult, "prune": PruneResult, "quantize": QuantizeResult}
    for folder in sorted(path.parent for path in finished.out.glob("*/manifest.json")):
        text = (folder / "manifest.json").read_text()
        manifest = Manifest.model_validate_json(text)
        assert manifest.record() == json.loads(text), folder
        own = kinds.get(folder.name, ExportResult if folder.name.startswith("export") else None)
        if own is not None:
            meta = own.model_validate(json.loads(text)["meta"])
            assert meta.record() == json.loads(text)["meta"]
            assert [place for place in unknown(meta) if not place.startswith(".engine.")] == [], folder


def test_a_report_without_a_verdict_or_with_a_word_for_a_figure_is_refused(finished):
    report = json.loads((finished.out / "report.json").read_text())
    with pytest.raises(ValidationError, match="verdict"):
        Report.model_validate({name: value for name, value in report.items() if name != "verdict"})
    report["stages"][0]["quality"]["value"] = "good"
    with pytest.raises(ValidationError, match=r"stages\.0\.quality\.value"):
        Report.model_validate(report)


@pytest.mark.parametrize(
    ("asked", "file"),
    [((), "report.json"), (("manifest",), "distill/manifest.json"), (("manifest",), "bundle/manifest.json")],
)
def test_the_schemas_are_published_and_hold_of_a_run(finished, mmedge, asked, file):
    said = mmedge("report", "--schema", *asked)
    assert said.code == 0
    judge = Draft202012Validator(json.loads(said.out))
    record = json.loads((finished.out / file).read_text())
    assert not list(judge.iter_errors(record))
    del record["mmedge"]
    assert [error.validator for error in judge.iter_errors(record)] == ["required"]


def test_without_a_run_the_report_says_what_it_wants(mmedge):
    said = mmedge("report")
    assert said.code == 2 and "a run is missing" in said.err
