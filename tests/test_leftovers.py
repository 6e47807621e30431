"""What a killed process left is removed by the next one, and nothing else is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mmedge import artifact, leftovers
from mmedge import recipe as recipes
from mmedge.data.store import samples
from mmedge.data.store.folder import held
from mmedge.pipeline import fold as pipeline
from mmedge.progress import Silent
from tests.conftest import child_environment, parsed

pytest.importorskip("fcntl")

# Begins to write everywhere in a run's folder and in the temporary one, tells that it does, and waits.
WRITER = """\
import sys, time
from contextlib import ExitStack
from pathlib import Path
from mmedge import artifact
from mmedge.leftovers import scratch
out = Path(sys.argv[1])
with ExitStack() as stack:
    folder, _ = stack.enter_context(artifact.creating(out / "distill", stage="x", key="k", parent=None))
    (folder / "weights").write_text("a user's")
    for name in ("report.json", "data/train.csv", ".work/recipes/a.json", ".work/tensors/image-1/spec.json"):
        stack.enter_context(artifact.replacing(out / name)).write_text("a user's")
    (stack.enter_context(scratch()) / "graph.onnx").write_text("a user's")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder of the test's own, for this process and its children."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    leftovers._remove_scratch.cache_clear()
    return folder


def begun(out):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out)], env=child_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def unfinished(*folders):
    return sorted(str(path) for folder in folders for path in folder.rglob("*") if "mmedge-" in path.name)


def test_what_a_killed_process_left_anywhere_in_a_runs_folder_is_removed_at_the_next_start(tmp_path, temporary):
    out = tmp_path / "out"
    process = begun(out)
    process.kill()
    process.wait()
    assert len(unfinished(out, temporary)) == 6
    with held(out):
        assert not unfinished(out, temporary)


def test_what_a_living_process_writes_and_what_others_hid_there_is_left_alone(tmp_path, temporary):
    out = tmp_path / "out"
    process = begun(out)
    (out / ".notes").write_text("a user's")
    (temporary / "mmedge-of-another").mkdir()
    try:
        before = unfinished(out, temporary)
        with held(out):
            assert unfinished(out, temporary) == before and len(before) == 7
    finally:
        process.kill()
        process.wait()
    leftovers._remove_scratch.cache_clear()  # as in the next process
    with held(out):
        assert [Path(name).name for name in unfinished(out, temporary)] == ["mmedge-of-another"]
    assert (out / ".notes").read_text() == "a user's"


def test_a_zipped_bundles_folder_is_there_while_the_bundle_is_held_and_goes_with_it(bundle, temporary):
    from mmedge import bundle as bundles

    bundles.pack(bundle, temporary / "b.zip")
    held = bundles.read(temporary / "b.zip")
    assert held.folder.parent == temporary and (held.folder / "manifest.json").is_file()
    leftovers._remove_scratch.cache_clear()
    with leftovers.scratch():
        assert (held.folder / "manifest.json").is_file()
    folder = held.folder
    del held
    assert not folder.exists()


def test_the_folder_of_an_interrupted_zip_goes_at_the_next_start(temporary):
    (temporary / "mmedge-scratch-dead").mkdir()
    with leftovers.scratch() as folder:
        assert [path.name for path in temporary.iterdir()] == [folder.name]


def test_a_link_is_not_followed_to_what_it_leads_to(tmp_path, temporary):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("theirs")
    (tmp_path / "out").mkdir()
    os.symlink(tmp_path / "theirs", tmp_path / "out" / f".a{leftovers.BESIDE}x")
    with held(tmp_path / "out"):
        assert (tmp_path / "theirs" / "file").read_text() == "theirs"


def test_an_artifact_that_was_put_aside_when_its_writer_was_killed_comes_back(tmp_path):
    with artifact.creating(tmp_path / "out" / "teacher", stage="teacher", key="k", parent=None) as (folder, _):
        (folder / "weights").write_text("hours of training")
    aside = tmp_path / "out" / f".teacher{leftovers.BESIDE}old-4194304"
    os.replace(tmp_path / "out" / "teacher", aside)
    with held(tmp_path / "out"):
        assert artifact.read(tmp_path / "out" / "teacher").file("weights").read_text() == "hours of training"
    shutil.copytree(tmp_path / "out" / "teacher", aside)
    with held(tmp_path / "out"):  # a whole one stands in its place
        assert not aside.exists()


@pytest.mark.long
def test_a_run_that_is_killed_at_any_moment_leaves_nothing_behind_after_the_next(finished, values, tmp_path, temporary):
    """Killed while it decodes, trains and writes; the next start goes on and cleans up."""
    recipe = tmp_path / "r.yaml"
    values |= {"distill": None, "prune": None, "quantize": None}
    values["export"] = {"targets": {"onnxruntime-cpu": {}}}
    recipe.write_text(json.dumps(values))
    command = [sys.executable, "-m", "mmedge", "run", str(recipe), "--out", str(tmp_path / "out")]
    for moment in (".work/tensors/audio-*", ".work/teacher-*/*", ".*.mmedge-*"):
        process = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 60
        while not list((tmp_path / "out").glob(moment)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    outcome = pipeline.run(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    assert outcome.exit_code == 0
    assert not unfinished(tmp_path / "out", temporary)
    assert not list((tmp_path / "out" / ".work").glob("teacher-[0-9a-f]*"))
    kinds = {path.suffix for path in (tmp_path / "out" / ".work" / "tensors").rglob("*") if path.is_file()}
    assert kinds == {".json", ".npy"} and not list((tmp_path / "out" / ".work").rglob("*.raw.npy"))
    assert not list((tmp_path / "out" / ".work").rglob("*.part.npy"))


def test_what_an_interrupted_stage_kept_under_another_key_goes_when_the_stage_is_done(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    (out / ".work" / f"distill-{'0' * 16}").mkdir()
    (out / ".work" / "teacher-outputs").mkdir(exist_ok=True)
    pipeline.run(recipes.load(finished.recipe_file), out, code=finished.out.parent, progress=Silent())
    assert not (out / ".work" / f"distill-{'0' * 16}").exists() and (out / ".work" / "teacher-outputs").is_dir()


def test_a_cache_whose_stamp_is_missing_is_made_again(finished, values, tmp_path):
    out = finished.copied(tmp_path / "out")
    whole = samples.prepare(parsed(values), out, code=tmp_path, progress=Silent())
    for stamp in (out / ".work" / "tensors").glob("*/decoded.json"):
        stamp.unlink()
    again = samples.prepare(parsed(values), out, code=tmp_path, progress=Silent())
    assert again.sha256 == whole.sha256
