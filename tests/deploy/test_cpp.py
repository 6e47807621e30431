"""The C++ example, compiled against OpenVINO's wheel and held against the Python runtime."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mmedge import runtime

SOURCE = Path(__file__).parents[2] / "deploy/cpp/predict.cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    openvino = pytest.importorskip("openvino")
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    root = Path(openvino.__file__).parent
    library = next((root / "libs").glob("libopenvino.so.*")).name
    out = tmp_path_factory.mktemp("cpp") / "predict"
    link = [f"-I{root / 'include'}", f"-L{root / 'libs'}", f"-l:{library}", f"-Wl,-rpath,{root / 'libs'}"]
    subprocess.run(["g++", "-std=c++17", "-O0", str(SOURCE), "-o", str(out), *link], check=True)
    return out


@pytest.mark.parametrize("given", [("image", "vitals"), ("image",), ("vitals",)])
def test_the_program_answers_as_python_does(program, made_bundle, sample, tmp_path, given):
    engine = runtime.load(made_bundle)
    tensors = engine.preprocess([{name: sample[name] for name in given}])
    for name in given:
        tensors[name].tofile(tmp_path / f"{name}.f32")
    words = [f"{name}={tmp_path / name}.f32" for name in given]
    done = subprocess.run([program, made_bundle / "model.onnx", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = np.array(done.stdout.split(), np.float32)
    np.testing.assert_allclose(answer, engine.run(tensors)["logits"][0], atol=1e-5)


def test_a_tensor_of_another_size_and_an_unknown_input_are_told(program, made_bundle, tmp_path):
    (tmp_path / "x.f32").write_bytes(b"1234")
    for word, said in ((f"image={tmp_path}/x.f32", "the model takes"), (f"depth={tmp_path}/x.f32", "no input depth")):
        done = subprocess.run([program, made_bundle / "model.onnx", word], capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr
