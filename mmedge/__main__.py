"""``python -m mmedge``."""

from mmedge.cli.main import main

if __name__ == "__main__":
    main()
