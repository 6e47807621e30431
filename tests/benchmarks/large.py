"""INT8 of pretrained networks: mmedge beside plain NNCF and plain ONNX Runtime, on both runtimes (``make bench-large``).

1. ``pretrained.Fused``, 27 M parameters, on emoji: accuracy on the test split, what is lost against FP32 (paired), what each
   modality alone loses, and latency, all in one interleaved run.
2. A dual encoder of CLIP-B/16's size with random weights: time, and the cosine to FP32's outputs, for pictures and names.

``python -m tests.benchmarks.large FOLDER``: FOLDER holds ``emoji/package``, and the run, which goes on there.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NNCF_CI"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from torch import nn

from mmedge import recipe
from mmedge.artifact import read
from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.backends.session import Session
from mmedge.cli.common import progress
from mmedge.contract import Contract
from mmedge.data.store import samples
from mmedge.data.store.samples import Dataset
from mmedge.errors import first_line
from mmedge.graph import dynamic, foreign
from mmedge.measure.budget import WHOLE, SplitOutputs, losses_of, split_outputs
from mmedge.measure.latency import Opener, one_sample, time_sessions
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
# {input: array} of one sample.
Feed = dict[str, np.ndarray]
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
        "quantize": {"qat": "never"},
        "export": {"targets": {"onnxruntime-cpu": {}, "openvino-cpu": {}}},
        "gates": {"policy": "point"},
        "measure": {"runs": 200},
        "report": {"explained": 0},
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
        # ONNX Runtime 1.31's symbolic inference of shapes stops at this graph's masks.
        quant_pre_process(str(graph), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
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
        try:
            if not target.is_file():
                make(target)
            made[name] = target
        except Exception as error:  # another tool's failure is a row that is missing, not the end of the table
            print(f"{name}: not made: {type(error).__name__}: {first_line(error)}")
    return made


def fused_table(folder: Path, shown: Progress) -> None:
    """Run the recipe, make the rivals, time and judge all of them on both runtimes."""
    weights, code = folder / "teacher.safetensors", Path.cwd()
    if not weights.is_file():
        from safetensors.torch import save_file

        dataset = samples.prepare(recipe_of(folder, None), folder / "data", code=code, progress=shown)
        save_file(pretrained.trained(dataset), weights)
    resolved, out = recipe_of(folder, weights), folder / "run"
    fold.run(resolved, out, code=code, progress=shown)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    stages = json.loads((out / "report.json").read_text())["stages"]
    spent = next(stage["seconds"] for stage in stages if stage["stage"] == "quantize")
    dataset = samples.prepare(resolved, out, code=code, progress=shown)
    teacher = read(out / "teacher")
    graph, contract = teacher.file("model.onnx"), contract_of(teacher)
    files = {_REFERENCE: (graph, "ONNX Runtime"), "FP32 on OpenVINO": (graph, "OpenVINO")}
    for runtime, name, file in (
        ("ONNX Runtime", "export-onnxruntime-cpu", "model.onnx"),
        ("OpenVINO", "export-openvino-cpu", "engine.xml"),
    ):
        made = read(out / name)
        files[f"**mmedge ({made.meta['candidate']})** on {runtime}"] = (made.file(file), runtime)
    for name, file in rivals(graph, dataset, folder).items():
        files |= {f"{name} on {runtime}": (file, runtime) for runtime in _RUNTIMES}
    print(
        f"\n27 M parameters; {len(dataset.validation)} validation and {len(dataset.test)} test samples; quantize took {spent:.0f} s"
        f" (with resume, when it was made), and the run {peak:.1f} GiB at most\n"
    )
    print_rows(files, contract, dataset, shown)


def print_rows(files: dict[str, tuple[Path, str]], contract: Contract, dataset: Dataset, shown: Progress) -> None:
    """A row each, ``files``: {name: (graph, runtime)}: quality and losses on both splits, size, time."""
    openers: dict[str, Opener] = {}
    for name, (file, runtime) in files.items():
        try:
            _RUNTIMES[runtime](file)
            openers[name] = partial(_RUNTIMES[runtime], file)
        except Exception as error:  # a form that a runtime does not take is a row of the table
            print(f"{name}: does not load: {first_line(error)}")
    taken = time_sessions(openers, one_sample(dataset.test, 1), Measure(threads=1, runs=200, warmup=10), shown)
    splits = {"validation": dataset.validation, "test": dataset.test}
    print(
        "| way | accuracy, validation and test | lost to FP32 [95 %] | picture alone, name alone | MB | times as fast as FP32 on ONNX Runtime [95 %] |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    expected: dict[str, SplitOutputs] = {}
    for number, (name, opener) in enumerate(openers.items()):
        shown.step("judging", number, len(openers), name)
        figures: dict[str, list[str]] = {"quality": [], "whole": [], "alone": []}
        for which, split in splits.items():
            outputs = split_outputs(contract, split, graph_predictor(opener(), contract, split))
            expected.setdefault(which, outputs)
            found = losses_of(contract, split)(expected[which], outputs, 0.025)
            whole = found[WHOLE]
            figures["quality"].append(f"{score(contract, outputs[WHOLE][1], split.targets):.3f}")
            figures["whole"].append(f"{whole.value:+.3f} [{whole.low:+.3f}, {whole.high:+.3f}]")
            figures["alone"] += [f"{found[each].value:+.3f}" for each in ("picture", "name")]
        file, ratio = files[name][0], taken.ratio(name, _REFERENCE)
        size = sum(each.stat().st_size for each in (file, file.with_suffix(".bin")) if each.is_file()) / 1e6
        told = " | ".join(", ".join(each) for each in figures.values())
        print(f"| {name} | {told} | {size:.1f} | {1 / ratio.value:.2f} [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}] |")


def clip_encoders(dataset: Dataset) -> dict[str, tuple[nn.Module, list[Feed]]]:
    """{encoder: (CLIP-B/16's with random weights, inputs of 24 real samples)}."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    rows = calibration_rows(dataset.train, 24, 0)
    pictures = torch.from_numpy(np.array(dataset.train.inputs["picture"])[rows])
    pictures = torch.nn.functional.interpolate(pictures, (224, 224), mode="bilinear")
    names = np.array(dataset.train.inputs["name"])[rows]
    ids = np.zeros((len(rows), 77), np.int64)
    ids[:, : names.shape[1]] = names
    torch.manual_seed(0)
    text = CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=512, intermediate_size=2048, num_attention_heads=8))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=16))
    return {
        "text": (text.eval(), [{"input_ids": row[None]} for row in ids]),
        "image": (vision.eval(), [{"pixel_values": row[None].numpy()} for row in pictures]),
    }


