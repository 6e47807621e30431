"""Whether an engine and the bundle that it lies in belong together, and to this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmedge import backends
from mmedge import bundle as bundles
from mmedge.artifact import Artifact
from mmedge.backends.engine import Engine
from mmedge.backends.session import Session
from mmedge.contract import Contract
from mmedge.errors import MmedgeError


def check_belongs(
    found: Artifact, engine: Engine | None, backend: str, contract: Contract, path: Path, *, signed: bool
) -> None:
    """An engine of another version, GPU, graph or preprocessing is refused, with the command that builds the right one.

    One that brings code along is refused too, unless the bundle is ``signed`` by whom the caller trusts.
    """
    if engine is None:
        return
    if engine.version_compatible and not signed:
        raise MmedgeError(
            "the engine is version-compatible: it brings code that would run on this machine",
            where=str(path),
            todo="load it with require_signature=KEY, or export without version_compatible",
        )
    why = backends.find(backend).belongs(engine)
    preprocessing = bundles.preprocessing_sha256(contract)
    if (engine.preprocessing_sha256 or preprocessing) != preprocessing:
        why = "its preprocessing is not the bundle's"
    built_of = {bundles.GRAPH: engine.graph_sha256} | {part.graph: part.graph_sha256 for part in engine.parts.values()}
    for graph, sha256 in built_of.items():
        if sha256 and found.files.get(f"{backend}/{graph}", sha256) != sha256:
            why = f"it was built of another {backend}/{graph} than the bundle's"
    if why:
        raise MmedgeError(
            f"the {backend} engine does not belong here: {why}",
            where=str(path),
            todo=f"mmedge export --rebuild {path}",
        )


def check_takes(session: Session, contract: Contract, file: Path) -> None:
    """Raise MmedgeError where the graph's inputs are not those of the contract."""
    wanted = {name: (np.dtype(spec.dtype), spec.shape) for name, spec in contract.modalities.items()}
    wanted["present"] = (np.dtype(bool), (len(contract.modalities),))
    for name in sorted(wanted.keys() | session.inputs.keys()):
        info, ours = session.inputs.get(name), wanted.get(name)
        if info is None or ours is None:
            what = f"the engine has {'no' if info is None else 'an'} input {name}"
        elif info.dtype != ours[0] or len(info.shape) != len(ours[1]) + 1:
            what = f"the engine's input {name} is {info.dtype} {list(info.shape)}"
        elif any(size is not None and size != want for size, want in zip(info.shape[1:], ours[1])):
            what = f"the engine's input {name} is {list(info.shape)}"
        elif name != "present" and contract.modalities[name].shortest is not None and info.shape[-1] is not None:
            what = f"the engine's input {name} has the fixed length {info.shape[-1]}"
        else:
            continue
        has = "has none" if ours is None else f"says {ours[0]} {['batch', *ours[1]]}"
        raise MmedgeError(
            f"{what}, the bundle's contract {has}",
            where=str(file),
            todo="graph and manifest do not belong together: export it again",
        )
