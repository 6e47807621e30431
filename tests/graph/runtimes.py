"""A network in INT8 on both of the CPU's runtimes."""

import torch

from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.stages.quantize import ptq


def int8_on_both(net, inputs, folder):
    """[(FP32's, INT8's on ONNX Runtime, INT8's on OpenVINO)] of the last eight of the ``inputs``, tensors; the others calibrate.

    ``int8.onnx`` is in ``folder`` afterwards.
    """
    path, target = folder / "net.onnx", folder / "int8.onnx"
    torch.onnx.export(net.eval(), (inputs[0],), path, input_names=["x"], dynamo=True, verbose=False)
    feeds = [{"x": each.numpy()} for each in inputs]
    ptq.int8(path, target, feeds[:-8])
    runs = onnxruntime_cpu.session(path), onnxruntime_cpu.session(target), openvino_cpu.session(target)
    return [tuple(next(iter(run(feed).values())) for run in runs) for feed in feeds[-8:]]
