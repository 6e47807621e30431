"""INT8 of a dual encoder of CLIP-B/16's size with random weights: time, and the cosine to FP32's outputs, for pictures and names."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmedge.artifact import hash_json, remembered, replacing
from mmedge.backends.onnxfile import content_sha256
from mmedge.backends.session import Session
from mmedge.data.store.samples import Dataset
from mmedge.graph import dynamic, foreign
from mmedge.measure.latency import Ratio, time_sessions
from mmedge.progress import Progress
from mmedge.recipe import Measure
from mmedge.stages.quantize import ptq
from mmedge.stages.quantize.calibration import calibration_rows

# {input: array} of one sample.
Feed = dict[str, np.ndarray]
_CALIBRATED, _JUDGED, _WORDS, _PIXELS = 16, 8, 77, 224


def encoders(dataset: Dataset) -> dict[str, tuple[Callable[[], nn.Module], list[Feed]]]:
    """{encoder: (what builds CLIP-B/16's with random weights, inputs of real samples)}."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    rows = calibration_rows(dataset.train, _CALIBRATED + _JUDGED, 0)
    pictures = torch.from_numpy(np.array(dataset.train.inputs["picture"])[rows])
    pictures = torch.nn.functional.interpolate(pictures, (_PIXELS, _PIXELS), mode="bilinear")
    names = np.array(dataset.train.inputs["name"])[rows]
    ids = np.zeros((len(rows), _WORDS), np.int64)
    ids[:, : names.shape[1]] = names
    torch.manual_seed(0)
    text = CLIPTextConfig(hidden_size=512, intermediate_size=2048, num_attention_heads=8)
    return {
        "text": (lambda: CLIPTextModelWithProjection(text), [{"input_ids": row[None]} for row in ids]),
        "image": (
            lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=16)),
            [{"pixel_values": row[None].numpy()} for row in pictures],
        ),
    }


def table(
    folder: Path, dataset: Dataset, runtimes: Mapping[str, Callable[[Path], Session]], runs: int, shown: Progress
) -> None:
    """Print a row for each encoder, form and runtime; figures that lie in ``folder`` are taken from there."""
    print(
        "\n| encoder, 77 tokens or 224 pixels | way | cosine to FP32, least of 8 | MB | times as fast as FP32 on ONNX Runtime [95 %] |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, (build, feeds) in encoders(dataset).items():
        graphs = written(folder, name, build, feeds, shown)
        named = {f"{kind} on {runtime}": partial(opened, file)
                 for runtime, opened in runtimes.items() for kind, file in graphs.items()
                 if kind != "int8-dynamic" or runtime == "ONNX Runtime"}  # fmt: skip
        measured = partial(_measured, named, feeds, runs, shown)
        key = hash_json([{kind: content_sha256(file) for kind, file in graphs.items()}, runs])[:16]
        figures = remembered(folder / "figures" / f"clip-{name}-{key}.json", measured)
        for label, (cosine, ratio) in figures.items():
            size = graphs[label.partition(" ")[0]].stat().st_size / 1e6
            print(f"| {name} | {label} | {cosine:.4f} | {size:.0f} | {ratio} |", flush=True)


def written(
    folder: Path, name: str, build: Callable[[], nn.Module], feeds: list[Feed], shown: Progress
) -> dict[str, Path]:
    """{form: its graph} of an encoder; those that lie there are kept."""
    graphs = {kind: folder / f"clip-{name}-{kind}.onnx" for kind in ("fp32", "int8", "int8-dynamic")}
    if not graphs["fp32"].is_file():
        shown.say(f"clip {name}: exporting")
        given, plain = feeds[0], folder / "clip.onnx"
        torch.manual_seed(0)
        torch.onnx.export(
            build().eval(), (), plain, kwargs={key: torch.from_numpy(value) for key, value in given.items()},
            input_names=list(given), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        foreign.tidied(plain, folder / "clip-tidied.onnx", given)
        (folder / "clip-tidied.onnx").replace(graphs["fp32"])
        for each in (plain, folder / "clip-tidied.unfolded.onnx"):
            each.unlink(missing_ok=True)
    makers: dict[str, Callable[[Path], object]] = {
        "int8": lambda target: ptq.int8(graphs["fp32"], target, feeds[:_CALIBRATED], "int8"),
        "int8-dynamic": lambda target: dynamic.int8(graphs["fp32"], target),
    }
    for kind, make in makers.items():
        if not graphs[kind].is_file():
            shown.say(f"clip {name}: making {kind}")
            with replacing(graphs[kind]) as target:
                make(target)
    return graphs


def _measured(
    named: Mapping[str, Callable[[], Session]], feeds: list[Feed], runs: int, shown: Progress
) -> dict[str, tuple[float, str]]:
    """{form: (the least cosine to the first one's outputs, how many times as fast)}."""
    taken = time_sessions(named, feeds[0], Measure(threads=1, runs=runs, warmup=2), shown)
    first = next(iter(named))
    run = named[first]()
    expected = [_embedding(run, feed) for feed in feeds[_CALIBRATED:]]
    found = {}
    for label, opener in named.items():
        run = opener()
        cosines = [_cosine(a, _embedding(run, feed)) for a, feed in zip(expected, feeds[_CALIBRATED:])]
        found[label] = min(cosines), faster(taken.ratio(label, first))
    return found


def faster(ratio: Ratio) -> str:
    """How many times as fast, with its interval."""
    return f"{1 / ratio.value:.2f} [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"


def _embedding(run: Session, feed: Feed) -> np.ndarray:
    return next(value for value in run(feed).values() if value.ndim == 2).ravel()


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
