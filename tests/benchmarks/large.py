"""INT8 of pretrained networks: mmedge beside plain NNCF and plain ONNX Runtime, on both runtimes (``make bench-large``).

1. ``pretrained.Fused``, 27 M parameters, on emoji: accuracy on the test split, what is lost against FP32 (paired), what each
   modality alone loses, and latency, all in one interleaved run.
2. A dual encoder of CLIP-B/16's size with random weights: time, and the cosine to FP32's outputs, for pictures and names.

``python -m tests.benchmarks.large FOLDER``: FOLDER holds ``emoji/package``, and the run, which goes on there.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NNCF_CI"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch

from mmedge import recipe
from mmedge.artifact import read
from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.backends.session import Session
from mmedge.cli.common import progress
from mmedge.data.store import samples
from mmedge.data.store.samples import Dataset
from mmedge.measure.budget import WHOLE, losses_of, split_outputs
from mmedge.measure.latency import one_sample, time_sessions
from mmedge.measure.quality import graph_predictor, score
from mmedge.models.load import contract_of
from mmedge.pipeline import fold
from mmedge.progress import Progress
from mmedge.recipe import Measure, Recipe
from mmedge.stages.quantize import ptq
from mmedge.stages.quantize.calibration import calibration_inputs, calibration_rows
from recipes import emoji
from tests.benchmarks import pretrained

_CALIBRATION, _REFERENCE = 128, "FP32 on ONNX Runtime"
_RUNTIMES = {"ONNX Runtime": onnxruntime_cpu.session, "OpenVINO": openvino_cpu.session}


def recipe_of(folder: Path, weights: Path | None) -> Recipe:
    """FP32 as it is, quantized, and shipped for both runtimes; losses are taken as they are measured, not proved."""
    size = {"height": pretrained.PIXELS, "width": pretrained.PIXELS}
    # What EfficientNet-lite was trained with: (x - 127) / 128 of pixels to 255.
    picture = {"kind": "image", "column": "picture", **size, "mean": [127 / 255], "std": [128 / 255]}
    name = {"kind": "text", "length": pretrained.TOKENS, "tokenizer_file": str(pretrained.tokenizer_file())}
    model: dict[str, Any] = {"factory": "tests.benchmarks.pretrained:fused"}
    values = {
        "schema": 1,
        "name": "large",
        "data": {
            "manifest": str(folder / "table.csv"),
            "target": "category",
            "id": "id",
            "group": "kin",
            "modalities": {"picture": picture, "name": name},
        },
        "teacher": {"model": model | {"weights": str(weights)}}
        if weights
        else {"model": model, "train": {"epochs": 1}},
        "quantize": {},
        "export": {"targets": {"onnxruntime-cpu": {}, "openvino-cpu": {}}},
        "gates": {"policy": "point"},
    }
    return recipe.parse(values, where=Path("bench-large"), folder=folder)


def rivals(graph: Path, dataset: Dataset, folder: Path) -> dict[str, Path]:
    """What NNCF's and ONNX Runtime's documentation show, on the same calibration samples."""
    import nncf
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    inputs = calibration_inputs(dataset.train, calibration_rows(dataset.train, _CALIBRATION, 0), 0)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> Any:
            return next(self.left, None)

    def by_nncf(target: Path, **more: Any) -> None:
        onnx.save(nncf.quantize(onnx.load(graph), nncf.Dataset(inputs), subset_size=len(inputs), **more), target)

    def static(target: Path) -> None:
        quant_pre_process(str(graph), str(folder / "prepared.onnx"))
        quantize_static(str(folder / "prepared.onnx"), str(target), Reader(), per_channel=True)

    makers: dict[str, Callable[[Path], None]] = {
        "plain NNCF": by_nncf,
        "plain NNCF, model type transformer": partial(by_nncf, model_type=nncf.ModelType.TRANSFORMER),
        "plain ONNX Runtime, static": static,
        "plain ONNX Runtime, dynamic": lambda target: quantize_dynamic(str(graph), str(target)),
    }
    made = {}
    for number, (name, make) in enumerate(makers.items()):
        target = folder / f"rival-{number}.onnx"
        if not target.is_file():
            make(target)
        made[name] = target
    return made


def fused_table(folder: Path, shown: Progress) -> None:
    """Run the recipe, make the rivals, time and judge all of them on both runtimes."""
    weights, code = folder / "teacher.safetensors", Path.cwd()
    if not weights.is_file():
        from safetensors.torch import save_file

        dataset = samples.prepare(recipe_of(folder, None), folder / "data", code=code, progress=shown)
        save_file(pretrained.trained(dataset), weights)
    resolved, out = recipe_of(folder, weights), folder / "run"
    began = time.monotonic()
    fold.run(resolved, out, code=code, progress=shown)
    spent = time.monotonic() - began
    dataset = samples.prepare(resolved, out, code=code, progress=shown)
    teacher, made = (
        read(out / "teacher"),
        [read(out / f"export-{name}") for name in ("onnxruntime-cpu", "openvino-cpu")],
    )
    graph, contract = teacher.file("model.onnx"), contract_of(teacher)
    files = {_REFERENCE: (graph, "ONNX Runtime"), "FP32 on OpenVINO": (graph, "OpenVINO")}
    ours = (made[0].file("model.onnx"), made[1].file("engine.xml"))
    for artifact, file, runtime in zip(made, ours, _RUNTIMES):
        files[f"**mmedge ({artifact.meta['candidate']})** on {runtime}"] = (file, runtime)
    for name, file in rivals(graph, dataset, folder).items():
        files |= {f"{name} on {runtime}": (file, runtime) for runtime in _RUNTIMES}
    openers: dict[str, Callable[[], Session]] = {}
    for name, (file, runtime) in files.items():
        try:
            _RUNTIMES[runtime](file)
            openers[name] = partial(_RUNTIMES[runtime], file)
        except Exception as error:  # a form that a runtime does not take is a row of the table
            print(f"{name}: does not load: {str(error).splitlines()[0]}")
    taken = time_sessions(openers, one_sample(dataset.test, 1), Measure(threads=1, runs=200, warmup=10), shown)
    lost = losses_of(contract, dataset.test)
    outputs = {
        name: split_outputs(contract, dataset.test, graph_predictor(opener(), contract, dataset.test))
        for name, opener in openers.items()
    }
    print(f"\n27 M parameters, {len(dataset.test)} test samples; the run, FP32 to both engines, took {spent:.0f} s\n")
    print(
        "| way | accuracy | lost to FP32 [95 %] | picture alone, name alone | MB | times as fast as FP32 on ONNX Runtime |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name in openers:
        found = lost(outputs[_REFERENCE], outputs[name], 0.025)
        whole, ratio = found[WHOLE], taken.ratio(name, _REFERENCE)
        quality = score(contract, outputs[name][WHOLE][1], dataset.test.targets)
        alone = ", ".join(f"{found[each].value:+.3f}" for each in ("picture", "name"))
        file = files[name][0]
        size = sum(each.stat().st_size for each in (file, file.with_suffix(".bin")) if each.is_file()) / 1e6
        print(f"| {name} | {quality:.3f} | {whole.value:+.3f} [{whole.low:+.3f}, {whole.high:+.3f}] | {alone} | {size:.1f} | {1 / ratio.value:.2f} |")  # fmt: skip


def clip_table(folder: Path, shown: Progress) -> None:
    """The text and the picture encoder of CLIP-B/16's size, random weights, INT8 against FP32."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    dataset = samples.prepare(
        recipe_of(folder, folder / "teacher.safetensors"), folder / "run", code=Path.cwd(), progress=shown
    )
    rows = calibration_rows(dataset.train, 24, 0)
    pictures = torch.from_numpy(np.array(dataset.train.inputs["picture"])[rows])
    pictures = torch.nn.functional.interpolate(pictures, (224, 224), mode="bilinear")
    names = np.array(dataset.train.inputs["name"])[rows]
    ids = np.zeros((len(rows), 77), np.int64)
    ids[:, : names.shape[1]] = np.where(names > 0, names, 0)
    torch.manual_seed(0)
    text = CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=512, intermediate_size=2048, num_attention_heads=8))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=16))
    encoders = {"text": (text, "input_ids", torch.from_numpy(ids)), "image": (vision, "pixel_values", pictures)}
    print(
        "\n| encoder, 77 tokens or 224 pixels | runtime | cosine to FP32, least of 8 | times as fast as FP32 on ONNX Runtime |"
    )
    print("| --- | --- | --- | --- |")
    for name, (module, given, value) in encoders.items():
        graph, quantized = folder / f"clip-{name}.onnx", folder / f"clip-{name}-int8.onnx"
        if not graph.is_file():
            torch.onnx.export(
                module.eval(),
                (),
                graph,
                kwargs={given: value[:1]},
                input_names=[given],
                dynamo=True,
                external_data=False,
            )
        feeds = [{given: row[None].numpy()} for row in value]
        if not quantized.is_file():
            ptq.int8(graph, quantized, feeds[:16], "int8")
        openers = {(runtime, kind): partial(opened, file)
                   for runtime, opened in _RUNTIMES.items() for kind, file in (("FP32", graph), ("INT8", quantized))}  # fmt: skip
        named = {" ".join(key): opener for key, opener in openers.items()}
        taken = time_sessions(named, feeds[0], Measure(threads=1, runs=20, warmup=2), shown)
        expected = [_embedding(named["ONNX Runtime FP32"](), feed) for feed in feeds[16:]]
        for label, opener in named.items():
            run = opener()
            cosines = [_cosine(a, _embedding(run, feed)) for a, feed in zip(expected, feeds[16:])]
            ratio = taken.ratio(label, "ONNX Runtime FP32")
            print(f"| {name} | {label} | {min(cosines):.4f} | {1 / ratio.value:.2f} |")


def _embedding(run: Session, feed: dict[str, np.ndarray]) -> np.ndarray:
    return next(value for value in run(feed).values() if value.ndim == 2).ravel()


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main() -> None:
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "emoji" / "package").is_dir():
        print("skipped: it needs packages that `make bench-large` gets")
        return
    folder = Path(sys.argv[1]).resolve()
    if not (folder / "table.csv").is_file():
        emoji.main(folder / "emoji" / "package", folder / "table.csv")
    with progress() as shown:
        fused_table(folder, shown)
        clip_table(folder, shown)


if __name__ == "__main__":
    main()
