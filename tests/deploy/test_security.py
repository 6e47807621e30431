"""The threat model and the list of faults name tests, and each of them is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "SECURITY.md").read_text(encoding="utf-8")
FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")


def rows(text):
    """The cells of a page's table, row by row, without its header."""
    return [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]


def check_tests(cell, of):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cell)
    assert named and len(named) == cell.count("`tests/"), f"no test shows: {of}"
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), f"{file}::{name}"


ROWS = rows(TEXT)


def test_every_line_of_the_threat_model_names_a_test_that_there_is():
    assert len(ROWS) > 10
    for *_, may_not, tests in ROWS:
        check_tests(tests, may_not)


def test_every_fault_that_was_found_from_outside_names_a_test_that_there_is():
    found = rows(FAULTS)
    assert {int(re.match(r" (\d+)", number)[1]) for number, *_ in found} == set(range(1, 29))
    assert {number.strip() for number, *_ in found} >= {f"14{letter}" for letter in "abcdefgh"}
    for _, fault, _, tests in found:
        check_tests(tests, fault)


def test_everything_that_others_give_has_a_line():
    given = " ".join(row[0] for row in ROWS)
    assert all(f"**{what}" in given for what in ("a recipe", "a checkpoint", "an artifact", "a bundle", "a media file", "a graph"))  # fmt: skip
