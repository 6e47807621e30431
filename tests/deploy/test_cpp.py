"""The C++ examples: OpenVINO's compiled against its wheel and held against the Python runtime, TensorRT's against stand-ins."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mmedge import runtime

SOURCE = Path(__file__).parents[2] / "deploy/cpp/predict.cpp"
STUBS = Path(__file__).parent / "stubs"


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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("length", [1, 5])
def test_a_text_of_a_dynamic_length_is_as_long_as_its_file(program, tmp_path, length):
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("Cast", ["words"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["present"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sum", "there"], ["logits"]),
    ]
    taken = [
        helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("present", TensorProto.BOOL, ["batch", 1]),
    ]
    given = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])]
    graph = helper.make_graph(nodes, "g", taken, given)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    np.arange(1, 1 + length, dtype=np.int64).tofile(tmp_path / "words.i64")
    done = subprocess.run([program, tmp_path / "m.onnx", f"words={tmp_path}/words.i64"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == length * (length + 1) / 2


def test_a_tensor_of_another_size_and_an_unknown_input_are_told(program, made_bundle, tmp_path):
    (tmp_path / "x.f32").write_bytes(b"1234")
    for word, said in ((f"image={tmp_path}/x.f32", "the model takes"), (f"depth={tmp_path}/x.f32", "no input depth")):
        done = subprocess.run([program, made_bundle / "model.onnx", word], capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr


@pytest.fixture(scope="module")
def tensorrt_program(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    out = tmp_path_factory.mktemp("trt") / "predict"
    source = SOURCE.with_name("predict_tensorrt.cpp")
    flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{STUBS}"]
    subprocess.run(["g++", *flags, str(source), "-o", str(out)], check=True)
    return out


@pytest.mark.long
def test_the_tensorrt_program_compiles_and_feeds_every_input_to_a_stand_in_engine(tensorrt_program, tmp_path):
    np.array([1, 2, 3, 4.5], np.float32).tofile(tmp_path / "image")
    np.array([5, 6, 7], np.int64).tofile(tmp_path / "words")
    (tmp_path / "engine.plan").write_bytes(b"plan")
    both = [f"image={tmp_path / 'image'}", f"words={tmp_path / 'words'}"]
    for given, sums in ((both, [10.5, 18]), (both[:1], [10.5, 0]), (both[1:], [0, 18])):
        done = subprocess.run([tensorrt_program, tmp_path / "engine.plan", *given], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [float(line) for line in done.stdout.split()] == sums
    for words, said in (
        ([tmp_path / "engine.plan", f"words={tmp_path / 'image'}"], "not of the model's size"),
        ([tmp_path / "engine.plan", f"depth={tmp_path / 'image'}"], "no input depth"),
        ([tmp_path / "engine.plan", "image"], "not NAME=FILE"),
        ([tmp_path / "image", both[0]], "does not load here"),
        ([tmp_path / "nowhere", both[0]], "cannot read"),
    ):
        done = subprocess.run([tensorrt_program, *words], capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr, done.stderr
