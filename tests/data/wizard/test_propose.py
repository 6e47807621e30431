"""What ``init`` proposes for tables of many shapes: boxes, streams, times, groups, splits, and reasons for the rest."""

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from mmedge import recipe as recipes
from mmedge.data.store import samples
from mmedge.data.wizard.draft import recipe_text
from mmedge.data.wizard.propose import Wishes, keys_of, propose
from mmedge.errors import UsageError
from mmedge.pipeline.check import check
from mmedge.progress import Silent
from tests.data.made import write_table


def made(folder, header, row, count=40, streams=()):
    """(the proposal, the prepared data of the recipe that it becomes)."""
    manifest = write_table(folder / "m.csv", [header, *(row(i) for i in range(count))])
    proposal = propose(manifest, Wishes(streams=streams))
    (folder / "my.yaml").write_text(recipe_text(proposal, folder / "my.yaml", None), encoding="utf-8")
    recipe = recipes.load(folder / "my.yaml")
    card = check(recipe, folder / "out", code=folder, progress=Silent()).record()
    assert card["errors"] == 0, card["faults"]
    return proposal, samples.prepare(recipe, folder / "out", code=folder, progress=Silent())


def roles(proposal):
    return {column.name: column.role for column in proposal.columns}


@pytest.fixture
def pictures(tmp_path):
    """Files i/0.png …: left half black, right half white."""
    (tmp_path / "i").mkdir()
    for number in range(40):
        pixels = np.zeros((40, 40), np.uint8)
        pixels[:, 20:] = 255 - number
        Image.fromarray(pixels).save(tmp_path / f"i/{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    "edges, cells, expected",
    [
        (("left", "top", "right", "bottom"), (20, 5, 40, 25), ["left", "top", "right", "bottom"]),
        (("x", "y", "w", "h"), (20, 5, 20, 20), ["x", "y", "+w", "+h"]),
        (("bbox_x", "bbox_y", "bbox_width", "bbox_height"), (20, 5, 20, 20), None),
    ],
)
def test_columns_of_a_region_beside_an_image_become_its_box(pictures, edges, cells, expected):
    proposal, data = made(pictures, ["image", *edges, "label"], lambda i: [f"i/{i}.png", *cells, "ab"[i % 2]])
    assert all(roles(proposal)[edge] == "box" for edge in edges)
    assert expected is None or proposal.modalities["image"].box == tuple(expected)
    # Whatever is in the box is white, a little darker from file to file: nothing of the black half was taken.
    spec = data.contract.modalities["image"]
    assert spec.mean[0] > 0.9 and np.ptp(np.asarray(data.train.inputs["image"][0])) == 0


