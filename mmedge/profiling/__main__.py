"""``python -m mmedge.profiling``: the profiler and the doctor on a device that has the base install only."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmedge.errors import MmedgeError
from mmedge.frozen import Record


def main(arguments: list[str] | None = None) -> int:
    """Parse, one call, one JSON document on stdout. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmedge.profiling")
    verbs = parser.add_subparsers(dest="verb", required=True)
    profile = verbs.add_parser("profile", help="time bundles and ONNX files on this machine")
    profile.add_argument("models", type=Path, nargs="+")
    profile.add_argument("--target")
    profile.add_argument("--batch", type=int, action="append")
    profile.add_argument("--threads", type=int, default=1)
    profile.add_argument("--runs", type=int, default=500)
    profile.add_argument("--idle", type=float, default=1.0)
    profile.add_argument("--seconds", type=float, default=1.0)
    profile.add_argument("--shape", action="append", default=[], metavar="INPUT=N,N")
    verbs.add_parser("doctor", help="tell what this machine can do")
    given = parser.parse_args(arguments)
    try:
        if given.verb == "doctor":
            from mmedge.profiling.doctor import examine

            record: Record = examine()
        else:
            from mmedge.profiling.feeds import parsed_shapes
            from mmedge.profiling.profile import ProfileOptions, measured

            settings = ProfileOptions(
                given.target,
                tuple(given.batch or (1,)),
                given.threads,
                given.runs,
                seconds=given.seconds,
                idle_s=given.idle,
                shapes=parsed_shapes(given.shape),
            )
            record = measured(given.models, settings)
    except MmedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    json.dump(record.record(), sys.stdout, allow_nan=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
