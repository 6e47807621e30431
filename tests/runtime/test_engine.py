"""The engine: raw files or arrays in, labels out, with any modality missing."""

import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmedge import runtime
from mmedge.errors import MissingDependency, MmedgeError, UsageError


@pytest.fixture(scope="module")
def engine(finished):
    return runtime.load(finished.out / "bundle")


@pytest.fixture(scope="module")
def pairs(media):
    """(image path, audio path) of ten test samples."""
    names = [f"test-{digit}-000" for digit in range(10)]
    return [(media / "image" / f"{name}.png", media / "audio" / f"{name}.wav") for name in names]


def test_a_prediction_has_a_label_and_probabilities_that_add_up(engine, pairs):
    prediction = engine.predict(image=pairs[3][0], audio=pairs[3][1])
    assert list(prediction.probabilities) == [str(digit) for digit in range(10)]
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.get)


def test_predictions_from_raw_files_are_those_that_were_measured(engine, dataset, finished, media):
    """Preprocessing parity: the bundle's answer to the files is the graph's answer to the training tensors."""
    test = dataset.test
    measured = engine.run({**{name: np.array(x) for name, x in test.inputs.items()}, "present": test.present})
    images = [media / "image" / f"{name}.png" for name in test.ids]
    sounds = [media / "audio" / f"{name}.wav" for name in test.ids]
    answers = engine.predict(image=images, audio=sounds)
    right = np.mean([int(answer.label) == target for answer, target in zip(answers, test.targets["logits"])])
    assert right == finished.stage("export-onnxruntime-cpu")["quality"]["value"]
    logits = measured["logits"] / engine.contract.heads["logits"].temperature
    for answer, row in zip(answers, logits):
        assert np.log(answer.probabilities["1"] / answer.probabilities["0"]) == pytest.approx(row[1] - row[0], abs=1e-4)


@pytest.mark.parametrize("given", ["image", "audio"])
def test_a_missing_modality_may_be_left_out_or_none(engine, pairs, given):
    value = dict(zip(("image", "audio"), pairs[5]))[given]
    other = {"image": "audio", "audio": "image"}[given]
    assert engine.predict(**{given: value}) == engine.predict(**{given: value, other: None})


def test_what_stands_in_the_tensor_of_an_absent_modality_has_no_influence(engine, dataset):
    test, present = dataset.test, np.array([[False, True]])
    first = {name: np.array(x[:1]) for name, x in test.inputs.items()}
    expected = engine.run({**first, "present": present})["logits"]
    for image in (np.zeros_like(first["image"]), np.full_like(first["image"], 1e6)):
        np.testing.assert_array_equal(engine.run({**first, "image": image, "present": present})["logits"], expected)
    shown = engine.run({**first, "present": np.array([[True, True]])})["logits"]
    assert not np.array_equal(shown, expected)


@pytest.mark.parametrize(
    "given", [{}, {"image": None}, {"image": None, "audio": None}, {"image": [None], "audio": [None]}]
)
def test_nothing_present_is_a_usage_error(engine, given):
    with pytest.raises(UsageError, match="at least one of image, audio"):
        engine.predict(**given)


def test_an_unknown_modality_is_told_with_the_one_that_was_meant(engine, pairs):
    with pytest.raises(UsageError, match="did you mean 'image'"):
        engine.predict(imagee=pairs[0][0])


def test_a_batch_is_the_list_of_its_samples_answers(engine, pairs):
    images, sounds = zip(*pairs)
    batch = engine.predict(image=list(images), audio=[*sounds[:-1], None])
    assert len(batch) == 10
    for number, answer in enumerate(batch):
        alone = engine.predict(image=images[number], audio=None if number == 9 else sounds[number])
        for label, p in alone.probabilities.items():
            assert answer.probabilities[label] == pytest.approx(p, abs=1e-5)


def test_a_batch_may_be_larger_than_any_that_was_seen(engine, pairs):
    assert len(engine.predict(image=[pairs[0][0]] * 300)) == 300


def test_wrong_batches_are_usage_errors(engine, pairs):
    image, sound = pairs[0]
    for given in (
        {"image": [image, image], "audio": [sound]},
        {"image": [image], "audio": sound},
        {"image": []},
        {"image": [image, None], "audio": [sound, None]},
    ):
        with pytest.raises(UsageError):
            engine.predict(**given)


def test_paths_text_bytes_and_arrays_give_the_same_answer(engine, pairs):
    image, sound = pairs[7]
    pixels, (samples, rate) = np.asarray(Image.open(image)), soundfile.read(sound, dtype="float32")
    expected = engine.predict(image=image, audio=sound)
    assert engine.predict(image=str(image), audio=str(sound)) == expected
    assert engine.predict(image=image.read_bytes(), audio=sound.read_bytes()) == expected
    assert engine.predict(image=pixels, audio=samples) == expected
    assert engine.predict(image=pixels, audio=(samples, rate)) == expected


