"""Runs the commands of the README and of docs/: ``python -m tests.readme_commands``. CI calls it after ``make demo``.

A process a core, each with one thread; a command waits for those before it that it shares a folder of ``runs/`` with,
but for what only reads the demo. Controls are of one seed here, where the README's recipes have three: whether a
command works does not hang on that. Commands of ``make`` are left out: CI has run them before.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ONE_SEED = "--set distill.controls.seeds=1"
DEMO = "runs/demo"
NOTEBOOKS = "python -m pytest -m slow -p no:randomly tests/test_notebooks.py"


def pages() -> list[Path]:
    """What users read, in the order in which it is told."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """The lines of the ``sh`` blocks that call mmedge or a script of the recipes."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("mmedge ", "python "))]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def shortened(command: str) -> str:
    """The command with controls of one seed, where it trains them; the demo's own stages are there already."""
    trains = command.startswith(("mmedge run ", "mmedge distill "))
    return f"{command} {ONE_SEED}" if trains and f"--out {DEMO}" not in command else command


def folders(command: str) -> set[str]:
    """What a command shares with others: ``runs/NAME``, as file or folder; the demo only where it writes to it."""
    named = set(re.findall(r"runs/[\w-]+", command))
    return named if f"--out {DEMO}" in command or "report" in command else named - {DEMO}


def run(command: str) -> str | None:
    """Run one command and say how long it took; what it told where it failed."""
    started = time.monotonic()
    done = subprocess.run(
        f"{Path(sys.executable).parent}/{command}",
        shell=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    # A verdict that so few samples leave open is what the command is there to say.
    open_ = done.returncode == 3 and "verdict: cannot tell" in done.stderr
    word = "FAILED" if done.returncode and not open_ else "cannot tell" if open_ else "ok"
    print(f"{word} ({time.monotonic() - started:.0f} s): {command}", flush=True)
    return f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}" if word == "FAILED" else None


def run_all(lines: list[str], processes: int) -> list[str]:
    """Run the commands, each as soon as none before it that shares a folder with it is left; what the failed ones told.

    After the first failure no other is begun.
    """
    left, running, failures = list(lines), dict[Future[str | None], str](), list[str]()
    with ThreadPoolExecutor(processes) as pool:
        while running or (left and not failures):
            for line in left if not failures else ():
                before = [*running.values(), *left[: left.index(line)]]
                if len(running) < processes and not any(folders(line) & folders(other) for other in before):
                    running[pool.submit(run, line)] = line
            left = [line for line in left if line not in running.values()]
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                del running[done]
                if told := done.result():
                    failures.append(told)
    return failures


def missed(report: dict[str, Any]) -> list[str]:
    """What the demo's engine does not reach of what it is to reach, by its figures; its gates hold them by their bounds."""
    stages = {stage["stage"]: stage for stage in report["stages"]}
    teacher, engine, control = stages["teacher"], stages["export-onnxruntime-cpu"], report["controls"][0]
    figures = {
        "accuracy by image alone": (engine["subsets"]["image"], 0.62),
        "accuracy by audio alone": (engine["subsets"]["audio"], 0.76),
        "of the teacher's accuracy": (engine["quality"]["value"] / teacher["quality"]["value"], 0.98),
        "times fewer parameters": (teacher["params"] / engine["params"], 50),
        "times as fast": (1 / engine["latency"]["ratio_to_teacher"], 10),
        "gain by distillation": (control["gain"], 0.12),
        "lower end of the gain's interval": (control["gain_ci95"][0], 0),
    }
    for name, (value, bar) in figures.items():
        print(f"demo: {value:.3f} {name}, at least {bar}", flush=True)
    return [f"{name}: {value:.3f}, at least {bar}" for name, (value, bar) in figures.items() if value < bar]


def main() -> int:
    report = json.loads((ROOT / DEMO / "report.json").read_text(encoding="utf-8"))
    if "synthetic" not in report["data"]["source"] and (less := missed(report)):
        print("the demo misses", *less, sep="\n")
        return 1
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    lines = dict.fromkeys(shortened(command) for command in commands(text))  # what two pages tell is run once
    failures = run_all([NOTEBOOKS, *lines], os.cpu_count() or 1)
    print(*failures, sep="\n")
    for block in dict.fromkeys(python_blocks(text)) if not failures else ():
        subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
        print(f"ok: python, {len(block.splitlines())} lines", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
