"""The command line: help with an example, exact exit codes, one JSON document, no traceback."""

import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple

import click
import numpy as np
import onnx
import pytest

from mmedge.cli.main import verbs
from mmedge.cli.predict import _cells, _show
from mmedge.errors import MmedgeError
from mmedge.pipeline import fold as pipeline
from mmedge.tasks import Prediction
from tests.conftest import child_environment

Usage = namedtuple("Usage", "total used free")


def document(said):
    return json.loads(said.out)


@pytest.mark.parametrize("verb", verbs())
def test_help_of_a_verb_has_examples_that_its_options_take(mmedge, verb):
    from mmedge.cli.main import cli

    said = mmedge(verb, "--help")
    assert said.code == 0
    examples = re.search(r"Examples?:\n((?:\s+mmedge .*\n)+)", said.out)
    assert examples, said.out
    command = cli.get_command(click.Context(cli), verb)
    for line in examples[1].strip().splitlines():
        program, named, *arguments = shlex.split(line)
        assert (program, named) == ("mmedge", verb)
        command.make_context(verb, arguments)  # raises where an option of the example is not one


def test_help_lists_every_verb_and_no_command_is_help(mmedge):
    said = mmedge("--help")
    assert said.code == 0
    for verb, what in verbs().items():
        assert re.search(rf"^  {verb}\s+{re.escape(what[:30])}", said.out, re.M)


def test_the_version_is_the_packages(mmedge):
    import mmedge as package

    assert package.__version__ in mmedge("--version").out


def test_an_unknown_verb_is_told_with_the_one_that_was_meant(mmedge):
    said = mmedge("trian")
    assert said.code == 2 and "did you mean 'train'" in said.err and said.out == ""


@pytest.mark.parametrize(
    "line", ["run", "run r.yaml --ouut x", "run r.yaml more", "predict", "report", "check", "run r.yaml --set"]
)
def test_a_wrong_call_is_exit_2_and_with_json_one_document(mmedge, line):
    said = mmedge(*shlex.split(line))
    assert said.code == 2 and said.out == "" and "Traceback" not in said.err
    first, *rest = said.err.splitlines()
    assert first.startswith("error: ") and len(rest) == 1 and rest[0] == f"  do: mmedge {line.split()[0]} --help"
    said = mmedge(*shlex.split(line.replace(" --set", "")), "--json", *(["--set"] if "--set" in line else []))
    assert said.code == 2 and document(said)["error"]["exit_code"] == 2


def test_an_unknown_key_is_exit_2_with_its_line(mmedge, tmp_path):
    (tmp_path / "r.yaml").write_text("name: x\ndata:\n  manifst: a.csv\n")
    for verb in ("run", "check"):
        said = mmedge(verb, tmp_path / "r.yaml", "--out", tmp_path / "out", "--json")
        assert said.code == 2 and "r.yaml:3: unknown key 'data.manifst' (did you mean 'manifest'?)" in said.err
        assert "manifst" in document(said)["error"]["what"] and not (tmp_path / "out").exists()


def test_an_unknown_override_is_exit_2(mmedge, finished, tmp_path):
    said = mmedge("run", finished.recipe_file, "--out", tmp_path / "out", "--set", "teacher.trian.epochs=1")
    assert said.code == 2 and "did you mean 'train'" in said.err


def test_missing_files_are_errors_of_three_lines_at_most(mmedge, tmp_path, finished):
    for arguments in (
        ("run", tmp_path / "nowhere.yaml"),
        ("predict", tmp_path / "nowhere", "--image", "x.png"),
        ("report", tmp_path / "nowhere"),
        ("predict", finished.out / "bundle", "--image", tmp_path / "nowhere.png"),
        ("run", finished.recipe_file, "--from", tmp_path / "nowhere", "--out", tmp_path / "out"),
        ("prune", tmp_path),
        ("predict", finished.out / "bundle" / "model.onnx"),
        ("predict", finished.out / "teacher" / "model.onnx"),
        ("predict", finished.recipe_file),
    ):
        said = mmedge(*arguments)
        assert said.code in (1, 2) and said.out == "", said
        _, _, error = said.err.partition("error: ")  # what is done may be told before it
        assert 1 <= len(error.strip().splitlines()) <= 3, said
        assert "nowhere" in said.err or str(tmp_path) in said.err or str(finished.out.parent) in said.err
        assert "\n  do: " in said.err, said.err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (MmedgeError("broken"), 1),
        (OSError(28, "No space left on device", "/x/file"), 1),
        (MemoryError(), 1),
        (ZeroDivisionError("odd"), 1),
    ],
)
def test_whatever_a_verb_raises_is_one_json_document_and_no_traceback(mmedge, finished, monkeypatch, raised, code):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(pipeline, "run", fail)
    said = mmedge("run", finished.recipe_file, "--out", finished.out, "--json")
    assert said.code == code and document(said)["error"]["exit_code"] == code
    assert "Traceback" not in said.err and "error: " in said.err


