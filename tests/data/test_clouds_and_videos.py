"""Clouds and videos from a user's table: drafted by init, checked, prepared as the runtime preprocesses them, and changed."""

import numpy as np
import pytest
from PIL import Image

from mmedge import preprocess
from mmedge.data.augment import augmented
from mmedge.data.augment.chance import Chance
from mmedge.data.manifest.table import read_table
from mmedge.data.store.content import content_of
from mmedge.data.wizard.folders import write_table_of
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from mmedge.recipe import Augment
from mmedge.report.checked import Card
from mmedge.spec import AudioSpec, VideoSpec
from tests.data.made import parsed, write_table
from tests.data.wizard.test_propose import made

ROWS = 32


def cloud(number):
    rng = np.random.default_rng(number)
    return (rng.normal(size=(90, 4)) * [1, 1, 3 if number % 2 else 0.1, 1]).astype("<f4")


def write(folder, number):
    """A cloud in each of three forms, and a folder of six frames."""
    x = cloud(number)
    (folder / f"{number}.bin").write_bytes(x.tobytes())
    np.save(folder / f"lidar_{number}.npy", x[:, :3])
    kinds = "\n".join(f"property float {name}" for name in "xyz")
    header = f"ply\nformat ascii 1.0\nelement vertex 90\n{kinds}\nend_header\n"
    rows = "\n".join(" ".join(map(str, row)) for row in x[:, :3].tolist())
    (folder / f"{number}.ply").write_text(header + rows + "\n")
    (folder / f"film{number}").mkdir()
    for frame in range(6):
        pixels = np.full((12, 12, 3), 20 * frame + 100 * (number % 2), np.uint8)
        Image.fromarray(pixels).save(folder / f"film{number}/{frame}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clouds")
    for number in range(ROWS):
        write(folder, number)
    return folder


def row(number):
    return [f"{number}.bin", f"lidar_{number}.npy", f"{number}.ply", f"film{number}", "ab"[number % 2]]


@pytest.fixture(scope="module")
def drafted(folder):
    return made(folder, ["scan", "velodyne", "mesh", "film", "label"], row, ROWS)


def test_init_drafts_them_and_what_it_prepares_is_what_the_runtime_makes(folder, drafted):
    proposal, dataset = drafted
    specs = dataset.contract.modalities
    assert {name: spec.kind for name, spec in specs.items()} == {
        **dict.fromkeys(("scan", "velodyne", "mesh"), "points"),
        "film": "video",
    }
    assert specs["scan"].extras == ("intensity",) and specs["scan"].points == 128
    assert len(proposal.modalities) == 4
    split = dataset.train
    table = read_table(folder / "out" / "data" / "train.csv")
    for name, spec in specs.items():
        value = preprocess.tensor(spec, folder / table[name][0], name)
        assert np.array_equal(split.inputs[name][0], value) and value.any()


def test_a_folder_of_classes_is_a_table_of_its_clouds(tmp_path):
    for label in "ab":
        (tmp_path / "all" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "all" / label / f"{number}.ply").write_bytes(b"ply\n")
    assert write_table_of(tmp_path / "all", tmp_path / "m.csv") == 6
    assert (tmp_path / "m.csv").read_text().startswith("points,label")


def test_clouds_and_videos_that_are_none_are_told_by_check_each_with_its_row(folder, tmp_path):
    broken = {"empty": b"", "odd": b"abc", "nan": np.where(cloud(0) > 1, np.nan, cloud(0)).astype("<f4").tobytes()}
    for name, content in broken.items():
        (tmp_path / f"{name}.bin").write_bytes(content)
    (tmp_path / "bare").mkdir()
    cells = [[folder / f"{n}.bin", folder / f"film{n}", "ab"[n % 2]] for n in range(12)]
    for n, name in enumerate(broken):
        cells[n][0] = tmp_path / f"{name}.bin"
    cells[3][1], cells[4][1] = tmp_path / "bare", tmp_path / "none"
    write_table(tmp_path / "m.csv", [["scan", "film", "label"], *cells])
    modalities = {
        "scan": {"kind": "points", "points": 64},
        "film": {"kind": "video", "frames": 2, "height": 8, "width": 8},
    }
    recipe = parsed(
        {
            "schema": 1,
            "name": "x",
            "data": {"manifest": str(tmp_path / "m.csv"), "target": "label", "modalities": modalities},
        }
    )
    card: Card = check(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    told = {(fault.row, fault.column): fault.what for fault in card.faults if fault.severity == "error"}
    for (at, column), said in {
        (1, "scan"): "no point",
        (2, "scan"): "no whole number",
        (3, "scan"): "NaN",
        (4, "film"): "without images",
        (5, "film"): "does not exist",
    }.items():
        assert said in told[at, column], told


def test_all_frames_of_a_view_are_changed_alike(drafted):
    film = drafted[1].train.inputs["film"]
    index = np.arange(4)
    view = augmented(film, index, Augment(crop=0.3, flip=0.5, brightness=0.2), Chance(0, 0, index, len(film)))
    assert view.shape == film[index].shape and not np.array_equal(view, film[index])
    for sample in view:  # frames of one gray each: the crop shows nothing, the brightness is one factor for all
        steps = np.diff(sample.mean(axis=(1, 2, 3)))
        steps = steps[steps != 0]  # six frames stand for eight
        assert steps == pytest.approx(steps[:1].repeat(len(steps)), rel=0.05)


def test_a_folder_s_content_follows_its_files(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f/1.png").write_bytes(b"a")
    film = VideoSpec(kind="video")
    before = content_of(film, tmp_path / "f")
    (tmp_path / "f/2.png").write_bytes(b"b")
    assert before and before != content_of(film, tmp_path / "f")
    assert content_of(AudioSpec(kind="audio"), tmp_path / "f") is None is content_of(film, tmp_path / "g")
