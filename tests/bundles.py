"""A small real bundle, made without training: two convolutional encoders that meet in one layer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mmedge import artifact
from tests.small import write_bundle


@pytest.fixture(scope="session")
def made_bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def bundle(made_bundle, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made_bundle, tmp_path / "bundle"))


@pytest.fixture
def sample() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {"image": random.integers(0, 256, (8, 8), np.uint8), "vitals": random.normal(size=3).astype(np.float32)}


@pytest.fixture
def rewritten(bundle):
    """Change a bundle's meta as its author would, hashes included."""

    def change(edit) -> Path:
        found = artifact.read(bundle)
        files = {path.relative_to(bundle): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
        with artifact.creating(bundle, stage="bundle", key="k", parent=None) as (folder, meta):
            for name, content in files.items():
                if name.name != artifact.MANIFEST:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(content)
            meta |= found.meta
            edit(meta)
        return bundle

    return change