def clip_table(folder: Path, shown: Progress) -> None:
    """The text and the picture encoder of CLIP-B/16's size, random weights, INT8 against FP32."""
    recipe_ = recipe_of(folder, folder / "teacher.safetensors")
    encoders = clip_encoders(samples.prepare(recipe_, folder / "run", code=Path.cwd(), progress=shown))
    print(
        "\n| encoder, 77 tokens or 224 pixels | way | cosine to FP32, least of 8 | MB | times as fast as FP32 on ONNX Runtime [95 %] |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, (module, feeds) in encoders.items():
        graphs = {kind: folder / f"clip-{name}-{kind}.onnx" for kind in ("fp32", "int8", "int8-dynamic")}
        if not graphs["fp32"].is_file():
            given, plain = feeds[0], folder / "clip.onnx"
            torch.onnx.export(
                module, (), plain, kwargs={key: torch.from_numpy(value) for key, value in given.items()},
                input_names=list(given), dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
            foreign.tidied(plain, graphs["fp32"], given)
            plain.unlink()
        if not graphs["int8"].is_file():
            ptq.int8(graphs["fp32"], graphs["int8"], feeds[:16], "int8")
            dynamic.int8(graphs["fp32"], graphs["int8-dynamic"])
        named = {f"{kind} on {runtime}": partial(opened, file)
                 for runtime, opened in _RUNTIMES.items() for kind, file in graphs.items()
                 if kind != "int8-dynamic" or runtime == "ONNX Runtime"}  # fmt: skip
        taken = time_sessions(named, feeds[0], Measure(threads=1, runs=40, warmup=2), shown)
        first = next(iter(named))
        expected = [_embedding(named[first](), feed) for feed in feeds[16:]]
        for label, opener in named.items():
            run, size = opener(), graphs[label.partition(" ")[0]].stat().st_size / 1e6
            cosines = [_cosine(a, _embedding(run, feed)) for a, feed in zip(expected, feeds[16:])]
            ratio = taken.ratio(label, first)
            interval = f"[{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"
            print(
                f"| {name} | {label} | {min(cosines):.4f} | {size:.0f} | {1 / ratio.value:.2f} {interval} |", flush=True
            )


def _embedding(run: Session, feed: Feed) -> np.ndarray:
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
