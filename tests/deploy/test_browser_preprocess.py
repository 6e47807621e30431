"""The page's preprocessing and answers beside the runtime's, in Node: every option of pictures, sounds, tables, tasks."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge import preprocess, runtime
from mmedge.spec import AudioSpec, ImageSpec, TabularSpec
from mmedge.tasks import TASKS

SOURCE = Path(__file__).parents[2] / "deploy/browser/preprocess.js"
DRIVER = """
import { readFileSync, writeFileSync } from "node:fs";
import { audio, pixels, predicted, tabular } from "./preprocess.mjs";
const out = [];
for (const { kind, spec, value } of JSON.parse(readFileSync("work.json"))) {
  try {
    if (kind === "image") out.push(Array.from(pixels(spec, value)));
    else if (kind === "audio") out.push(Array.from(await audio(spec, new Blob([readFileSync(value)]))));
    else if (kind === "answer") out.push(predicted(spec, value));
    else out.push(Array.from(tabular(spec, value)));
  } catch (error) {
    out.push(error.message);
  }
}
writeFileSync("out.json", JSON.stringify(out));
"""
AUDIO = {"kind": "audio", "sample_rate": 8000, "mels": 20, "frames": 30, "hop_ms": 16, "window_ms": 32}
WAVE = {"features": "waveform", **{key: AudioSpec.model_fields[key].default for key in ("mels", "window_ms")}}
TABLE = {"kind": "tabular", "columns": ["a", "b"], "mean": [1, 2], "std": [2, 4]}
WORDS = {**TABLE, "categorical": ["c"], "categories": {"c": ["blue", "red"]}}


@pytest.fixture
def in_node(tmp_path):
    """Run [(kind, spec, value)] through preprocess.js: a flat list of numbers each, an answer, or the error's message."""
    if shutil.which("node") is None:
        pytest.skip("there is no node")

    def call(work):
        shutil.copy(SOURCE, tmp_path / "preprocess.mjs")
        (tmp_path / "driver.mjs").write_text(DRIVER)
        rows = [
            {"kind": kind, "spec": spec.model_dump(mode="json", by_alias=True), "value": value}
            for kind, spec, value in work
        ]
        (tmp_path / "work.json").write_text(json.dumps(rows))
        subprocess.run(["node", "driver.mjs"], cwd=tmp_path, check=True)
        return json.loads((tmp_path / "out.json").read_text())

    return call


def test_pictures_are_cropped_and_resized_as_pillow_does(in_node):
    random, work, expected = np.random.default_rng(0), [], []
    for size in ((40, 60), (61, 33), (7, 9), (12, 10)):
        for more in (
            {},
            {"crop": "center"},
            {"channels": 1, "mean": [0.4], "std": [0.3]},
            {"crop": "center", "channels": 1},
            {"crop": "center", "crop_share": 0.875},
            {"crop_share": 0.3},
        ):
            spec = ImageSpec(**{"kind": "image", "height": 12, "width": 10, **more})
            rgb = random.integers(0, 256, (*size, 3), np.uint8)
            rgba = np.asarray(Image.fromarray(rgb).convert("RGBA")).reshape(-1).tolist()
            work.append(("image", spec, {"data": rgba, "width": size[1], "height": size[0]}))
            expected.append(preprocess.tensor(spec, rgb))
    for got, wanted in zip(in_node(work), expected):
        np.testing.assert_allclose(np.array(got).reshape(wanted.shape), wanted, atol=1e-5)


