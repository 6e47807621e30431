"""Nothing personal leaves a run: neither the report nor the bundle names a sample, a file, a folder or a text of the user's."""

import csv

import pytest

from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from mmedge.report.html import write_html
from tests.data.made import MODALITIES, five_kinds, parsed, recipe_values


def shared(out):
    """{file: bytes} of what a user hands on: the report, its page and the bundle."""
    files = [out / "report.json", out / "report.html", *(p for p in (out / "bundle").rglob("*") if p.is_file())]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def rows_of(out):
    for split in ("train", "validation", "test"):
        with (out / "data" / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)


def leaks(out, words):
    given = shared(out)
    assert {"report.json", "report.html", "bundle/manifest.json", "bundle/model.onnx"} <= given.keys()
    words = {word for word in words if word}
    # JSON may write what is not ASCII as escapes.
    spelled = {word: (word.encode(), word.encode("unicode_escape")) for word in words}
    return [
        (name, word) for name, held in given.items() for word, ways in spelled.items() if any(w in held for w in ways)
    ]


def test_report_and_bundle_name_no_sample_no_file_and_no_folder(finished, media):
    rows = list(rows_of(finished.out))
    words = {row[column] for row in rows for column in ("id", "image", "audio", "group")}
    words |= {row[column].rpartition("/")[2] for row in rows for column in ("image", "audio")}
    assert len(rows) == 350 and len(words) > 700
    assert leaks(finished.out, words | {str(media), str(finished.out), str(finished.out.parent)}) == []


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A finished run of texts and tables, by the teacher alone."""
    folder = tmp_path_factory.mktemp("told")
    chosen = {name: MODALITIES[name] for name in ("words", "facts")}
    values = recipe_values(five_kinds(folder), modalities=chosen, group="who")
    model = {"encoders": {"words": {"widths": [8, 8]}, "facts": {"widths": [8]}}, "embedding": 8, "hidden": 8}
    values |= {"teacher": {"model": model, "train": {"epochs": 1, "batch_size": 8}}, "distill": None}
    values |= {"measure": {"runs": 20, "warmup": 1, "bootstrap": 100}}
    outcome = pipeline.run(parsed(values), folder / "out", code=folder, progress=Silent())
    write_html(outcome.report, folder / "out" / "report.html")
    return folder / "out"


@pytest.mark.long
def test_report_and_bundle_hold_no_whole_text_and_no_name_of_a_group(told):
    rows = list(rows_of(told))
    texts = {row["words"] for row in rows} | {row["words"].rpartition(" no. ")[0] for row in rows}
    people = {row["group"] for row in rows}
    assert len(rows) == 60 and len(texts) > 40 and len(people) == 15
    assert leaks(told, texts | people | {row["id"] for row in rows}) == []
