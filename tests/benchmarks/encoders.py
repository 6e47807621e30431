"""What each built-in encoder and fusion costs: parameters, multiplications, latency, what INT8 gains, and whether TensorRT builds it.

Random weights: accuracy is another matter, which hangs on the data. Latency on ONNX Runtime, one thread, batch 1, all
encoders of a kind of modality in one interleaved run; so is each one's INT8, as a ratio to its own FP32 graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from mmedge.backends import tensorrt
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.contract import Contract
from mmedge.errors import MmedgeError
from mmedge.graph.export import export
from mmedge.graph.trace import generated
from mmedge.measure.cost import macs, params
from mmedge.measure.latency import time_graphs
from mmedge.models import load
from mmedge.models.encoders import ENCODERS
from mmedge.models.fusions import FUSIONS
from mmedge.models.fusions.early import Early
from mmedge.progress import Silent
from mmedge.recipe import Measure, Model
from mmedge.stages.quantize import ptq

MODALITIES = {
    "image": {"kind": "image", "height": 64, "width": 64, "channels": 3},
    "audio": {"kind": "audio", "sample_rate": 16000, "mels": 40, "frames": 100},
    "text": {"kind": "text", "length": 32, "tokens": 2000},
    "tabular": {"kind": "tabular", "columns": [f"c{i}" for i in range(20)], "mean": [0] * 20, "std": [1] * 20},
    "sensor": {"kind": "sensor", "channels": 6, "length": 100},
    "points": {"kind": "points", "points": 256, "mean": [0] * 3, "std": [1] * 3},
    "video": {"kind": "video", "frames": 8, "height": 32, "width": 32, "channels": 3},
}
# One width of tokens, and of units; stages of growing width for the others.
ONE_WIDTH = {"widths": [64], "depth": 2}
STAGES = {"widths": [16, 32, 64], "depth": 1}
NARROW = ("transformer", "gru", "conformer", "mlp")
# A video's frames joined otherwise.
FRAMES = {"conv+attention": {"frames": "attention"}}


def main() -> None:
    """Prints a Markdown table a kind of modality, and one of fusions over three modalities."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads to build with; one thread to time")
    for kind in MODALITIES:
        more = FRAMES if kind == "video" else ()
        table(kind, {of: ({kind: of}, "concat") for of in (*ENCODERS[kind], *more)})
    joined = {"image": "conv", "sensor": "conv", "tabular": "mlp"}
    tokens = {"image": "transformer", "sensor": "transformer", "tabular": "mlp"}
    of_tokens = [fusion for fusion, build in FUSIONS.items() if getattr(build, "of_tokens", False)]
    late = {fusion: (joined, fusion) for fusion, build in FUSIONS.items() if build is not Early}
    table("fusion of image, sensor and tabular", {name: of for name, of in late.items() if name not in of_tokens})
    table("fusion of their tokens", {fusion: (tokens, fusion) for fusion in ("concat", *of_tokens)})
    table(
        "fusion of two images",
        {fusion: ({"image": "conv", "image_too": "conv"}, fusion) for fusion in ("concat", "early")},
    )


def table(title: str, networks: dict[str, tuple[dict[str, str], str]]) -> None:
    print(
        f"\n| {title} | parameters | MACs | p50 ms | INT8, times FP32's latency [95 %] | TensorRT-RTX |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder), networks):
            print("| " + " | ".join(row) + " |", flush=True)


def rows(folder: Path, networks: dict[str, tuple[dict[str, str], str]]) -> Iterator[tuple[str, ...]]:
    graphs, costs, builds = dict[str, Path](), dict[str, tuple[int, int]](), dict[str, str]()
    for name, (encoders, fusion) in networks.items():
        torch.manual_seed(0)
        modalities = {modality: MODALITIES[modality.partition("_")[0]] for modality in encoders}
        contract = Contract.model_validate(
            {"task": "classification", "labels": ["a", "b", "c"], "modalities": modalities}
        )
        sizes = {
            modality: {"kind": of.partition("+")[0], **(ONE_WIDTH if of in NARROW else STAGES), **FRAMES.get(of, {})}
            for modality, of in encoders.items()
        }
        module = load.build(Model.model_validate({"encoders": sizes, "fusion": fusion}), contract).eval()
        costs[name] = params(module), macs(module, contract)
        graphs[name] = folder / f"{name}.onnx"
        export(module, contract, graphs[name])
        calls = [{key: x.numpy() for key, x in generated(contract, 1, seed).items()} for seed in range(8)]
        try:
            ptq.int8(graphs[name], folder / f"{name}-int8.onnx", calls)
            graphs[f"{name} int8"] = folder / f"{name}-int8.onnx"
        except MmedgeError as error:
            print(f"{name}: {error}")
        try:
            job = Job(graphs[name], name, profiles_of(contract), tensorrt.Options())
            tensorrt.build("tensorrt-rtx", job)
            builds[name] = "built"
        except MmedgeError as error:
            builds[name] = error.what
    taken = time_graphs(graphs, calls[0], Measure(runs=400, threads=1), Silent())
    for name in networks:
        ratio = taken.ratio(f"{name} int8", name) if f"{name} int8" in graphs else None
        said = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "not made"
        count, work = costs[name]
        p50 = f"{taken.timing(name).p50_ms:.3f}"
        yield name, f"{count / 1e3:,.1f} k", f"{work / 1e6:,.2f} M", p50, said, builds[name]


if __name__ == "__main__":
    main()
