"""``python -m tests.benchmarks [NAME]``: all benchmarks but the longest, or the named one."""

import importlib
import pkgutil
import sys
from pathlib import Path

# Those that take many minutes run where they are named.
ALONE = ("losses_gain", "compression", "big_networks", "large", "large_memory", "kills", "encoders", "data", "gpu")


def main() -> None:
    names = [
        found.name
        for found in pkgutil.iter_modules([str(Path(__file__).parent)])
        if found.name not in ("__main__", "pretrained")
    ]
    chosen = sys.argv[1:] or [name for name in names if name not in ALONE]
    for name in chosen:
        if name not in names:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(names)}")
    for name in chosen:
        print(f"== {name}")
        importlib.import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main()
