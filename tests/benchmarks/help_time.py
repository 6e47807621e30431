"""Wall time of the command line before it does anything: ``mmedge --help`` beside a bare Python."""

import statistics
import subprocess
import sys
import time

from tests.conftest import child_environment

_RUNS = 10


def main() -> None:
    """Median and worst of ten runs each, in turn, after one to warm the file cache."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "mmedge --help": ["-m", "mmedge", "--help"],
        "mmedge run --help": ["-m", "mmedge", "run", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(_RUNS + 1):
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], env=child_environment(), capture_output=True, check=True)
            if number:
                seconds[name].append(time.perf_counter() - start)
    print(f"{'command':<20} {'median s':>9} {'worst s':>9}")
    for name, taken in seconds.items():
        print(f"{name:<20} {statistics.median(taken):9.3f} {max(taken):9.3f}")


if __name__ == "__main__":
    main()
