"""The TensorRT session's own steps, against stand-ins for CUDA and the engine: buffers, shapes, recordings. No GPU is here;
where one is, ``test_a_built_engine_answers_as_onnxruntime`` runs the real thing."""

import ctypes
import inspect
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from mmedge.backends import onnxruntime_cpu, tensorrt, tensorrt_session
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.errors import MissingDependency, MmedgeError
from mmedge.machine import nvidia_gpus
from mmedge.profiling import layers
from tests.small import CONTRACT, write_graph

try:
    from cuda.bindings import runtime as real
except ImportError:  # the session runs without it, where no engine is
    real = None


class Cuda:
    """Memory is the host's; what is enqueued is run at once. ``held``: what was made and not given back.

    Every call goes to the real package too, which has no GPU to act on and takes only arguments of its own types.
    """

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = (
        real.cudaMemcpyKind if real else SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    )
    cudaStreamCaptureMode = real.cudaStreamCaptureMode if real else SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        self.blocks, self.held, self.numbers = {}, set(), itertools.count(1000)
        self.captured, self.launched, self.context, self.recordable = 0, 0, None, True

    def __getattribute__(self, name):
        ours = super().__getattribute__(name)
        if not (inspect.ismethod(ours) and name.startswith("cuda") and real) or nvidia_gpus():
            return ours

        def both(*arguments):
            getattr(real, name)(*arguments)
            return ours(*arguments)

        return both

    def made(self):
        self.held.add(number := next(self.numbers))
        return 0, number

    def gone(self, number):
        self.held.remove(number)
        return (0,)

    def cudaMalloc(self, size):
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address):
        del self.blocks[address]
        return (0,)

    cudaMallocHost, cudaFreeHost = cudaMalloc, cudaFree

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamCreateWithFlags(self, flags):
        return self.made()

    def cudaEventCreate(self):
        return self.made()

    def cudaStreamDestroy(self, stream):
        return self.gone(stream)

    def cudaEventDestroy(self, event):
        return self.gone(event)

    def cudaGraphDestroy(self, graph):
        return self.gone(graph)

    def cudaGraphExecDestroy(self, recording):
        return self.gone(recording)

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaEventRecord(self, event, stream):
        return (0,)

    def cudaEventElapsedTime(self, start, end):
        return 0, 0.5

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured += 1
        return (0,)

    def cudaStreamEndCapture(self, stream):
        return self.made() if self.recordable else (901, None)

    def cudaGetLastError(self):
        return (901,)

    def cudaGraphInstantiate(self, graph, flags):
        return self.made()

    def cudaGraphLaunch(self, recording, stream):
        assert recording in self.held
        self.launched += 1
        self.context.execute_async_v3(stream)
        return (0,)


class Context:
    """y = 2 x, for x of float32 [batch, 3]."""

    def __init__(self):
        self.shape, self.addresses = None, {}

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        count = int(np.prod(self.shape))
        view = {n: np.ctypeslib.as_array((ctypes.c_float * count).from_address(a)) for n, a in self.addresses.items()}
        view["y"][:] = 2 * view["x"]
        return True


@pytest.fixture
def engine_of():
    """(TensorRT, CUDA, engine) stand-ins around an execution context."""

    def make(context):
        cuda = Cuda()
        cuda.context = context
        engine = SimpleNamespace(
            create_execution_context=lambda: context,
            num_io_tensors=2,
            get_tensor_name=lambda index: "xy"[index],
            get_tensor_mode=lambda name: "in" if name == "x" else "out",
            get_tensor_shape=lambda name: (-1, 3),
            get_tensor_dtype=lambda name: "float",
            get_tensor_profile_shape=lambda name, profile: ((1, 3), (1, 3), (4, 3)),
        )
        trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in"), nptype=lambda dtype: np.float32)
        return trt, cuda, engine

    return make


@pytest.fixture
def opened(engine_of):
    trt, cuda, engine = engine_of(Context())
    return tensorrt_session._opened(trt, cuda, object(), engine), cuda


def test_batches_of_every_size_in_the_profile_are_answered(opened):
    session, _ = opened
    assert session.inputs["x"].shape == (None, 3)
    for batch in (4, 1, 3, 1, 1):
        x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
        np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)
    assert set(session.parts()) == {"host_to_device", "compute", "device_to_host"}


def test_the_second_run_at_a_shape_is_recorded_and_later_ones_replayed(opened):
    session, cuda = opened
    x = np.ones((2, 3), np.float32)
    for _ in range(4):
        session.run({"x": x})
    assert (cuda.captured, cuda.launched) == (1, 3)
    session.run({"x": x[:1]})  # other shapes: the recording no longer holds
    session.run({"x": x})
    assert (cuda.captured, cuda.launched) == (1, 3)


def test_an_engine_that_cannot_be_recorded_runs_without(opened):
    session, cuda = opened
    cuda.recordable = False
    for _ in range(4):
        np.testing.assert_array_equal(session.run({"x": np.ones((2, 3), np.float32)})["y"], 2)
    assert (cuda.captured, cuda.launched) == (1, 0)