@pytest.mark.parametrize(
    "raised",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_told_with_a_path_whoever_found_it(mmedge, finished, tmp_path, monkeypatch, raised):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(pipeline, "run", fail)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda place: Usage(10, 10, 10 if str(place) == tempfile.gettempdir() else 0)
    )
    said = mmedge("run", finished.recipe_file, "--out", tmp_path / "not" / "there")
    assert said.code == 1 and "the disk is full" in said.err and f"at: {tmp_path}\n" in said.err


def test_an_interrupt_that_a_library_made_an_import_error_of_is_an_interrupt(mmedge, finished, monkeypatch):
    def fail(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("C extensions failed") from error

    monkeypatch.setattr(pipeline, "run", fail)
    assert mmedge("run", finished.recipe_file, "--out", finished.out).code == 130


@pytest.mark.parametrize("module", ["click", "mmedge.cli.main", "mmedge.cli.common", "mmedge.cli.stages"])
def test_an_interrupt_in_the_first_moment_is_no_traceback(module):
    code = (
        "import runpy, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder)\n"
        "sys.argv = ['mmedge', 'run', 'nowhere.yaml']\n"
        "runpy.run_module('mmedge', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "error: " in done.stderr
    assert done.returncode == 130


def test_debug_shows_the_traceback(mmedge, finished, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(pipeline, "run", fail)
    with pytest.raises(ZeroDivisionError):
        from click.testing import CliRunner

        from mmedge.cli.main import cli

        CliRunner().invoke(cli, ["run", str(finished.recipe_file), "--debug"], catch_exceptions=False)


def test_run_prints_one_document_on_stdout_and_the_table_on_stderr(mmedge, finished, tmp_path):
    out = finished.whole_copy(tmp_path / "out")
    said = mmedge("run", finished.recipe_file, "--out", out, "--json")
    assert said.code == 0, said.err
    assert document(said) == json.loads((out / "report.json").read_text())
    assert "verdict: not judged" in said.err and "export-onnxruntime-cpu" in said.err
    assert mmedge("run", finished.recipe_file, "--out", out).out == ""


@pytest.mark.long
def test_a_verb_takes_the_artifact_of_an_earlier_stage_in_place_of_a_recipe(mmedge, finished, tmp_path):
    said = mmedge(
        "quantize",
        finished.out / "prune",
        "--out",
        tmp_path / "out",
        "--set",
        "quantize.candidates=[fp32, int8]",
        "--json",
    )
    assert said.code == 0, said.err
    stages = {stage["stage"]: stage for stage in document(said)["stages"]}
    assert list(stages) == ["teacher", "prune", "quantize"]
    assert [row["precision"] for row in stages["quantize"]["candidates"]] == ["fp32", "int8"]
    assert stages["quantize"]["parent"] == finished.artifact("prune").sha256


@pytest.mark.parametrize(
    "option, todo",
    [
        ("--data d.npz", "leave it out"),
        ("--labels l.npy", "leave it out"),
        ("--judge agreement", "leave it out"),
        ("--output scores", "leave it out"),
        ("--require int8", "--set quantize.require="),
        ("--max-drop 0.01", "--set quantize.max_drop="),  # its own default, and typed all the same
        ("--candidates fp32", "--set quantize.candidates="),
        ("--max-latency-ratio 1", "--set gates.quantize.latency_ratio_to_parent="),
        ("--ignore head", "--set quantize.ignore="),
        ("--calibration 8", "--set quantize.calibration="),
        ("--threads 2", "--set measure.threads="),
        ("--seed 1", "--set seed="),
    ],
)
def test_quantize_of_a_recipe_refuses_an_option_that_it_would_not_heed(mmedge, finished, option, todo):
    said = mmedge("quantize", finished.recipe_file, *option.split())
    assert said.code == 2 and f"{option.split()[0]} belongs to a" in said.err and todo in said.err


def test_every_key_that_quantize_points_to_is_one_of_a_recipe(finished):
    from mmedge import recipe
    from mmedge.cli.quantize import _OF_A_FILE

    values = {"prefer": "size", "candidates": "[fp32, int8]", "require": "int8", "ignore": "[head]", "policy": "point"}
    told = {key: values.get(name, "1") for name, key in _OF_A_FILE.items() if key}
    recipe.load(finished.recipe_file, ("gates={}", *(f"{key}={value}" for key, value in told.items())))


def test_quantize_of_an_onnx_file_heeds_the_policy_and_what_is_preferred(mmedge, tmp_path):
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[N, 64] x) => (float[N, 64] y) { y = MatMul (x, w) }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(random.normal(size=(64, 64))), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=random.normal(size=(16, 64)).astype(np.float32))
    command = ("quantize", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "--candidates", "fp32,fp16", "--out")
    said = mmedge(*command, tmp_path / "out", "--policy", "point", "--prefer", "size", "--json")
    assert said.code == 0 and document(said)["precision"] == "fp16", said.err
    said = mmedge(*command, tmp_path / "strict", "--prefer", "size", "--json")
    assert document(said)["precision"] == "fp32", "eight calls prove nothing"


def test_quantize_of_an_onnx_file_takes_no_key_of_a_recipe(mmedge, tmp_path):
    said = mmedge("quantize", tmp_path / "m.onnx", "--data", "d.npz", "--devices", "2")
    assert said.code == 2 and "--devices belong to a recipe" in said.err


@pytest.mark.long
def test_report_draws_the_page_again(mmedge, finished, tmp_path):
    (tmp_path / "report.json").write_text((finished.out / "report.json").read_text())
    said = mmedge("report", tmp_path, "--json")
    assert said.code == 0 and document(said) == json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2, "stages": []}', '{"schema": 1}'])
