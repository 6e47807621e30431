"""The record that tools outside rely on, field by field, and the bundle."""

import itertools
import json
import math

import pytest

from mmedge import __version__, artifact

NUMBER = (int, float)
QUALITY = {"metric": str, "value": NUMBER, "ci95": list, "n": int, "split": str, "others": dict}
LATENCY = {
    "target": str,
    "batch": int,
    "threads": int,
    "p50_ms": NUMBER,
    "p95_ms": NUMBER,
    "p99_ms": NUMBER,
    "mean_ms": NUMBER,
    "runs": int,
    "cv": NUMBER,
    "ratio_to_teacher": NUMBER,
}
STAGE = {
    "stage": str,
    "parent": (str, type(None)),
    "artifact": str,
    "sha256": str,
    "params": int,
    "macs": int,
    "size_bytes": int,
    "seconds": NUMBER,
    "quality_validation": dict,
    "quality": dict,
    "subsets": dict,
    "gates": list,
    "status": str,
    "notes": list,
}
REPORT = {
    "schema": int,
    "mmedge": str,
    "recipe": dict,
    "seed": int,
    "machine": dict,
    "data": dict,
    "stages": list,
    "controls": list,
    "verdict": str,
}


def has(record, fields):
    for name, kind in fields.items():
        assert name in record, name
        assert isinstance(record[name], kind) and not isinstance(record[name], bool), (name, record[name])


def numbers(value):
    match value:
        case dict():
            for item in value.values():
                yield from numbers(item)
        case list():
            for item in value:
                yield from numbers(item)
        case float():
            yield value


def test_the_file_is_the_outcome_and_holds_no_nan(finished):
    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((finished.out / "report.json").read_text(), parse_constant=refuse)
    read_again = {name: value for name, value in read.items() if name != "stages"}
    assert read_again == {name: value for name, value in finished.report.items() if name != "stages"}
    assert all(math.isfinite(number) for number in numbers(read))


def test_the_head_of_the_report(finished):
    report = finished.report
    has(report, REPORT)
    assert report["schema"] == 1 and report["mmedge"] == __version__ and report["verdict"] == "not judged"
    assert {name: report["data"][name] for name in ("train", "validation", "test")} == {
        "train": 240,
        "validation": 50,
        "test": 60,
    }
    assert len(report["data"]["sha256"]) == 64 and report["recipe"]["measure"]["runs"] == 50


def test_every_stage_has_every_field(finished):
    for stage in finished.report["stages"]:
        has(stage, STAGE)
        assert stage["status"] in ("ran", "cached", "skipped")
        assert len(stage["sha256"]) == 64 and stage["sha256"] == artifact.read(finished.out / stage["artifact"]).sha256
        for field, split, n in (("quality", "test", 60), ("quality_validation", "validation", 50)):
            quality = stage[field]
            has(quality, QUALITY)
            assert (quality["metric"], quality["split"], quality["n"]) == ("accuracy", split, n)
            low, high = quality["ci95"]
            assert 0 <= low <= quality["value"] <= high <= 1 and "f1" in quality["others"]
        assert list(stage["subsets"]) == ["image", "audio", "image+audio"]
        assert stage["subsets"]["image+audio"] == stage["quality"]["value"]


def test_all_stages_that_run_here_are_timed_in_one_run(finished):
    timed = [stage for stage in finished.report["stages"] if "latency" in stage]
    assert [stage["stage"] for stage in timed] == ["teacher", "distill", "prune", "quantize", "export-onnxruntime-cpu"]
    teacher = timed[0]["latency"]
    for stage in timed:
        latency = stage["latency"]
        has(latency, LATENCY)
        assert (latency["target"], latency["batch"], latency["threads"], latency["runs"]) == (
            "onnxruntime-cpu",
            1,
            1,
            50,
        )
        assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
        assert latency["ratio_to_teacher"] == pytest.approx(latency["p50_ms"] / teacher["p50_ms"])
    for parent, child in itertools.pairwise(timed):
        assert child["latency"]["ratio_to_parent"] == pytest.approx(
            child["latency"]["p50_ms"] / parent["latency"]["p50_ms"]
        )
    assert "ratio_to_parent" not in teacher


def test_a_latency_that_could_not_be_measured_is_absent_and_a_note_says_why(finished):
    stage = finished.stage("export-tensorrt-rtx")
    assert "latency" not in stage and any("latency not measured" in note for note in stage["notes"])
    assert stage["size_bytes"] == (finished.out / "export-tensorrt-rtx" / "engine.plan").stat().st_size


def test_the_control_has_its_gain_with_an_interval(finished):
    (control,) = finished.report["controls"]
    has(control, {"name": str, "quality": dict, "gain": NUMBER, "gain_ci95": list, "seeds": int})
    assert control["name"] == "no-distillation" and control["seeds"] == 1
    low, high = control["gain_ci95"]
    assert low <= control["gain"] <= high
    has(control["quality"], QUALITY)
    assert control["gain"] == pytest.approx(control["distilled_by_seed"][0] - control["control_by_seed"][0])


def test_the_manifests_used_lie_beside_the_report(finished):
    for split, n in (("train", 240), ("validation", 50), ("test", 60)):
        assert len((finished.out / "data" / f"{split}.csv").read_text().splitlines()) == n + 1


def test_the_bundle_holds_the_graph_of_the_cpu_export_and_all_that_an_app_needs(finished):
    bundle = finished.artifact("bundle")
    export = finished.artifact("export-onnxruntime-cpu")
    assert bundle.parent == export.sha256
    assert bundle.file("model.onnx").read_bytes() == export.file("model.onnx").read_bytes()
    assert set(bundle.meta["targets"]) == {"onnxruntime-cpu", "tensorrt-rtx"}
    assert bundle.meta["contract"]["heads"]["logits"]["labels"] == [str(digit) for digit in range(10)]
    modalities = bundle.meta["contract"]["modalities"]
    assert len(modalities["image"]["mean"]) == 1 and len(modalities["audio"]["std"]) == 16
    figures = bundle.meta["figures"]["onnxruntime-cpu"]
    assert figures["quality"] == finished.stage("export-onnxruntime-cpu")["quality"]
    assert bundle.meta["verdict"] == "not judged"


def test_nothing_in_a_run_is_a_pickle(finished):
    for path in finished.out.rglob("*"):
        assert path.suffix not in (".pt", ".pth", ".pkl", ".bin"), path
