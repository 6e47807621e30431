"""INT8 of pretrained networks: mmedge beside plain NNCF and plain ONNX Runtime, on both runtimes (``make bench-large``).

1. ``pretrained.Fused``, 27 M parameters, on emoji: accuracy on validation and test, what is lost against FP32 (paired), what
   each modality alone loses, and latency, all in one interleaved run.
2. A dual encoder of CLIP-B/16's size: see ``large_clip``.

``python -m tests.benchmarks.large FOLDER``: FOLDER holds ``emoji/package``, the run, which goes on there, and the figures that are
there already, a file of JSON a piece (``figures``). ``LARGE_TRIAL=1`` tries the whole of it at a tenth of the cost, in a folder of
its own, since its figures mean nothing.
"""

import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NNCF_CI"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

from mmedge import recipe
from mmedge.artifact import hash_json, read, remembered, replacing
from mmedge.backends import onnxruntime_cpu, openvino_cpu
from mmedge.backends.onnxfile import content_sha256
from mmedge.cli.common import progress
from mmedge.contract import Contract
from mmedge.data.store import samples
from mmedge.data.store.samples import Dataset, Samples
from mmedge.errors import first_line
from mmedge.measure.budget import WHOLE, SplitOutputs, losses_of, split_outputs
from mmedge.measure.latency import Opener, one_sample, time_sessions
from mmedge.measure.quality import graph_predictor, score
from mmedge.models.load import contract_of
from mmedge.pipeline import fold
from mmedge.progress import Progress
from mmedge.recipe import Measure, Recipe
from mmedge.stages.quantize.calibration import calibration_inputs, calibration_rows
from recipes import emoji
from tests.benchmarks import large_clip, pretrained

_TRIAL = bool(os.environ.get("LARGE_TRIAL"))
# Samples that rivals calibrate on; mmedge finds how many its ranges need. And of each split that judges.
_RUNS, _CALIBRATION, _JUDGED = (20, 8, 24) if _TRIAL else (200, 128, None)
_CHEAP = {"candidates": ["fp32", "int8"], "calibration": _CALIBRATION, "fallbacks": []}
_REFERENCE = "FP32 on ONNX Runtime"
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
        "quantize": {"qat": "never", **(_CHEAP if _TRIAL else {})},
        "export": {"targets": {"onnxruntime-cpu": {}, "openvino-cpu": {}}},
        "gates": {"policy": "point"},
        "measure": {"runs": _RUNS},
        "report": {"explained": 0},
    }
    return recipe.parse(values, where=Path("bench-large"), folder=folder)


def rivals(graph: Path, dataset: Dataset, folder: Path, shown: Progress) -> dict[str, Path]:
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
        with contextlib.redirect_stdout(io.StringIO()):  # its bars are not of the table
            made = nncf.quantize(onnx.load(graph), nncf.Dataset(inputs), subset_size=len(inputs), **more)
        onnx.save(made, target)

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
                shown.say(f"making {name}")
                with replacing(target) as beside:
                    make(beside)
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

    def ran() -> tuple[float, float]:
        """GiB at most of the process that ran the recipe, and the seconds of its quantize stage."""
        fold.run(resolved, out, code=code, progress=shown)
        stages = json.loads((out / "report.json").read_text())["stages"]
        spent = next(stage["seconds"] for stage in stages if stage["stage"] == "quantize")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, spent

    peak, spent = remembered(folder / "figures" / "taken.json", ran)
    fold.run(resolved, out, code=code, progress=shown)  # what changed since
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
    for name, file in rivals(graph, dataset, folder, shown).items():
        files |= {f"{name} on {runtime}": (file, runtime) for runtime in _RUNTIMES}
    print(
        f"\n27 M parameters; {len(dataset.validation)} validation and {len(dataset.test)} test samples; quantize took {spent:.0f} s,"
        f" and the process of the whole run {peak:.1f} GiB at most\n"
    )
    print_rows(files, contract, dataset, folder / "figures", shown)


def print_rows(
    files: dict[str, tuple[Path, str]], contract: Contract, dataset: Dataset, kept: Path, shown: Progress
) -> None:
    """A row each, ``files``: {name: (graph, runtime)}: quality and losses on both splits, size, time; ``kept``: figures there are."""
    openers: dict[str, Opener] = {}
    for name, (file, runtime) in files.items():
        try:
            _RUNTIMES[runtime](file)
            openers[name] = partial(_RUNTIMES[runtime], file)
        except Exception as error:  # a form that a runtime does not take is a row of the table
            print(f"{name}: does not load: {first_line(error)}")
    hashes = {name: content_sha256(files[name][0]) for name in openers}

    def timed() -> dict[str, str]:
        taken = time_sessions(openers, one_sample(dataset.test, 1), Measure(threads=1, runs=_RUNS, warmup=10), shown)
        return {name: large_clip.faster(taken.ratio(name, _REFERENCE)) for name in openers}

    times = remembered(kept / f"times-{hash_json([hashes, _RUNS])[:16]}.json", timed)
    print(
        "| way | accuracy, validation; test | lost to FP32 [95 %], validation; test | picture alone, name alone (validation; test) | MB | times as fast as FP32 on ONNX Runtime [95 %] |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    splits = {name: _some(getattr(dataset, name)) for name in ("validation", "test")}
    expected: dict[str, SplitOutputs] = {}

    def judged(name: str) -> list[str]:
        """Accuracy, what is lost, and what is lost with one modality alone."""
        figures: dict[str, list[str]] = {"quality": [], "whole": [], "alone": []}
        for which, split in splits.items():
            if which not in expected:
                run = openers[_REFERENCE]()
                expected[which] = split_outputs(contract, split, graph_predictor(run, contract, split))
            outputs = split_outputs(contract, split, graph_predictor(openers[name](), contract, split))
            found = losses_of(contract, split)(expected[which], outputs, 0.025)
            whole = found[WHOLE]
            figures["quality"].append(f"{score(contract, outputs[WHOLE][1], split.targets):.3f}")
            figures["whole"].append(f"{whole.value:+.3f} [{whole.low:+.3f}, {whole.high:+.3f}]")
            figures["alone"].append(", ".join(f"{found[each].value:+.3f}" for each in ("picture", "name")))
        return ["; ".join(each) for each in figures.values()]

    for number, name in enumerate(openers):
        shown.step("judging", number, len(openers), name)
        key = hash_json([hashes[name], files[name][1], hashes[_REFERENCE]])[:16]
        row = remembered(kept / f"judged-{key}.json", partial(judged, name))
        file = files[name][0]
        size = sum(each.stat().st_size for each in (file, file.with_suffix(".bin")) if each.is_file()) / 1e6
        print(f"| {name} | {' | '.join(row)} | {size:.1f} | {times[name]} |", flush=True)


def _some(split: Samples) -> Samples:
    return split if _JUDGED is None else split.taken(np.arange(_JUDGED))


def main() -> None:
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "emoji" / "package").is_dir():
        print("skipped: it needs packages that `make bench-large` gets")
        return
    folder, began = Path(sys.argv[1]).resolve(), time.monotonic()
    (folder / "figures").mkdir(exist_ok=True)
    if not (folder / "table.csv").is_file():
        emoji.main(folder / "emoji" / "package", folder / "table.csv")
    with progress() as shown:
        fused_table(folder, shown)
        weights = folder / "teacher.safetensors"
        dataset = samples.prepare(recipe_of(folder, weights), folder / "run", code=Path.cwd(), progress=shown)
        large_clip.table(folder, dataset, _RUNTIMES, _RUNS // 5, shown)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
