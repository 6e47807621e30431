"""Tar shards as a manifest: keys paired, values as columns, files read where they lie, and shards that end early told."""

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.datasets import load_sample_images

from mmedge.data.manifest import shards
from mmedge.data.manifest.table import read_table
from mmedge.data.store import samples
from mmedge.errors import MmedgeError
from mmedge.pipeline.check import check
from mmedge.preprocess.members import content, exists
from mmedge.progress import Silent
from tests.conftest import parsed

COUNT, EACH = 40, 10


@pytest.fixture(scope="module")
def photographs():
    """Bytes of real photographs' parts: as JPEG, and where it loses nothing as PNG."""
    found = []
    for number in range(COUNT):
        part = load_sample_images().images[number % 2][number * 5 : number * 5 + 48, number * 9 : number * 9 + 64]
        held = io.BytesIO()
        Image.fromarray(part).save(held, "PNG" if number % 4 == 0 else "JPEG")
        found.append(held.getvalue())
    return found


def written(folder, photographs, *, names=("train-{:03d}", "train-{:03d}", "val-{:03d}", "test-{:03d}")):
    """Four shards of ten samples, of the same names as files, and the shards' paths."""
    rng, files = np.random.default_rng(0), []
    (folder / "files").mkdir(parents=True)
    for shard, name in enumerate(names):
        files.append(folder / f"{name.format(shard)}.tar")
        with tarfile.open(files[-1], "w") as tar:
            for row in range(shard * EACH, (shard + 1) * EACH):
                sound = io.BytesIO()
                soundfile.write(sound, rng.normal(0, 0.1, 1600).astype(np.float32), 16000, format="WAV")
                members = {"jpg": photographs[row], "wav": sound.getvalue(), "cls": str(row % 2).encode()}
                members |= {
                    "json": json.dumps({"number": row, "who": None, "box": [1, 2]}).encode(),
                    "TXT": b"a text\n",
                }
                for ending, held in members.items():
                    (folder / "files" / f"{row:04d}.{ending}").write_bytes(held)
                    entry = tarfile.TarInfo(f"a.b/{row:04d}.{ending}")
                    entry.size = len(held)
                    tar.addfile(entry, io.BytesIO(held))
    return files


def recipe(manifest, *, stream=False, **data):
    modalities = {"jpg": {"kind": "image", "height": 12, "width": 16}, "numbers": {"kind": "tabular", "columns": ["number"]}}  # fmt: skip
    given = {"manifest": str(manifest), "target": "cls", "id": "__key__", "split": "__split__", "stream": stream}
    return parsed({"name": "t", "data": {"modalities": modalities, **given, **data}})


@pytest.mark.parametrize("naming", ["train-{000..001}.tar", "*.tar", "", "{train-000,val-002}.tar"])
def test_a_row_a_key_with_values_as_columns_and_files_addressed_where_they_lie(tmp_path, photographs, naming):
    written(tmp_path, photographs)
    table = read_table(tmp_path / naming).sort("__key__")
    assert table.columns == ["__key__", "__shard__", "__split__", "jpg", "wav", "cls", "number", "who", "box", "txt"]
    rows = {"": 40, "*.tar": 40}.get(naming, 20)
    assert table.height == rows and table["__key__"][3] == "a.b/0003" and table["number"][3] == "3"
    assert table["cls"].to_list()[:4] == ["0", "1", "0", "1"] and table["who"].null_count() == rows
    assert table["box"][0] == "[1, 2]" and table["txt"][0] == "a text" and table["__shard__"][0] == "train-000"
    for ending in ("jpg", "wav"):
        assert content(table[ending][3]) == (tmp_path / "files" / f"0003.{ending}").read_bytes()
        assert exists(table[ending][3]) and not exists(table[ending][3].replace("+", "99999999+"))


def test_samples_of_shards_are_those_of_their_files(tmp_path, photographs):
    written(tmp_path, photographs)
    found = {}
    for stream in (False, True):
        dataset = samples.prepare(recipe(tmp_path / "*.tar", stream=stream), tmp_path / f"out{stream}", code=tmp_path, progress=Silent())  # fmt: skip
        assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (20, 10, 10)
        found[stream] = {split: np.asarray(getattr(dataset, split).inputs["jpg"]) for split in ("train", "test")}
    rows = [f"{row},files/{row:04d}.jpg,{row},{row % 2},{split}" for row, split in enumerate(np.repeat(["train", "train", "val", "test"], EACH))]  # fmt: skip
    (tmp_path / "m.csv").write_text("\n".join(["__key__,jpg,number,cls,__split__", *rows]))
    dataset = samples.prepare(recipe(tmp_path / "m.csv"), tmp_path / "outfiles", code=tmp_path, progress=Silent())
    for split in ("train", "test"):
        expected = np.asarray(getattr(dataset, split).inputs["jpg"])
        np.testing.assert_array_equal(found[False][split], expected)
        np.testing.assert_array_equal(found[True][split], expected)