def test_recordings_of_other_shapes_and_at_the_end_all_else_are_given_back(opened, engine_of):
    trt, cuda, engine = engine_of(Context())
    session = tensorrt_session._opened(trt, cuda, object(), engine)
    held = len(cuda.held)
    for batch in (1, 1, 2, 2, 1, 1, 2, 2):
        session.run({"x": np.ones((batch, 3), np.float32)})
    assert cuda.captured == 4 and len(cuda.held) == held + 1
    del session
    assert not cuda.held and not cuda.blocks


def test_tensorrt_for_rtx_records_by_itself(engine_of):
    trt, cuda, engine = engine_of(Context())
    config, contexts = SimpleNamespace(cuda_graph_strategy=None), []
    trt.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    make = engine.create_execution_context
    engine.create_runtime_config = lambda: config
    engine.create_execution_context = lambda given: contexts.append(given) or make()
    session = tensorrt_session._opened(trt, cuda, object(), engine)
    for _ in range(3):
        session.run({"x": np.ones((2, 3), np.float32)})
    assert contexts == [config] and config.cuda_graph_strategy == "whole" and cuda.captured == 0


def test_an_answer_is_not_overwritten_by_the_next_one(opened):
    session, _ = opened
    first = session.run({"x": np.ones((1, 3), np.float32)})["y"]
    session.run({"x": np.zeros((1, 3), np.float32)})
    assert (first == 2).all()


def test_a_batch_outside_the_profile_and_a_cuda_error_are_told(opened):
    session, cuda = opened
    with pytest.raises(MmedgeError, match=r"the engine takes \[1, 3\] to \[4, 3\]"):
        session.run({"x": np.ones((5, 3), np.float32)})
    cuda.cudaStreamSynchronize = lambda stream: (2,)
    with pytest.raises(MmedgeError, match="CUDA answers"):
        session.run({"x": np.ones((1, 3), np.float32)})


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("plan")
    write_graph(folder / "model.onnx")
    tensorrt.build("tensorrt-rtx", Job(folder / "model.onnx", "engine", profiles_of(CONTRACT), tensorrt.Options()))
    return folder


@pytest.mark.skipif(bool(nvidia_gpus()), reason="there is a GPU")
def test_without_a_gpu_loading_an_engine_is_exit_6(plan):
    with pytest.raises(MissingDependency, match="CUDA finds no GPU") as raised:
        tensorrt_session.session(plan / "engine.plan", "tensorrt-rtx")
    assert raised.value.exit_code == 6


@pytest.mark.skipif(not nvidia_gpus(), reason="there is no GPU")
def test_a_built_engine_answers_as_onnxruntime(plan):
    session = tensorrt_session.session(plan / "engine.plan", "tensorrt-rtx")
    random = np.random.default_rng(0)
    for batch in (1, 3, 3, 3, 8):
        feed = {
            name: random.standard_normal((batch, *spec.shape)).astype(np.float32)
            for name, spec in CONTRACT.modalities.items()
        }
        feed["present"] = np.ones((batch, 2), bool)
        expected = onnxruntime_cpu.session(plan / "model.onnx")(feed)["logits"]
        np.testing.assert_allclose(session.run(feed)["logits"], expected, atol=1e-2)


class Profiled(Context):
    """Reports two layers a run to its profiler, as TensorRT does."""

    profiler = None

    def execute_async_v3(self, stream):
        if self.profiler is not None:
            self.profiler.report_layer_time("conv_1 + relu_1", 0.003)
            self.profiler.report_layer_time("__myl_Fc", 0.001)
        return super().execute_async_v3(stream)


def test_layers_are_timed_by_tensorrts_profiler_without_recordings_and_told_with_their_nodes(engine_of):
    trt, cuda, engine = engine_of(Profiled())
    trt.IProfiler, trt.LayerInformationFormat = object, SimpleNamespace(JSON="json")
    told = {"Layers": ["conv_1 + relu_1", {"Name": "__myl_Fc", "Metadata": "[ONNX Layer: head_linear]"}]}
    engine.create_engine_inspector = lambda: SimpleNamespace(get_engine_information=lambda kind: json.dumps(told))
    rows = tensorrt_session._layer_times(trt, cuda, object(), engine, {"x": np.ones((1, 3), np.float32)}, runs=4)
    assert rows == [
        ("conv_1 + relu_1", "", pytest.approx(3.0)),
        ("__myl_Fc", "[ONNX Layer: head_linear]", pytest.approx(1.0)),
    ]
    assert cuda.captured == 0


@pytest.mark.skipif(not nvidia_gpus(), reason="there is no GPU")
def test_a_built_engine_is_profiled_by_branch(plan):
    feed = {"image": np.zeros((1, 1, 8, 8), np.float32), "vitals": np.zeros((1, 3), np.float32)}
    feed["present"] = np.ones((1, 2), bool)
    rows, basis = layers.by_layer(plan / "engine.plan", "tensorrt-rtx", feed, 1)
    assert basis == "TensorRT's layer profiler" and sum(row.share for row in rows) == pytest.approx(1)
