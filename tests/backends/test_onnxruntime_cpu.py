from pathlib import Path

import numpy as np
import pytest

from mmedge.backends import onnxruntime_cpu, opened
from mmedge.errors import MissingDependency, UsageError
from tests.small import write_bundle


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle") / "model.onnx"


def inputs_of(run: onnxruntime_cpu.Session) -> dict[str, np.ndarray]:
    return {name: np.ones([size or 1 for size in info.shape], info.dtype) for name, info in run.inputs.items()}


def test_a_session_gives_what_a_bare_one_gives(graph: Path) -> None:
    run = onnxruntime_cpu.session(graph)
    inputs = inputs_of(run)
    expected = onnxruntime_cpu.native_session(graph).run(None, inputs)
    assert run.checked is not None
    for answers in (run(inputs), run.checked(inputs)):
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(answers.values(), expected, strict=True))


def test_an_input_too_few_is_refused_by_name(graph: Path) -> None:
    run = onnxruntime_cpu.session(graph)
    inputs = inputs_of(run)
    inputs.pop("image")
    with pytest.raises(Exception, match="image"):
        run(inputs)


def test_an_unknown_input_is_refused_by_name(graph: Path) -> None:
    run = onnxruntime_cpu.session(graph)
    inputs = inputs_of(run)
    inputs["smell"] = inputs.pop("image")
    with pytest.raises(Exception, match="smell"):
        run(inputs)


@pytest.mark.parametrize("asked", ["TensorrtExecutionProvider", ("TensorrtExecutionProvider", {"device_id": "0"})])
def test_a_provider_that_is_not_there_is_an_error_and_not_silently_the_processor(graph: Path, asked: object) -> None:
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has it")
    for target in ("onnxruntime-cpu", "onnxruntime-cuda"):
        with pytest.raises(MissingDependency, match="no TensorrtExecutionProvider"):
            opened(graph, target, providers=[asked])
    with pytest.raises(UsageError, match="openvino-cpu has none"):
        opened(graph, "openvino-cpu", providers=[asked])