def test_report_refuses_what_is_no_report(mmedge, tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    said = mmedge("report", tmp_path, "--json")
    assert said.code == 1 and document(said)["error"] and "Traceback" not in said.err


def sample(media):
    return sorted((media / "image").glob("test-3-*"))[0], sorted((media / "audio").glob("test-3-*"))[0]


def test_predict_prints_labels_or_one_document(mmedge, finished, media):
    image, sound = sample(media)
    said = mmedge("predict", finished.out / "bundle", "--image", image, "--audio", sound)
    assert said.code == 0 and said.err == "" and len(said.out.splitlines()) == 5
    as_json = document(mmedge("predict", finished.out / "bundle", f"--image={image}", "--audio", sound, "--json"))
    assert as_json["label"] == said.out.split()[0] and len(as_json["probabilities"]) == 10
    assert document(mmedge("predict", finished.out / "bundle", "--audio", sound, "--json")) != as_json


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "at least one of image, audio"),
        (["--imge", "x.png"], 2, "did you mean 'image'"),
        (["--image"], 2, "wants a value"),
        (["--image", "x.png", "--image=y.png"], 2, "given twice"),
        (["x.png"], 2, "unexpected argument"),
        (["--image", __file__], 1, "not an image"),
        (["--audio", __file__], 1, "not a sound"),
        (["--target", "tensorrt-rtx", "--image", "x.png"], 6, "onnxruntime-cpu"),
        (["--target", "onnxruntime", "--image", "x.png"], 2, "did you mean"),
        (["--threads", "0"], 2, "threads"),
    ],
)
def test_predict_tells_what_is_wrong(mmedge, finished, arguments, code, said):
    answer = mmedge("predict", finished.out / "bundle", *arguments, "--json")
    assert answer.code == code and said in answer.err, answer
    assert document(answer)["error"]["exit_code"] == code


def test_check_prints_a_data_card(mmedge, finished):
    said = mmedge("check", finished.recipe_file, "--out", finished.out, "--json")
    assert said.code == 0, said.err
    card = document(said)
    assert card["labels"] == [str(digit) for digit in range(10)]
    assert card["splits"]["train"]["samples"] == 240 and card["splits"]["train"]["present"] == {
        "image": 240,
        "audio": 240,
    }


def test_a_users_module_that_exits_is_an_error_and_one_document(mmedge, finished, tmp_path, monkeypatch):
    def leave(*arguments, **options):
        raise SystemExit(7)

    monkeypatch.setattr(pipeline, "run", leave)
    said = mmedge("run", finished.recipe_file, "--out", tmp_path / "out", "--json")
    assert said.code == 1 and "exit(7)" in said.err and document(said)["error"]["exit_code"] == 1


@pytest.mark.parametrize(
    ("value", "cells"),
    [
        ("36.6,,female", ["36.6", None, "female"]),
        ("sex=female, temp=36.6", {"temp": "36.6", "age": None, "sex": "female"}),
        ("1,2,a=b", ["1", "2", "a=b"]),
    ],
)
def test_cells_of_a_table_are_given_in_order_or_by_column(value, cells):
    """``--tabular sex=female`` was taken for the unknown word "sex=female", and answered all the same."""
    assert _cells(value, ("temp", "age", "sex")) == cells


@pytest.mark.parametrize(
    ("prediction", "line"),
    [
        (Prediction(label="cat", probabilities={"cat": 0.9, "dog": 0.1}), "cat\t0.9000"),
        (Prediction(value=-0.75), "-0.75"),
        (Prediction(values={"kelvin": 300.5}), "kelvin\t300.5"),
        (Prediction(text="a red apple", score=-0.9, ended=True), "a red apple"),
        (Prediction(array=np.ones((2, 3), np.float32)), "an array [2, 3], mean 1"),
        (Prediction(embeddings={"image": (0.6, 0.8)}), "image\t0.6000 0.8000"),
        (Prediction(heads={"price": Prediction(value=2.0)}), "price\t2"),
    ],
)
def test_what_each_task_predicts_is_shown_without_asking_for_json(prediction, line, capsys):
    _show(prediction)
    assert capsys.readouterr().out.splitlines()[0] == line
