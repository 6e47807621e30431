"""Decoding: what cannot be decoded is told with its row, whoever decodes it; no kill and no full disk can break what is kept."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmedge.data.store import decode, room
from mmedge.errors import MmedgeError
from mmedge.progress import Silent
from mmedge.spec import ArraySpec, ImageSpec

SPEC = ImageSpec(kind="image", height=6, width=6, channels=1)
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for row in range(200):
        Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8)).save(tmp_path / f"{row}.png")
    for row in (3, 150, 199):
        (tmp_path / f"{row}.png").write_bytes(b"x")
    return tmp_path, [(row, (f"{row}.png",)) for row in range(200) if row != 7]


def decoded(pictures, workers=1):
    folder, jobs = pictures
    return decode.decode(
        decode.Modality("image", SPEC, folder), jobs, 200, folder / "x", workers=workers, progress=Silent()
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_faults_come_with_their_rows_and_the_other_rows_with_their_pixels(pictures, workers, monkeypatch):
    monkeypatch.setattr(decode, "_CHUNK_BYTES", 0)  # several chunks: one alone is no other process's
    shards, chunks = decoded(pictures, workers)
    faults = [fault for chunk in chunks for fault in chunk.faults]
    assert [row for row, _ in faults] == [3, 150, 199] and all("image" in what for _, what in faults)
    (x,) = shards.opened()
    assert x.dtype == np.uint8 and not x[[3, 7, 150, 199]].any()
    np.testing.assert_array_equal(x[42, 0], np.asarray(Image.open(pictures[0] / "42.png")))


class Killing(Silent):
    """Kills a worker, as a machine without memory does, when the second chunk is there; notes what is said."""

    def __init__(self):
        self.said, self.killed = [], 0

    def step(self, *told):
        for process in multiprocessing.active_children()[: not self.killed]:
            os.kill(process.pid, signal.SIGKILL)
            self.killed += 1

    def say(self, text):
        self.said.append(text)


@pytest.mark.long
def test_where_a_worker_is_killed_decoding_goes_on_in_this_process(pictures, monkeypatch):
    for name, few in (("_CHUNK_BYTES", 0), ("_CHUNK", 4)):
        monkeypatch.setattr(decode, name, few)
    folder, jobs = pictures
    progress = Killing()
    shards, chunks = decode.decode(
        decode.Modality("image", SPEC, folder), jobs, 200, folder / "y", workers=2, progress=progress
    )
    expected, found = decoded(pictures)
    # It is told unless the other worker had all that was left.
    assert progress.killed == 1 and all("of memory perhaps" in said for said in progress.said)
    assert chunks == found
    np.testing.assert_array_equal(shards.opened()[0], expected.opened()[0])


def test_a_script_without_a_main_guard_gets_its_samples_all_the_same(pictures):
    folder, _ = pictures
    script = folder / "script.py"
    script.write_text(
        "from pathlib import Path\nimport numpy as np\nfrom mmedge.data.store.decode import Modality, decode\n"
        "from mmedge.progress import Silent\nfrom mmedge.spec import ImageSpec\n"
        "folder = Path(__file__).parent\nspec = ImageSpec(kind='image', height=6, width=6, channels=1)\n"
        "jobs = [(row, (f'{row}.png',)) for row in range(200)]\n"
        "shards, chunks = decode(Modality('image', spec, folder), jobs, 200, folder / 'x', workers=2, progress=Silent())\n"
        "rows = [row for chunk in chunks for row, _ in chunk.faults]\n"
        "print(rows, int(shards.opened()[0].any(axis=(1, 2, 3)).sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout.splitlines()[-1] == "[3, 150, 199] 197", done.stderr[-2000:]


def test_a_full_disk_is_an_error_of_one_sentence_and_leaves_no_file(pictures, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MmedgeError, match="No space left"):
        decoded(pictures)
    assert not list(pictures[0].glob("*.npy")) and not list(pictures[0].glob("*.jsonl"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(MmedgeError, match=r"take up to 100.0 TB more, and the disk has .* free\n.*\n.*larger disk"):
        room.refuse_small_disk(10**14, tmp_path / "not" / "yet")
    assert room.store_bytes({"photo": ImageSpec(kind="image")}, 10**6) == {"photo": 150_528_000_000}


def test_what_a_kill_left_is_gone_on_from_and_what_has_changed_since_is_decoded_again(pictures, monkeypatch):
    folder, _ = pictures
    whole, chunks = decoded(pictures)
    expected = np.array(whole.opened()[0])
    lines = [json.dumps({"form": "uint8"}), *(json.dumps(vars(chunk)) for chunk in chunks[:2])]
    (folder / "x.jsonl").write_text("\n".join(lines) + '\n{"first": 96, "sha')
    whole.opened("r+")[0][40] += 1  # of the second chunk, rows 32 to 95
    asked = []
    plain = decode.decode_rows
    monkeypatch.setattr(decode, "decode_rows", lambda m, jobs, s: asked.append(jobs[0][0]) or plain(m, jobs, s))
    again, found = decoded(pictures)
    assert asked == [chunk.first for chunk in chunks[1:]] and found == chunks
    np.testing.assert_array_equal(again.opened()[0], expected)


@pytest.mark.parametrize("changed", ["a byte", "cut off", "gone"])
def test_files_that_have_changed_are_not_taken_for_whole(pictures, changed):
    shards, chunks = decoded(pictures)
    rows, hashes = [row for row, _ in pictures[1]], [chunk.sha256 for chunk in chunks]
    assert decode.unchanged(shards, rows, hashes)
    ((file, _),) = shards.files
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes({"a byte": content, "cut off": content[:-9], "gone": b""}[changed])
    assert not decode.unchanged(shards, rows, hashes)


@pytest.mark.parametrize(("odd", "form"), [(None, "float16"), (150, "float32")])
def test_numbers_are_kept_in_the_smallest_form_that_holds_every_one_of_them(tmp_path, odd, form):
    for row in range(200):
        np.save(tmp_path / f"{row}.npy", np.full(3, 1 / 3 if row == odd else row / 4, np.float32))
    modality = decode.Modality("x", ArraySpec(kind="array", shape=(3,)), tmp_path)
    jobs = [(row, (f"{row}.npy",)) for row in range(200)]
    shards, _ = decode.decode(modality, jobs, 200, tmp_path / "x", workers=1, progress=Silent())
    (x,) = shards.opened()
    assert shards.form == x.dtype.name == form and x[odd or 7][0] == (np.float32(1 / 3) if odd else 7 / 4)
