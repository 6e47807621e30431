"""Decoding: what cannot be decoded is returned with its row, whoever decodes it; and no worker can break it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmedge.data.store import decode
from mmedge.errors import MmedgeError
from mmedge.progress import Silent
from mmedge.spec import ImageSpec

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


@pytest.mark.parametrize("workers", [1, 2])
def test_faults_come_with_their_rows_and_the_other_rows_with_their_pixels(pictures, workers):
    folder, jobs = pictures
    faults = decode.decode(
        decode.Modality("image", SPEC, folder), jobs, 200, folder / "x.npy", workers=workers, progress=Silent()
    )
    assert [row for row, _ in faults] == [3, 150, 199] and all("image" in what for _, what in faults)
    x = np.load(folder / "x.npy")
    assert not x[[3, 7, 150, 199]].any()
    np.testing.assert_allclose(x[42, 0], np.asarray(Image.open(folder / "42.png")) / 255, atol=1e-6)


def test_a_script_without_a_main_guard_gets_its_samples_all_the_same(pictures):
    folder, _ = pictures
    script = folder / "script.py"
    script.write_text(
        "from pathlib import Path\nimport numpy as np\nfrom mmedge.data.store.decode import Modality, decode\n"
        "from mmedge.progress import Silent\nfrom mmedge.spec import ImageSpec\n"
        "folder = Path(__file__).parent\nspec = ImageSpec(kind='image', height=6, width=6, channels=1)\n"
        "jobs = [(row, (f'{row}.png',)) for row in range(200)]\n"
        "faults = decode(Modality('image', spec, folder), jobs, 200, folder / 'x.npy', workers=2, progress=Silent())\n"
        "print([row for row, _ in faults], int(np.load(folder / 'x.npy').any(axis=(1, 2, 3)).sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout.splitlines()[-1] == "[3, 150, 199] 197", done.stderr[-2000:]


def test_a_full_disk_is_an_error_of_one_sentence(pictures, monkeypatch):
    folder, jobs = pictures

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MmedgeError, match="No space left"):
        decode.decode(decode.Modality("image", SPEC, folder), jobs, 200, folder / "x.npy", workers=1, progress=Silent())
    assert not (folder / "x.npy").exists()
