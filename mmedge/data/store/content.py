"""Whether a cell's path leads to something that its modality may be, and the hash of what is there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mmedge.artifact import hash_json, sha256_of
from mmedge.preprocess.members import content, exists
from mmedge.spec import ModalitySpec


def there(spec: ModalitySpec, path: Path) -> bool:
    """Whether a path is a file, also one of an archive, or a folder where the modality reads such. Pipes are neither."""
    return exists(path) or (spec.reads_folder and os.path.isdir(path))


def content_of(spec: ModalitySpec, path: Path) -> str | None:
    """Hex sha256 of a file's bytes; of a folder, that of the names and bytes of the files in it; None where neither is there.

    May raise MmedgeError, OSError.
    """
    if os.path.isfile(path):
        return sha256_of(path)
    if spec.reads_folder and os.path.isdir(path):
        files = sorted(entry for entry in os.listdir(path) if os.path.isfile(path / entry))
        return hash_json([[entry, sha256_of(path / entry)] for entry in files])
    held = content(path)  # of a file only: reading a pipe would wait for ever
    return None if held is None else hashlib.sha256(held).hexdigest()
