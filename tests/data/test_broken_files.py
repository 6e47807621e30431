"""Files that libraries read without a word, or that would wait, fill the memory or fail without a place."""

import os
import shutil

import numpy as np
import pytest
import soundfile

from mmedge.data.store import samples
from mmedge.errors import MmedgeError
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from tests.data.made import five_kinds, parsed, recipe_values

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    five_kinds(folder, 24, holes=False)
    return folder


def ogg_cut(path):
    soundfile.write(path, NOISE, 8000, format="OGG")
    path.write_bytes(path.read_bytes()[:20_000])


def rate(hertz):
    def write(path):
        content = bytearray(path.read_bytes())
        content[24:28] = hertz.to_bytes(4, "little")
        path.write_bytes(content)

    return write


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def loop(path):
    path.unlink()
    path.symlink_to(path)


def folder(path):
    path.unlink()
    path.mkdir()


def huge(path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999999999), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + head)


@pytest.mark.parametrize(
    "column, broken, kind, said",
    [
        ("sound", ogg_cut, "unreadable", "truncated"),
        ("sound", rate(1), "unreadable", "1 Hz, which no sound has"),
        ("sound", rate(2**31 - 1), "unreadable", "which no sound has"),
        ("sound", pipe, "missing-file", "does not exist"),
        ("picture", loop, "missing-file", "does not exist"),
        ("picture", folder, "missing-file", "does not exist"),
        ("motion", huge, "unreadable", "larger than memory"),
        ("motion", lambda path: np.save(path, np.ones((2, 50), complex)), "unreadable", "complex"),
        ("motion", lambda path: np.save(path, np.full((2, 50), 1e39)), "unreadable", "infinite"),
    ],
)
def test_a_broken_file_is_told_with_its_row_and_column_by_check_and_by_run(whole, tmp_path, column, broken, kind, said):
    shutil.copytree(whole, tmp_path / "t", dirs_exist_ok=True)
    cell = {"sound": "s/4.wav", "picture": "p/4.png", "motion": "m/4.npy"}[column]
    broken(tmp_path / "t" / cell)
    recipe = parsed(recipe_values(tmp_path / "t/manifest.csv") | {"teacher": {}, "distill": None})
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent()).record()
    (fault,) = [fault for fault in card["faults"] if fault["severity"] == "error"]
    assert (fault["kind"], fault["row"], fault["column"]) == (kind, 5, column) and said in fault["what"]
    with pytest.raises(MmedgeError, match=said) as raised:
        samples.prepare(recipe, tmp_path / "other", code=tmp_path, progress=Silent())
    lines = str(raised.value).splitlines()
    assert len(lines) <= 3 and "manifest.csv, row 5, column" in lines[1]


def test_a_whole_file_of_every_format_is_no_fault(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "t", dirs_exist_ok=True)
    for number, form in enumerate(("WAV", "FLAC", "OGG", "MP3", "AIFF")):
        (tmp_path / f"t/s/{number}.wav").unlink()
        soundfile.write(tmp_path / f"t/s/{number}.wav", NOISE[:8000], 8000, format=form)
    soundfile.write(tmp_path / "t/s/5.wav", NOISE[:8000].reshape(-1, 8), 8000, subtype="PCM_24")
    recipe = parsed(recipe_values(tmp_path / "t/manifest.csv") | {"teacher": {}, "distill": None})
    card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent()).record()
    assert card["errors"] == 0, card["faults"]
