"""A backend as somebody would add it: ONNX Runtime's graph, optimised once and saved, so that it loads without being so again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmedge import backends
from mmedge.backends import Missing, Opening, Session, onnxruntime_cpu
from mmedge.backends.backend import Backend, Job
from mmedge.backends.engine import Engine
from mmedge.machine import version

ABSENT: list[Missing] = []  # what a test takes from this machine


class Options(backends.Options):
    """How the graph is optimised."""

    level: Literal["basic", "all"] = Field("basic", description="How far the graph is optimised.")


def build(job: Job) -> Engine:
    import onnxruntime

    assert isinstance(job.options, Options)
    levels = onnxruntime.GraphOptimizationLevel
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = {"basic": levels.ORT_ENABLE_BASIC, "all": levels.ORT_ENABLE_ALL}[
        job.options.level
    ]
    file = f"{job.stem}.optimized.onnx"
    settings.optimized_model_filepath = str(job.graph.with_name(file))
    onnxruntime.InferenceSession(str(job.graph), settings, providers=["CPUExecutionProvider"])
    return Engine(file=file, files=[file], version=_version(), level=job.options.level)


def _version() -> str:
    return version("onnxruntime") or ""


def _open(file: Path, opening: Opening) -> Session:
    return onnxruntime_cpu.session(file, threads=opening.threads, optimize=False)


def _belongs(engine: Engine) -> str | None:
    return None if engine.version == _version() else f"it was saved by ONNX Runtime {engine.version}"


BACKEND = Backend(
    name="onnxruntime-saved",
    open=_open,
    layer_times=onnxruntime_cpu.layer_times,
    missing_to_run=lambda: ABSENT,
    missing_to_build=lambda: ABSENT,
    build=build,
    options=Options,
    lacks={"int8": "it is a test's; name fp16"},
    belongs=_belongs,
)
