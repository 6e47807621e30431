"""Fuzzing: whatever a bundle or a media file holds, the answer is a prediction or one of our errors. ``make fuzz`` goes on for longer."""

import contextlib
import io
import shutil
import tempfile
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmedge import bundle as bundles
from mmedge import preprocess, runtime
from mmedge.backends import onnxfile
from mmedge.errors import MmedgeError
from tests.deploy.linear import CONTRACT
from tests.fuzzing import fuzzed


@pytest.fixture(scope="module")
def archive(made_bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "bundle.zip"
    bundles.pack(made_bundle, path)
    return path.read_bytes()


@fuzzed(40)
@given(data=st.data())
def test_a_zip_with_any_bytes_changed_is_refused_or_answers(archive, data):
    """What loads is whole: every listed file has its hash."""
    spoiled = bytearray(archive)
    for _ in range(data.draw(st.integers(1, 8))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    _load(bytes(spoiled)[: data.draw(st.integers(0, len(spoiled)))] if data.draw(st.booleans()) else bytes(spoiled))


@fuzzed(40)
@given(content=st.binary(max_size=3000))
def test_any_bytes_as_a_bundle_are_refused(content):
    assert _load(content) is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
@fuzzed(40)
@given(names=st.lists(st.tuples(st.text(max_size=30), st.integers(0, 0xFFFFFFFF), st.binary(max_size=50)), max_size=6))
def test_any_names_and_modes_in_a_zip_stay_inside_or_are_refused(names):
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "in" / "side"
        folder.mkdir(parents=True)
        with zipfile.ZipFile(Path(outer) / "b.zip", "w") as out:
            for name, mode, content in names:
                try:
                    entry = zipfile.ZipInfo(name)
                    entry.external_attr = mode
                    out.writestr(entry, content)
                except (UnicodeEncodeError, ValueError):
                    continue
        with contextlib.suppress(MmedgeError):
            bundles.unpack(Path(outer) / "b.zip", folder)
        assert {path.name for path in Path(outer).iterdir()} == {"b.zip", "in"}
        assert [path.name for path in (Path(outer) / "in").iterdir()] == ["side"]
        assert not any(path.is_symlink() for path in folder.rglob("*"))


@fuzzed(40)
@given(content=st.binary(max_size=3000))
def test_any_bytes_as_an_onnx_file_are_read_or_refused(content):
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        Path(file.name).write_bytes(content)
        with contextlib.suppress(MmedgeError):
            onnxfile.read_nodes(Path(file.name))


def _png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def _jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def _wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(np.random.default_rng(0).integers(-3000, 3000, 800, np.int16).tobytes())
    return out.getvalue()


@fuzzed(40)
@given(data=st.data(), of=st.sampled_from(["png", "jpeg", "wav", "bytes"]))
def test_any_media_bytes_become_a_finite_tensor_or_our_error(data, of):
    content = {"png": _png, "jpeg": _jpeg, "wav": _wav}[of]() if of != "bytes" else data.draw(st.binary(max_size=500))
    spoiled = bytearray(content)
    if of != "bytes":
        for _ in range(data.draw(st.integers(0, 6))):
            spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    for name, spec in CONTRACT.modalities.items():
        try:
            tensor = preprocess.tensor(spec, bytes(spoiled), name)
        except MmedgeError:
            continue
        assert tensor.shape == spec.shape and np.isfinite(tensor).all()


def _load(content: bytes):
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "b.zip").write_bytes(content)
        return runtime.load(folder / "b.zip")
    except MmedgeError:
        return None
    finally:
        shutil.rmtree(folder)
