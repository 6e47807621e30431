"""Alignment of streams: known partners, tolerances, groups, and a report of what met nothing."""

import json

import pytest

from mmedge.data.manifest import source
from mmedge.data.store import samples
from mmedge.errors import MmedgeError
from mmedge.progress import Silent
from tests.data.made import parsed, write_table


def joined(tmp_path, method, tolerance=0.5, *, stream=None, rows=None, **keys):
    write_table(tmp_path / "m.csv", rows or [["time", "y"], ["1.0", "a"], ["2.0", "b"], ["9.0", "a"], ["", "b"]])
    write_table(tmp_path / "s.csv", stream or [["t", "v"], ["0.8", "10"], ["1.1", "20"], ["1.6", "30"], ["2.45", "50"]])
    data = {
        "manifest": str(tmp_path / "m.csv"),
        "target": "y",
        "align": {
            "sensor": {"file": str(tmp_path / "s.csv"), "time": "t", "method": method, "tolerance": tolerance, **keys}
        },
        "modalities": {"x": {"kind": "tabular", "columns": ["v"]}},
    }
    table, reports = source.arranged(parsed({"schema": 1, "name": "t", "data": data}).data, 0)
    return [None if cell is None else float(cell) for cell in table["v"]], reports[0]


@pytest.mark.parametrize(
    "method, expected",
    [
        ("nearest", [20, 30, None, None]),
        ("previous", [10, 30, None, None]),
        ("linear", [10 + 10 * 2 / 3, 30 + 20 * 0.4 / 0.85, None, None]),
        ("window", [15, 40, None, None]),
    ],
)
def test_each_method_takes_the_rows_it_says(tmp_path, method, expected):
    values, report = joined(tmp_path, method)
    assert values == [pytest.approx(value) if value is not None else None for value in expected]
    assert (report.rows, report.aligned, report.dropped, report.stream_rows) == (4, 2, 2, 4)


def test_the_report_counts_what_was_used_and_how_far_apart_it_was(tmp_path):
    _, report = joined(tmp_path, "nearest")
    assert report.stream_rows_unused == 2
    assert report.seconds_apart == pytest.approx({"p50": 0.25, "p95": 0.385, "max": 0.4}, abs=0.02)
    assert "2 of 4 rows" in str(report)


def test_nothing_beyond_the_tolerance_is_a_partner(tmp_path):
    values, report = joined(tmp_path, "nearest", 0.2)
    assert values == [20, None, None, None] and report.dropped == 3


@pytest.mark.parametrize("method", ["nearest", "previous", "linear", "window"])
def test_only_rows_of_the_same_unit_meet(tmp_path, method):
    rows = [["time", "who", "y"], ["1", "p", "a"], ["1", "q", "b"]]
    stream = [["t", "who", "v"], ["1.0", "p", "5"], ["1.0", "q", "7"]]
    assert joined(tmp_path, method, rows=rows, stream=stream, by="who")[0] == [5, 7]


def test_iso_times_are_read_as_seconds(tmp_path):
    rows = [["time", "y"], ["2026-01-01T10:00:00", "a"], ["2026-01-01T10:00:10", "b"]]
    stream = [["t", "v"], ["2026-01-01T10:00:00.3", "1"], ["2026-01-01T10:00:10.1", "2"]]
    values, report = joined(tmp_path, "nearest", rows=rows, stream=stream)
    assert values == [1, 2] and report.seconds_apart["max"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"time": "tt"}, "no column 'tt'"),
        ({"columns": ["w"]}, "no column 'w'"),
        ({"by": "who"}, "no column 'who'"),
        ({"time": "v", "columns": ["t"], "on": "y"}, "neither a number of seconds"),
        ({"method": "linear", "stream": [["t", "v"], ["1", "high"]]}, "is no number"),
        ({"stream": [["t", "v", "y"], ["1", "1", "1"]]}, "both the manifest and the stream"),
    ],
)
def test_a_faulty_stream_is_told(tmp_path, keys, said):
    with pytest.raises(MmedgeError, match=said):
        joined(tmp_path, keys.pop("method", "nearest"), **keys)


def test_a_run_writes_the_report_beside_its_manifests(tmp_path):
    rows = [["time", "y"], *([str(i), "ab"[i % 2]] for i in range(40))]
    stream = [["t", "v"], *([str(i + 0.1), str(i)] for i in range(40))]
    write_table(tmp_path / "m.csv", rows)
    write_table(tmp_path / "s.csv", stream)
    data = {
        "manifest": str(tmp_path / "m.csv"),
        "target": "y",
        "align": {"sensor": {"file": str(tmp_path / "s.csv"), "time": "t", "tolerance": 0.5}},
        "modalities": {"x": {"kind": "tabular", "columns": ["v"]}},
    }
    recipe = parsed({"schema": 1, "name": "t", "data": data})
    samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    assert json.loads((tmp_path / "out/data/source.json").read_text())["facts"]["align"][0]["aligned"] == 40
