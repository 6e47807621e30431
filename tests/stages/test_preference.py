"""What is best among candidates inside the budget follows what the recipe prefers, and noise changes nothing."""

import pytest

from mmedge.stages.preference import Costs, best

# As the demo's: INT8 is a third of the size, slower, and loses a little.
DEMO = {"fp32": Costs(1.0, 90_000, 0.961), "fp16": Costs(1.3, 48_000, 0.961), "int8": Costs(1.59, 35_000, 0.957)}
FASTER = DEMO | {"int8": Costs(0.6, 35_000, 0.957)}


@pytest.mark.parametrize(
    ("prefer", "candidates", "chosen"),
    [
        ("latency", DEMO, "fp32"),
        ("latency", FASTER, "int8"),
        ("size", DEMO, "int8"),
        ("energy", DEMO, "fp32"),
        ("energy", FASTER, "int8"),
        (
            "energy",
            {"fp32": Costs(1.0, 9, 0.9, 5.0), "int8": Costs(1.2, 9, 0.9, 3.0)},
            "int8",
        ),  # slower, and takes less
        ("latency", {"fp32": Costs(1.0, 9, 0.9, 5.0), "int8": Costs(1.2, 9, 0.9, 3.0)}, "fp32"),
        ("accuracy", FASTER, "fp32"),
        ("accuracy", {**FASTER, "fp16": Costs(0.7, 48_000, 0.961)}, "fp16"),  # as accurate, and faster
    ],
)
def test_the_best_is_what_is_preferred(prefer, candidates, chosen):
    assert best(prefer, candidates, "fp32") == chosen


@pytest.mark.parametrize("prefer", ["latency", "size", "energy", "accuracy"])
def test_what_stands_stays_where_another_is_better_by_noise_alone(prefer):
    near = {"fp32": Costs(1.0, 90_000, 0.961), "fp16": Costs(0.97, 88_000, 0.961)}
    assert best(prefer, near, "fp32") == "fp32"
    assert best(prefer, {"fp16": near["fp16"]}, "fp32") == "fp16", "what does not stand cannot stay"
