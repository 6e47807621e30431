"""The Python app's loop, fed from files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

APP = Path(__file__).parents[2] / "deploy/python/app.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from tests.deploy.linear import CONTRACT, write_bundle

    return write_bundle(tmp_path_factory.mktemp("app") / "bundle", CONTRACT)


@pytest.mark.parametrize(
    "arguments, said, code",
    [
        ([], "nothing to answer on", 2),
        (["--img", "x"], "unrecognized arguments: --img", 2),
        (["--image", "nowhere"], "nowhere is no folder with files in it", 2),
        (["--image", ".", "--fps", "0"], "--fps is above 0", 2),
    ],
)
def test_the_app_tells_what_it_cannot_do(bundle, arguments, said, code):
    done = subprocess.run([sys.executable, str(APP), str(bundle), *arguments], capture_output=True, text=True)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr


def test_without_pictures_the_app_answers_on_what_there_is(bundle, tmp_path):
    from tests.deploy.linear import write_sound

    (tmp_path / "sounds").mkdir()
    write_sound(tmp_path / "sounds/0.wav")
    command = [sys.executable, str(APP), str(bundle), "--audio", str(tmp_path / "sounds")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_the_app_answers_for_every_frame(tmp_path, task):
    from tests.deploy.linear import CONTRACT, write_bundle, write_sound

    head = CONTRACT.heads["logits"].model_copy(update={"task": task})
    bundle = write_bundle(tmp_path / "bundle", CONTRACT.model_copy(update={"heads": {"logits": head}}))
    for name in ("frames", "sounds"):
        (tmp_path / name).mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"frames/{number}.png")
    write_sound(tmp_path / "sounds/0.wav")
    command = [sys.executable, str(APP), str(bundle), "--fps", "50"]
    done = subprocess.run(
        [*command, "--image", str(tmp_path / "frames"), "--audio", str(tmp_path / "sounds")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert all(set(line["ages_s"]) == {"image", "audio"} for line in lines)
    for line in lines:
        likeliest = sorted("abcd", key=lambda label: -line["probabilities"][label])
        if task == "classification":
            assert line["label"] == likeliest[0]
        else:
            assert line["labels"] == [label for label in likeliest if line["probabilities"][label] > 0.5]
