"""The entry point of ``mmedge`` and ``python -m mmedge``: Ctrl-C is no traceback, not even while the first modules are imported."""

import sys


def main() -> None:
    """Run the command line; it raises SystemExit with the exit code."""
    try:
        from mmedge.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("error: interrupted\n  do: run the same command again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
