"""Style, types and the import contracts hold: what ``make lint`` runs, beside the other tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = re.findall(r"^\t\$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0], re.M)


# The slowest first, so that the others are not waited for.
@pytest.mark.parametrize("command", sorted(COMMANDS, key=lambda command: command != "mypy"))
def test_it_finds_nothing(command):
    name, *arguments = command.split()
    done = subprocess.run([Path(sys.executable).with_name(name), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
