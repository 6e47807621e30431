"""What the runtime adds to a bare session, what preprocessing costs, and what an engine of one modality saves."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmedge import artifact, runtime
from mmedge.backends import onnxruntime_cpu
from mmedge.profiling.feeds import raw_values
from mmedge.profiling.timing import spans

_PAIRS = 5


def medians_us(path: Path, runs: int = 1500) -> dict[str, float]:
    """Median microseconds of each call, interleaved, on an engine and a bare session that were opened just now."""
    engine = runtime.load(path)
    native = onnxruntime_cpu.native_session(path / "model.onnx")
    shapes = {name: spec.shape for name, spec in engine.contract.modalities.items()}
    random = np.random.default_rng(0)
    dtypes = {name: spec.dtype for name, spec in engine.contract.modalities.items()}
    one = {name: random.standard_normal((1, *shape)).astype(dtypes[name]) for name, shape in shapes.items()}
    feed = {**one, "present": np.ones((1, len(one)), bool)}
    raw = {name: values[0] for name, values in raw_values(engine.contract, 1).items()}
    outputs = [output.name for output in native.get_outputs()]
    calls = {
        "bare session, outputs named": lambda: native.run(outputs, feed),
        "bare session, run(None, …)": lambda: native.run(None, feed),
        "engine.run": lambda: engine.run(feed),
    }
    for names in artifact.read(path).meta["targets"]["onnxruntime-cpu"].get("subsets", {}):
        given = {name: one[name] for name in names.split("+")}
        calls[f"engine.run, {names} alone"] = lambda given=given: engine.run(given)
    taken = spans(calls, runs=runs, warmup=200)
    # Apart: after a decoded picture a small graph finds its caches cold.
    taken |= spans({"engine.predict, raw": lambda: engine.predict(**raw)}, runs=runs // 5, warmup=20)
    return {name: float(np.median(times)) / 1000 for name, times in taken.items()}


def main() -> None:
    """Medians over pairs of sessions, for two sessions of one graph differ by where they lie in memory. A bundle may be
    named by MMEDGE_BUNDLE; else the tests' small one."""
    from tests.small import write_bundle

    with tempfile.TemporaryDirectory() as folder:
        path = Path(os.environ.get("MMEDGE_BUNDLE") or write_bundle(Path(folder) / "bundle"))
        pairs = [medians_us(path) for _ in range(_PAIRS)]
    bare = next(iter(pairs[0]))
    for name in pairs[0]:
        ratios = [pair[name] / pair[bare] for pair in pairs]
        print(
            f"{name:28} {np.median([pair[name] for pair in pairs]):9.1f} us   {np.median(ratios):.3f} x [{min(ratios):.3f}, {max(ratios):.3f}]"
        )
    for statement in ("pass", "import mmedge.runtime"):
        best = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            best.append(time.perf_counter() - start)
        print(f"python -c {statement!r:28} {min(best):.3f} s")
