"""The benchmark of the training loop keeps step with the recipe: it compares loops of one and the same loss."""

from pathlib import Path

import pytest

from tests.benchmarks import training_speed


@pytest.mark.long
def test_the_bare_loop_computes_what_distill_computes_and_both_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_speed, "_STEPS", 2)
    monkeypatch.setattr(training_speed, "_ROUNDS", 1)
    found = training_speed.measured(tmp_path)  # raises where the losses differ
    assert found["ratio_to_bare"].keys() == {"live", "cached"}
    assert min(found["steps_per_second"].values()) > 0
