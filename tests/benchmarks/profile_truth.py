"""The profiler's figures beside direct timing in the same run, as onnxruntime_perf_test takes it: a bare session in a loop."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.backends import onnxruntime_cpu
from mmedge.profiling import feeds, profile
from mmedge.profiling.timing import ratio_interval

_BLOCKS, _RUNS, _SITTINGS = 24, 200, 8


def direct(native: Any, feed: dict[str, np.ndarray], runs: int) -> np.ndarray:
    """Nanoseconds of each of ``runs`` calls of a bare ``InferenceSession``, nothing of ours in between. int64 [runs]."""
    names, taken = [output.name for output in native.get_outputs()], np.empty(runs, np.int64)
    for index in range(runs):
        start = time.perf_counter_ns()
        native.run(names, feed)
        taken[index] = time.perf_counter_ns() - start
    return taken


def main() -> None:
    """Blocks of the profiler's own timing and of the direct loop, in an order of their own each time, on two sessions of one
    graph. A bundle may be named by MMEDGE_BUNDLE; else the tests' small one, and a larger graph."""
    from tests.small import write_bundle, write_graph

    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("MMEDGE_BUNDLE")
        bundle = Path(given) if given else write_bundle(Path(folder) / "bundle")
        write_graph(Path(folder) / "larger.onnx", channels=128)
        for path in (bundle, Path(folder) / "larger.onnx"):
            _show(path)


def _show(path: Path) -> None:
    subject = profile.subject(path, None)
    engine = profile.load(subject.bundle) if subject.bundle else None
    session = onnxruntime_cpu.session(subject.file)
    model = profile.Model(subject, session, engine)
    native, feed = onnxruntime_cpu.native_session(subject.file), feeds.tensors(session.inputs, 1)
    settings = profile.ProfileOptions(runs=_RUNS)
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    direct(native, feed, _RUNS)
    for block in range(_BLOCKS):

        def profiled() -> None:
            (figures,) = profile._time_batch(1, [model], settings, profile.Silent())
            ours.append(figures.compute[0])

        # The loop warms up for as many calls as the profiler does before it counts.
        steps = [profiled, lambda: (direct(native, feed, 100), theirs.append(direct(native, feed, _RUNS)))]
        for step in steps if block % 2 else steps[::-1]:
            step()
    a, b = np.concatenate(ours), np.concatenate(theirs)
    low, high = ratio_interval(*(list(np.stack(each).reshape(_SITTINGS, -1)) for each in (ours, theirs)))
    figures = ", ".join(f"p{p} {np.percentile(a, p) / np.percentile(b, p):.3f} x" for p in (50, 90, 95))
    print(f"{subject.file.name:14} profiler {np.median(a) / 1000:8.1f} us, direct {np.median(b) / 1000:8.1f} us")
    print(f"{'':14} {figures}; p50 [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