def test_a_broken_file_is_told_with_its_path(engine, pairs, tmp_path):
    (tmp_path / "broken.png").write_bytes(pairs[0][0].read_bytes()[:60])
    with pytest.raises(MmedgeError, match=r"broken\.png"):
        engine.predict(image=tmp_path / "broken.png", audio=pairs[0][1])
    with pytest.raises(MmedgeError, match=r"nowhere\.wav"):
        engine.predict(audio=tmp_path / "nowhere.wav")


def good_tensors(engine, batch=2):
    return {
        **{name: np.zeros((batch, *spec.shape), np.float32) for name, spec in engine.contract.modalities.items()},
        "present": np.ones((batch, 2), bool),
    }


def test_run_answers_tensors(engine):
    output = engine.run(good_tensors(engine))
    assert list(output) == ["logits"] and output["logits"].shape == (2, 10) and output["logits"].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("image", lambda x: x.astype(np.float64), "image must be float32"),
        ("image", lambda x: x[:1], "image must be float32"),
        ("image", lambda x: x[..., :5], "image must be float32"),
        ("audio", None, "audio must be .* missing"),
        ("present", lambda x: x.astype(np.float32), "present must be bool"),
        ("present", lambda x: x[:, :1], "present must be bool"),
        ("present", lambda x: x[:0], "batch of at least 1"),
    ],
)
def test_run_names_the_tensor_that_is_wrong(engine, name, change, said):
    tensors = good_tensors(engine)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    with pytest.raises(MmedgeError, match=said):
        engine.run(tensors)


def test_run_refuses_an_input_too_many(engine):
    with pytest.raises(UsageError, match="no modality 'depth'"):
        engine.run({**good_tensors(engine), "depth": np.zeros(1)})


def test_load_refuses_what_is_no_bundle(finished, tmp_path):
    with pytest.raises(MmedgeError, match="does not exist"):
        runtime.load(tmp_path / "nowhere")
    with pytest.raises(MmedgeError, match="no mmedge artifact"):
        runtime.load(tmp_path)
    with pytest.raises(UsageError, match="artifact of stage 'teacher'"):
        runtime.load(finished.out / "teacher")
    for threads in (0, -1, 100_000):
        with pytest.raises(UsageError, match="threads must be 1 to"):
            runtime.load(finished.out / "bundle", threads=threads)


@pytest.mark.parametrize(
    "given", [{"path": 3}, {"path": None}, {"target": 3}, {"threads": "2"}, {"threads": 1.5}, {"providers": "CUDA"}]
)
def test_load_tells_an_argument_of_the_wrong_type(finished, given):
    (name,) = given
    with pytest.raises(UsageError, match=f"load's {name} cannot be"):
        runtime.load(**{"path": finished.out / "bundle", **given})


def test_load_refuses_a_tampered_bundle(finished, tmp_path):
    shutil.copytree(finished.out / "bundle", tmp_path / "bundle")
    with (tmp_path / "bundle" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(MmedgeError, match=r"model\.onnx"):
        runtime.load(tmp_path / "bundle")


def test_a_moved_bundle_loads(finished, pairs, tmp_path, engine):
    shutil.copytree(finished.out / "bundle", tmp_path / "elsewhere")
    assert runtime.load(tmp_path / "elsewhere").predict(image=pairs[0][0]) == engine.predict(image=pairs[0][0])


def test_targets_are_told_and_a_gpu_engine_without_a_gpu_is_exit_6(finished):
    with pytest.raises(UsageError, match="did you mean 'onnxruntime-cpu'"):
        runtime.load(finished.out / "bundle", target="onnxruntime-gpu")
    with pytest.raises(MissingDependency) as raised:
        runtime.load(finished.out / "bundle", target="tensorrt-rtx")
    assert raised.value.exit_code == 6 and "onnxruntime-cpu" in str(raised.value)


def test_an_error_in_a_batch_names_its_sample(engine, pairs):
    pixels = np.zeros((8, 8), np.uint8)
    with pytest.raises(MmedgeError, match="must be uint8") as raised:
        engine.predict(image=[pixels, pixels.astype(float)])
    assert "sample 1 of the batch" in str(raised.value)
    with pytest.raises(MmedgeError) as raised:
        engine.predict(image=[pairs[0][0], "nowhere.png"])
    assert "sample 1 of the batch, nowhere.png" in str(raised.value)


def test_an_engine_tells_what_it_takes(engine):
    assert (
        repr(engine)
        == "<mmedge engine on onnxruntime-cpu: image [1, 28, 28] (image), audio [1, 16, 24] (audio) -> 10 labels>"
    )
