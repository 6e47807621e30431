"""The recipe that captions emoji, in a tiny form: drawn shapes and what they are; and what an app may give it."""

import csv
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from mmedge import runtime
from mmedge.pipeline import fold
from mmedge.progress import Silent
from tests.conftest import REPOSITORY, parsed

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 230), "yellow": (230, 220, 40)}
SIDES = {"triangle": 3, "square": 4, "circle": 40}


def draw(path, colour, sides, random):
    picture = Image.new("RGB", (32, 32), "white")
    radius, turn, middle = random.uniform(7, 13), random.uniform(0, 2), random.uniform(13, 19, 2)
    angles = [turn + 2 * math.pi * number / sides for number in range(sides)]
    corners = [(middle[0] + radius * math.cos(a), middle[1] + radius * math.sin(a)) for a in angles]
    ImageDraw.Draw(picture).polygon(corners, fill=COLOURS[colour])
    picture.save(path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("captions"), np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "picture", "name", "kin"])
        for number in range(480):
            colour, shape = list(COLOURS)[number % 4], list(SIDES)[number % 3]
            draw(folder / f"{number}.png", colour, SIDES[shape], random)
            table.writerow([number, f"{number}.png", f"a {colour} {shape}", number])
    values = YAML(typ="safe").load(REPOSITORY / "recipes" / "emoji-captions.yaml")
    values["data"]["manifest"] = str(folder / "table.csv")
    del values["data"]["split"], values["teacher"]["preprocessing"]
    values["data"]["text"] = {"length": 8, "vocabulary": 300, "beams": 2}
    values["teacher"]["model"] = {
        "encoders": {"picture": {"widths": [8, 16, 32]}},
        "text_decoder": {"kind": "transformer", "width": 32, "depth": 2},
    }
    values["teacher"]["train"] |= {"epochs": 8, "batch_size": 16, "learning_rate": 0.004}
    values["distill"]["train"] |= {"epochs": 8, "batch_size": 16, "learning_rate": 0.008}
    values["distill"] |= {"labels": 20, "controls": {"seeds": 1}}
    values |= {"measure": {"runs": 20, "warmup": 2, "bootstrap": 100}, "gates": {"distill": {"quality": 0.3}}}
    outcome = fold.run(parsed(values), folder / "out", code=folder, progress=Silent())
    return folder, outcome.report.record(), outcome.exit_code


@pytest.mark.slow
def test_the_recipe_goes_the_whole_road_with_a_transformer_that_teaches_and_a_gru_that_learns(ran):
    _, report, code = ran
    assert code == 0 and {control["name"] for control in report["controls"]} == {"no-distillation"}
    assert [stage["stage"] for stage in report["stages"]] == [
        "teacher",
        "distill",
        "quantize",
        "export-onnxruntime-cpu",
        "export-openvino-cpu",
    ]


@pytest.mark.slow
def test_a_picture_of_one_pixel_is_captioned_and_texts_are_the_same_in_a_batch(ran, tmp_path):
    engine = runtime.load(ran[0] / "out" / "bundle")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    found = engine.predict(picture=str(tmp_path / "one.png"))
    assert found.text and found.score <= 0 and found.ended in (True, False)
    alone = engine.predict(picture=str(ran[0] / "7.png"))
    both = engine.predict(picture=[str(ran[0] / "7.png"), str(tmp_path / "one.png")])
    assert [one.text for one in both] == [alone.text, found.text]