def test_a_stream_with_times_is_joined_by_time_and_unit(pictures):
    rows = [[k / 10, f"s{u}", 100 * u + k] for u in range(8) for k in range(60)]
    write_table(pictures / "imu.csv", [["time", "subject", "force"], *rows])
    proposal, data = made(
        pictures,
        ["time", "subject", "picture", "label"],
        lambda i: [round(i // 8 + 0.25, 2), f"s{i % 8}", f"i/{i}.png", "ab"[i // 8 % 2]],
        streams=[pictures / "imu.csv"],
    )
    written = YAML(typ="safe").load((pictures / "my.yaml").read_text())["data"]["align"]["imu"]
    assert written["by"] == "subject" and written["method"] == "linear" and written["tolerance"] == 0.2
    assert roles(proposal)["time"] == "time" and proposal.modalities["tabular"].columns == ("force",)
    (record,) = data.facts.align
    assert record.aligned == 40 and record.dropped == 0 and record.seconds_apart["max"] == 0.05


def test_a_stream_without_times_is_refused_with_the_columns_there_are(pictures):
    write_table(pictures / "s.csv", [["a", "b"], [1, 2]])
    write_table(pictures / "m.csv", [["time", "y"], [1, "a"], [2, "b"]])
    with pytest.raises(UsageError, match="no column of times to join by; there are a, b"):
        propose(pictures / "m.csv", Wishes("y", streams=[pictures / "s.csv"]))


@pytest.mark.parametrize(
    "spelled", [("train", "val", "test"), ("Training", "dev", "TESTING"), ("训练", "验证", "测试")]
)
def test_splits_are_known_in_the_spellings_people_use(tmp_path, spelled):
    proposal, data = made(
        tmp_path,
        ["a", "part", "y"],
        lambda i: [i * 37 % 101, spelled[0 if i % 8 < 4 else i % 8 // 2 - 1], "uv"[i % 2]],
    )
    assert proposal.split == "part" and (len(data.train), len(data.validation), len(data.test)) == (20, 10, 10)


def test_times_people_and_few_units_are_no_features_and_each_says_why(tmp_path):
    proposal, _ = made(
        tmp_path,
        ["编号", "name", "when", "subject", "a", "y"],
        lambda i: [f"样本{i}", f"Ann Lee{i}", f"2026-01-{1 + i % 28:02d}", f"p{i % 3}", i * 37 % 101, "uv"[i % 2]],
    )
    assert roles(proposal) == {
        "编号": "id",
        "name": "unused",
        "when": "time",
        "subject": "unused",
        "a": "number",
        "y": "target",
    }
    assert list(proposal.modalities) == ["tabular"]


@pytest.mark.parametrize(
    "write, said",
    [
        (lambda f, i: f.write_text("1,2\n3,4\n"), "no header line"),
        (lambda f, i: f.write_text("a;b\n1;2\n3;4\n"), "separated by ';'"),
        (lambda f, i: np.save(f.with_suffix(".npy"), np.zeros((3, 8 + i % 2, 8))), "several shapes"),
    ],
)
def test_series_that_cannot_be_taken_are_refused_with_the_reason(tmp_path, write, said):
    for number in range(20):
        write(tmp_path / f"{number}.csv", number)
    ending = next(iter(tmp_path.iterdir())).suffix
    rows = [["motion", "y"], *([f"{i}{ending}", "uv"[i % 2]] for i in range(20))]
    with pytest.raises(UsageError, match=said):
        propose(write_table(tmp_path / "m.tsv.csv", rows), Wishes("y"))


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        (lambda i: (3, 50 + i % 3), {"channels": 3, "length": 51}),
        (lambda i: (50 + i % 3, 3), {"channels": 3, "length": 51, "time_first": True}),
        (lambda i: (50, 3), {"channels": 3, "length": 50, "time_first": True}),
    ],
)
def test_series_of_arrays_have_their_channels_on_the_shorter_axis_of_one_size(tmp_path, shape, keys):
    """[time, channels] is how most libraries hold them: they were taken for arrays without an order in time."""
    for number in range(20):
        np.save(tmp_path / f"{number}.npy", np.zeros(shape(number)))
    rows = [["motion", "y"], *([f"{i}.npy", "uv"[i % 2]] for i in range(20))]
    modality = propose(write_table(tmp_path / "m.csv", rows), Wishes("y")).modalities["motion"]
    assert keys_of(modality) == {"kind": "sensor", "column": "motion", **keys}


def drafted(folder, proposal):
    """(the recipe that is drafted, its text)."""
    text = recipe_text(proposal, folder / "my.yaml", "my_code")
    (folder / "my.yaml").write_text(text, encoding="utf-8")
    return recipes.load(folder / "my.yaml"), text


def errors_of(recipe, folder):
    card = check(recipe, folder / "out", code=folder, progress=Silent()).record()
    return [fault for fault in card["faults"] if fault["severity"] == "error"]


def test_a_target_of_arrays_is_drafted_as_frames(tmp_path):
    random = np.random.default_rng(0)
    for number in range(40):
        np.save(tmp_path / f"{number}.npy", random.normal(size=(5, 3)).astype(np.float32))
    rows = [["id", "a", "b", "mel"], *([f"r{i}", *random.normal(size=2), f"{i}.npy"] for i in range(40))]
    manifest = write_table(tmp_path / "m.csv", rows)
    proposal = propose(manifest, Wishes(target="mel"))
    assert propose(manifest, Wishes(target="mel", task="frames")) == proposal
    recipe, text = drafted(tmp_path, proposal)
    assert recipe.data.task == "frames" and list(recipe.data.modalities) == ["tabular"] and "# shape: " in text
    assert not errors_of(recipe, tmp_path)
    with pytest.raises(UsageError, match=r"no paths of \.npy files"):
        propose(manifest, Wishes(target="id", task="frames"))


@pytest.fixture
def captions(pictures):
    words = ["a red bus", "a big cat", "two small dogs", "the old tree house"]
    rows = [["image", "caption"], *([f"i/{i}.png", f"{words[i % 4]} of {i} parts"] for i in range(40))]
    return write_table(pictures / "m.csv", rows)


def test_a_target_of_texts_is_drafted_as_generation_where_it_is_asked_for_and_else_told(captions):
    with pytest.raises(UsageError, match="too many for classes") as error:
        propose(captions, Wishes(target="caption"))
    assert "--task generation" in str(error.value)
    recipe, text = drafted(captions.parent, propose(captions, Wishes(target="caption", task="generation")))
    assert recipe.data.heads["text"].text.length == 16
    assert recipe.distill.model.text_decoder.kind == "gru" and "factory" not in text


@pytest.mark.slow
def test_a_drafted_generation_has_no_fault(captions):
    recipe, _ = drafted(captions.parent, propose(captions, Wishes(target="caption", task="generation")))
    assert not errors_of(recipe, captions.parent)


def test_a_text_beside_other_inputs_could_be_written_instead_and_the_recipe_says_how(pictures):
    rows = [["image", "caption", "label"]]
    rows += [[f"i/{i}.png", f"the picture number {i} of many", "ab"[i % 2]] for i in range(40)]
    proposal = propose(write_table(pictures / "m.csv", rows), Wishes(target="label"))
    (said,) = [
        line for line in recipe_text(proposal, pictures / "my.yaml", None).splitlines() if "written instead" in line
    ]
    assert said.startswith("  # to have caption written") and "task: generation, target: caption, text: {" in said
