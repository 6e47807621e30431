"""A checkpoint's tensors as safetensors, without unpickling: ``python -m mmedge.models.pretrained.convert IN.pth OUT.safetensors``."""

from __future__ import annotations

import sys
from pathlib import Path

from mmedge.artifact import replacing
from mmedge.errors import MmedgeError
from mmedge.models.state import read_state, unshared


def convert(source: Path, target: Path) -> int:
    """Write the state_dict in ``source``, as ``torch.load(weights_only=True)`` reads it, to ``target``; how many tensors it has."""
    from safetensors.torch import save_file

    state = unshared(read_state(source))
    with replacing(target) as temporary:
        save_file(state, temporary)
    return len(state)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("python -m mmedge.models.pretrained.convert IN.pth OUT.safetensors")
    try:
        count = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except MmedgeError as error:
        sys.exit(f"Error: {error}")
    print(f"{sys.argv[2]}: {count} tensors")


if __name__ == "__main__":
    main()
