"""What a text costs the student of a recipe and its teacher, and what of it the decoder does.

``python -m tests.benchmarks.decoder_speed [emoji-captions]``: ONNX Runtime, one thread, one sample, both in turn. Weights are
fresh, and no text ends, so that each writes as many tokens as there may be. A built-in encoder stands for one that has learnt
elsewhere: the decoder's time is the same behind both, a caption's is not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mmedge import recipe
from mmedge.backends import onnxruntime_cpu, writing
from mmedge.contract import Contract
from mmedge.graph.export import export
from mmedge.models import load
from mmedge.tasks import generation

_REPOSITORY = Path(__file__).parent.parent.parent
_RUNS = 150


def main(named: str = "emoji-captions") -> None:
    read = recipe.load(_REPOSITORY / "recipes" / f"{named}.yaml")
    assert read.distill is not None
    (target,) = read.data.heads.values()
    head = generation.head((_REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines(), target)
    contract = Contract(modalities=read.data.modalities, heads={"text": head})
    given = {name: np.zeros((1, *spec.shape), spec.dtype) for name, spec in read.data.modalities.items()}
    given["present"] = np.ones((1, len(given)), bool)
    runs, seconds = {}, dict[str, list[tuple[float, float]]]()
    with tempfile.TemporaryDirectory() as folder:
        for name, section in (("teacher", read.teacher.model), ("student", read.distill.model)):
            own = {name: encoder for name, encoder in section.encoders.items() if name not in section.pretrained}
            network = load.build(section.model_copy(update={"encoders": own}), contract).eval()
            decoder = network.head.decoder
            with torch.no_grad():
                decoder.out.bias[network.head.end] = -100.0
            export(network, contract, file := Path(folder) / f"{name}.onnx")
            beginning = onnxruntime_cpu.session(writing.graphs_of(file, writing.described(file))[0])
            runs[name] = onnxruntime_cpu.session(file), beginning
            count = sum(weight.numel() for weight in decoder.parameters())
            print(f"{name}: {count / 1e3:.0f} k parameters of the decoder, {generation.decoding(head).steps} tokens")
    for _ in range(_RUNS):
        for name, sessions in runs.items():
            taken = []
            for session in sessions:
                began = time.perf_counter()
                session(given)
                taken.append(time.perf_counter() - began)
            seconds.setdefault(name, []).append((taken[0], taken[0] - taken[1]))
    medians = {name: 1e3 * np.median(of, axis=0) for name, of in seconds.items()}
    for name, (whole, decoding) in medians.items():
        print(f"{name}: {whole:.2f} ms a caption, {decoding:.2f} ms of it the decoder's")
    whole, decoding = medians["teacher"] / medians["student"]
    print(f"teacher / student: {whole:.1f} a caption, {decoding:.1f} the decoder")


if __name__ == "__main__":
    main(*sys.argv[1:])
