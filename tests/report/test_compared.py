"""Runs side by side, and a run for a pull request: every figure is the report's own."""

import copy
import json
import re

import pytest

from mmedge.report.compared import compare, comparison_markdown, markdown
from mmedge.report.schema import Report


@pytest.fixture
def two(finished, tmp_path):
    """Two folders with a report: the run's own, and one with other figures, a failed gate and other data."""
    other = copy.deepcopy(finished.report)
    other["stages"][0]["quality"]["value"] += 0.05
    other["stages"][1]["latency"]["p50_ms"] *= 2
    other["stages"][1]["gates"] = [{"name": "quality", "limit": 0.9, "value": 0.1, "passed": False}]
    other["data"]["sha256"] = "0" * 64
    other |= {"seed": 7, "verdict": "fail"}
    for name, report in (("before", finished.report), ("after", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    return tmp_path / "before", tmp_path / "after", other


def test_two_runs_stand_side_by_side_with_what_changed(two, mmedge, finished):
    before, after, other = two
    said = mmedge("report", before, after, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [run["name"] for run in found["runs"]] == ["before", "after"]
    assert found["runs"][1]["failed"] == ["distill: quality"] and "not the same data" in found["notes"][0]
    rows = {(row["stage"], row["figure"], row["unit"]): row["values"] for row in found["rows"]}
    first, second = rows["teacher", "accuracy", ""]
    assert first["value"] == finished.report["stages"][0]["quality"]["value"] and "change" not in first
    assert second["value"] == other["stages"][0]["quality"]["value"] and second["change"] == pytest.approx(0.05)
    first, second = rows["distill", "latency p50", "ms"]
    assert second["change"] == pytest.approx(first["value"])
    assert ("prune", "image", "") in rows and ("export-onnxruntime-cpu", "latency p50", "of teacher") in rows
    assert "(+0.050)" in said.err and "after: verdict fail; not passed: distill: quality" in said.err
    page = (after / "comparison.html").read_text()
    assert "(+0.050)" in page and not (before / "comparison.html").exists()


def test_markdown_for_a_pull_request_has_the_same_figures_in_whole_tables(two, mmedge, finished):
    before, after, _ = two
    said = mmedge("report", before, after, "--format", "md")
    assert said.code == 0 and "(+0.050)" in said.out and "not passed" not in said.err
    single = mmedge("report", before, "--format", "md").out
    assert single == markdown(Report.model_validate(finished.report))
    quality = finished.report["stages"][0]["quality"]
    assert "| teacher | {:.3f} [{:.3f}, {:.3f}] |".format(quality["value"], *quality["ci95"]) in single
    assert not (before / "report.html").exists()
    for text in (said.out, single):
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            assert len({row.count("|") for row in table.splitlines()}) == 1, table


def test_a_failed_gate_and_a_users_own_words_stand_in_markdown_as_they_are(two):
    *_, other = two
    other["recipe"]["name"] = "a|b <i>x"
    text = markdown(Report.model_validate(other))
    assert "| distill | quality | 0.9 | 0.1 | **failed** |" in text and text.startswith("### a\\|b &lt;i>x: fail")


def test_a_stage_and_a_figure_that_one_run_lacks_are_blank(finished):
    report = Report.model_validate(finished.report)
    lesser = report.model_copy(update={"stages": [report.stages[0].model_copy(update={"latency": None})]})
    found = compare([("all", report), ("one", lesser)])
    rows = {(row.stage, row.figure, row.unit): row.values for row in found.rows}
    assert rows["prune", "size", "bytes"][1] is None and rows["teacher", "latency p50", "ms"][1] is None
    assert rows["teacher", "size", "bytes"][1].change == 0
    assert "| prune | size |" in comparison_markdown(found) and "| — |" in comparison_markdown(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"schema": 2, "mmedge": "9.0"}', "format 2, by mmedge 9.0"),
        ('{"schema": 1, "stages": []}', "this is not a report that mmedge reads: "),
        ('{"schema": 1, "sta', "cannot be read"),
        ("[]", "not a report"),
    ],
)
def test_a_report_of_another_version_or_damaged_is_named(two, mmedge, text, expected):
    before, after, _ = two
    (after / "report.json").write_text(text)
    said = mmedge("report", before, after)
    assert said.code == 1 and expected in said.err and str(after / "report.json") in said.err
    assert not (after / "comparison.html").exists()


def test_what_cannot_be_compared_is_told(two, mmedge, tmp_path):
    before, _, _ = two
    assert mmedge("report", before, tmp_path / "none").code == 2
    said = mmedge("report", before, before, "--json")
    assert [run["name"] for run in json.loads(said.out)["runs"]] == ["before (1)", "before (2)"]
    assert mmedge("report", before, "--json", "--format", "md").code == 2
