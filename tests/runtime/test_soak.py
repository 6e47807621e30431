"""A long life: a day of inferences, and the memory is what it was."""

import gc
import os

import numpy as np
import pytest

from mmedge import runtime
from mmedge.machine import resident_bytes

RUNS = int(os.environ.get("MMEDGE_SOAK", "1000000"))


@pytest.mark.slow
def test_a_million_inferences_leave_the_memory_as_it_was(made_bundle):
    """Twelve a second for a day. After the first tenth the caches are full; from there nothing may grow."""
    engine = runtime.load(made_bundle)
    random = np.random.default_rng(0)
    feeds = []
    for batch in (1, 2, 3):
        x = {"image": random.standard_normal((batch, 1, 8, 8)), "vitals": random.standard_normal((batch, 3))}
        x = {name: value.astype(np.float32) for name, value in x.items()}
        feeds += [{**x, "present": np.ones((batch, 2), bool)}, {"vitals": x["vitals"]}, {"image": x["image"]}]
    sizes = []
    for index in range(RUNS):
        engine.run(feeds[index % len(feeds)])
        if index % (RUNS // 10) == RUNS // 10 - 1:
            gc.collect()
            sizes.append(resident_bytes())
    if sizes[0] is None:
        pytest.skip("this system does not tell the memory of a process")
    assert max(sizes) - sizes[0] < 4_000_000, sizes
