"""What a store takes on the disk, told before it is written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mmedge.data.store.forms import bytes_of
from mmedge.errors import MmedgeError
from mmedge.machine import in_words
from mmedge.spec import ModalitySpec


def store_bytes(modalities: Mapping[str, ModalitySpec], samples: int) -> dict[str, int]:
    """{modality: bytes that so many samples take at most}; of images and ids it is what they take."""
    return {name: samples * bytes_of(spec) for name, spec in modalities.items()}


def refuse_small_disk(needed: int, cache: Path, there: int = 0) -> None:
    """Raise MmedgeError where the disk of ``cache`` has no room for ``needed`` bytes, of which ``there`` are written."""
    while not cache.exists():
        cache = cache.parent
    left, free = needed - there, shutil.disk_usage(cache).free
    if left > free:
        raise MmedgeError(
            f"the decoded samples take up to {in_words(left)} more, and the disk has {in_words(free)} free",
            where=str(cache),
            todo="free some space, choose an --out on a larger disk, or make the modalities smaller",
        )