def test_sounds_of_every_option_have_the_runtimes_features(in_node, tmp_path):
    random, work, expected = np.random.default_rng(1), [], []
    sound = np.stack([0.3 * np.sin(np.arange(8000) / 7), 0.1 * random.standard_normal(8000)], axis=1)
    options = [
        {},
        {"take": "center"},
        {"take": "end"},
        {"channel": 1},
        {"features": "mfcc"},
        {"mean": [9.0] * 20, "std": [3.0] * 20},
        {"mean": [9.0], "std": [3.0], "low_hz": 200, "high_hz": 3000},
        {"preset": "whisper"},
        {"preset": "whisper", "window_ms": 25, "hop_ms": 10},
        {"preset": "torchaudio", "fft": 500, "mean": [-40.0], "std": [30.0]},
        {"preset": "librosa", "fft": 512, "low_hz": 50},
        WAVE,
        {**WAVE, "length": 3001, "standardize": True, "take": "end"},
    ]
    for number, (more, subtype) in enumerate(
        [*((more, "PCM_16") for more in options), ({}, "PCM_24"), ({}, "PCM_32"), ({}, "FLOAT")]
    ):
        for length in (8000, 900):
            file = tmp_path / f"{number}-{length}.wav"
            soundfile.write(file, sound[:length], 8000, subtype=subtype)
            spec = AudioSpec(**{**AUDIO, **more})
            work.append(("audio", spec, str(file)))
            expected.append(preprocess.tensor(spec, file))
    for got, wanted, (_, spec, file) in zip(in_node(work), expected, work):
        np.testing.assert_allclose(
            np.array(got).reshape(wanted.shape), wanted, atol=5e-3, rtol=1e-3, err_msg=f"{spec} {file}"
        )


def test_tables_with_holes_and_words_are_those_of_the_runtime(in_node):
    work, expected = [], []
    for more in ({}, {"missing_indicator": True}, {"encoding": "ordinal"}):
        spec = TabularSpec(**{**WORDS, **more})
        for cells in ([1.0, 5.0, "red"], [None, 5.0, "green"], [3.0, None, None], [None, None, "blue"]):
            work.append(("tabular", spec, cells))
            expected.append(preprocess.tensor(spec, cells))
    for got, wanted in zip(in_node(work), expected):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if not task.CODES])
def test_answers_of_every_task_are_those_of_the_runtime(in_node, made_bundle, task):
    engine, name = runtime.load(made_bundle), "logits"
    head = TASKS[task].stand_in()
    head = head.model_copy(update={"labels": ("x", "y", "z") if head.labels else (), "temperature": 1.7})
    engine.contract = engine.contract.model_copy(update={"heads": {name: head}})
    rows = np.array([[2, 0.5, -3], [-1, -2, -1], [0, 1, 4], [20, 30, -900], [900, -900, 800]], np.float32)
    rows = np.tile(rows, 3)[:, : engine.contract.width(name)]
    expected = [prediction.record() for prediction in engine.predictions({name: rows})]
    for got, wanted in zip(
        in_node([("answer", engine.contract, {name: row.tolist()}) for row in rows]), expected, strict=True
    ):
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            if name == "embeddings":
                value = {tower: pytest.approx(vector, abs=1e-6) for tower, vector in value.items()}
            assert got[name] == (pytest.approx(value, abs=1e-6) if name == "probabilities" else value)


def test_texts_are_refused_by_the_page(in_node, made_bundle):
    contract = runtime.load(made_bundle).contract
    contract = contract.model_copy(update={"heads": {"text": TASKS["generation"].stand_in()}})
    (said,) = in_node([("answer", contract, {"text": [0.0]})])
    assert "does not write texts" in said


def test_what_the_page_cannot_do_is_refused(in_node, tmp_path):
    soundfile.write(tmp_path / "other.wav", np.zeros(4000), 16000)
    soundfile.write(tmp_path / "mono.wav", np.zeros(4000), 8000)
    soundfile.write(tmp_path / "bytes.wav", np.zeros(4000), 8000, subtype="PCM_U8")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8000)
    (tmp_path / "no.wav").write_bytes(b"not a sound" * 9)
    work = [("audio", AudioSpec(**AUDIO), str(tmp_path / f"{name}.wav")) for name in ("other", "bytes", "none", "no")]
    work += [("audio", AudioSpec(**AUDIO, channel=3), str(tmp_path / "mono.wav"))]
    work += [("tabular", TabularSpec(**TABLE), cells) for cells in ([1.0], [None, None], ["x", 1.0])]
    said = in_node(work)
    for message, part in zip(
        said,
        ("16000 Hz", "16, 24 or 32 bits", "no samples", "not a WAV", "channel 3", "wanted are 2", "no cell", "wanted"),
    ):
        assert isinstance(message, str) and part in message, (message, part)