def test_a_shard_that_ends_early_is_named_and_beyond_the_share_an_error(tmp_path, photographs):
    files = written(tmp_path, photographs)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    table = read_table(tmp_path / "*.tar")
    left = [key for key in table["__key__"] if key < "a.b/0020"]
    assert 10 < len(left) < 20 and all(exists(cell) for cell in table["jpg"])
    with pytest.raises(MmedgeError, match=r"1 of 4 shards end early: after .* bytes.*\n.*train-001.*\n.*data.unreadable \(0.01\)"):  # fmt: skip
        samples.prepare(recipe(tmp_path / "*.tar"), tmp_path / "out", code=tmp_path, progress=Silent())
    card = check(recipe(tmp_path / "*.tar"), tmp_path / "out", code=tmp_path, progress=Silent())
    assert "cut-shard" in {fault.kind for fault in card.faults if fault.severity == "error"}
    allowed = recipe(tmp_path / "*.tar", unreadable=0.3)
    dataset = samples.prepare(allowed, tmp_path / "out", code=tmp_path, progress=Silent())
    assert len(dataset.train) == len(left) and len(dataset.facts.cut_shards) == 1
    # Whole samples, and no mark of the end: told as well.
    files[1].write_bytes(whole.rstrip(b"\0") + b"\0" * (-len(whole.rstrip(b"\0")) % 512))
    (fault,) = shards.faults(tmp_path / "*.tar", 0.5)
    assert fault.severity == "warning" and "without the mark" in fault.what


def test_members_are_addressed_from_everywhere_and_shards_that_are_joined_are_in_the_key(
    tmp_path, photographs, monkeypatch
):
    files = written(tmp_path, photographs)
    monkeypatch.chdir(tmp_path)
    cells = read_table(Path("train-000.tar"))["jpg"]
    monkeypatch.chdir("/")
    assert all(cell.startswith(str(files[0])) and exists(cell) for cell in cells)
    (tmp_path / "m.csv").write_text("id,y\n")
    joined = {"clips": SimpleNamespace(file=tmp_path)}
    data = SimpleNamespace(manifest=tmp_path / "m.csv", align=joined, redact=None)
    before = samples._source_state(data, tmp_path, Silent())
    assert before == samples._source_state(data, tmp_path, Silent())
    files[3].unlink()
    assert before != samples._source_state(data, tmp_path, Silent())


def test_a_damaged_header_in_the_middle_is_told_and_not_taken_for_the_end(tmp_path, photographs):
    files = written(tmp_path, photographs)
    whole = files[1].read_bytes()
    place = whole.index(b"a.b/0015.jpg")
    files[1].write_bytes(whole[: place + 148] + b"damaged!" + whole[place + 156 :])  # its checksum
    (fault,) = shards.faults(tmp_path / "*.tar", 0.5)
    assert "what follows is no member" in fault.what and "train-001" in str(fault.file)
    assert max(key for key in read_table(tmp_path / "*.tar")["__key__"] if key < "a.b/0020") == "a.b/0013"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("gzip", r"the shard is no tar.*\n.*001.tar\n.*unpack .tar.gz"),
        ("missing", r"there is no such shard\n.*train-002.tar"),
        ("pattern", r"there is no such shard\n.*zzz"),
        ("nothing", r"hold no sample"),
        ("twice", r"'cls' twice\n.*again.tar"),
        ("json", r"cannot be read.*\n.*bad.tar!.*json"),
        ("endless", r"more than 1,000,000 shards"),
    ],
)
def test_what_is_no_shard_is_told_with_its_name(tmp_path, photographs, case, said):
    files = written(tmp_path, photographs)
    manifest = tmp_path / "train-{000..001}.tar"
    members = {"twice": {"k.cls": b"1", "k.json": b'{"cls": 2}'}, "json": {"k.json": b"{"}, "nothing": {"README": b"x"}}
    if case == "gzip":
        import gzip

        files[1].write_bytes(gzip.compress(files[1].read_bytes()))
    elif case in ("missing", "pattern", "endless"):
        named = {"missing": "train-{000..004}.tar", "pattern": "zzz-*.tar", "endless": "train-{0..99999999999}.tar"}
        manifest = tmp_path / named[case]
    else:
        manifest = tmp_path / {"twice": "again.tar", "json": "bad.tar", "nothing": "no.tar"}[case]
        with tarfile.open(manifest, "w") as tar:
            for name, held in members[case].items():
                entry = tarfile.TarInfo(name)
                entry.size = len(held)
                tar.addfile(entry, io.BytesIO(held))
    with pytest.raises(MmedgeError, match=said):
        read_table(manifest)
