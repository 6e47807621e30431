"""The threat model names tests, and each of them is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| ") and "---" not in line][1:]


def test_every_line_of_the_threat_model_names_a_test_that_there_is():
    assert len(ROWS) > 10
    for *_, may_not, tests in ROWS:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, f"no test shows: {may_not}"
        for file, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), f"{file}::{name}"


def test_everything_that_others_give_has_a_line():
    given = " ".join(row[0] for row in ROWS)
    assert all(f"**{what}" in given for what in ("a recipe", "a checkpoint", "an artifact", "a bundle", "a media file", "a graph"))  # fmt: skip
