"""Runs the README's commands, in order: ``python -m tests.readme_commands``. CI calls it after ``make demo``.

Commands of ``make`` are left out: CI has run them before.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commands(text: str) -> list[str]:
    """The lines of the ``sh`` blocks that call mmedge or a script of the recipes."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("mmedge ", "python "))]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def main() -> int:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    bin_folder = Path(sys.executable).parent
    for command in commands(text):
        started = time.monotonic()
        done = subprocess.run(
            f"{bin_folder}/{command}",
            shell=True,
            cwd=ROOT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        print(
            f"{'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - started:.0f} s): {command}", flush=True
        )
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
            return 1
    for block in python_blocks(text):
        subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
        print(f"ok: python, {len(block.splitlines())} lines", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
