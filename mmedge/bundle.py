"""A bundle on disk: a folder, or one zip file of the same. Read safely, its signature verified before anything else."""

from __future__ import annotations

import io
import posixpath
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO

from pydantic import Field, JsonValue, ValidationError

from mmedge import artifact, encryption
from mmedge.artifact import Artifact, not_understood
from mmedge.backends.engine import Engine
from mmedge.backends.onnxfile import beside
from mmedge.contract import Contract
from mmedge.errors import MissingDependency, MmedgeError, UsageError, did_you_mean
from mmedge.frozen import Record
from mmedge.leftovers import scratch
from mmedge.tasks.retrieval import ZeroShot

STAGE = "bundle"
SIGNATURE = "manifest.sig"
GRAPH = "model.onnx"
_MOST_FILES = 4096


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. ``held`` keeps the folder that a zip was unpacked into until the bundle is let go."""

    artifact: Artifact
    held: Any = None

    @property
    def folder(self) -> Path:
        return self.artifact.path


def read(
    path: Path,
    *,
    require_signature: str | Path | bytes | None = None,
    any_stage: bool = False,
    key: str | Path | bytes | None = None,
) -> Bundle:
    """Read a bundle, folder or zip, verifying every file. ``require_signature``: a public key (PEM file, or its bytes).

    ``any_stage``: the artifact of another stage is taken too. ``key``: what an encrypted one is decrypted with, which
    is then unpacked in memory alone.

    Raises MmedgeError for a damaged, foreign, unsigned or wrongly signed one, UsageError for another kind of artifact.
    """
    if key is not None and not encryption.is_encrypted(path):
        raise UsageError("a key is given, and the bundle is not encrypted", where=str(path), todo="leave the key out")
    if path.is_file():
        content = None if key is None else encryption.decrypt(path, encryption.read_key(key))
        if content is None:
            _refuse_parts(path)
        held = ExitStack()
        folder = held.enter_context(scratch(encryption.memory_folder() if content else None))
        try:
            unpack(path, folder, content)
            return Bundle(_verified(folder, path, require_signature, any_stage), held)
        except BaseException:
            held.close()
            raise
    if not path.is_dir():
        raise MmedgeError(
            "the bundle does not exist", where=str(path), todo="mmedge run RECIPE --out DIR writes DIR/bundle"
        )
    return Bundle(_verified(path, path, require_signature, any_stage))


def _refuse_parts(path: Path) -> None:
    """A graph or manifest is no bundle; where it lies in one, that one was meant."""
    if encryption.is_encrypted(path):
        raise UsageError(
            "the bundle is encrypted", where=str(path), todo="load it with its key: load(path, key=KEYFILE)"
        )
    inside = next((folder for folder in path.parents if (folder / artifact.MANIFEST).is_file()), None)
    if path.suffix.lower() == ".onnx" or (inside is not None and not zipfile.is_zipfile(path)):
        raise MmedgeError(
            "a bundle is a folder, or one zip file, and this is a file of it"
            if inside
            else "this is a bare graph, not a bundle: it has neither preprocessing nor labels",
            where=str(path),
            todo=f"name the bundle: {inside}" if inside else "mmedge profile takes it; mmedge run writes bundles",
        )


def _verified(folder: Path, place: Path, key: str | Path | bytes | None, any_stage: bool) -> Artifact:
    if key is not None:
        _verify_signature(folder, place, key)
    found = artifact.read(folder)
    if found.stage != STAGE and not any_stage:
        raise UsageError(
            f"this is the artifact of stage {found.stage!r}, not a bundle",
            where=str(place),
            todo="mmedge run or mmedge export writes a bundle",
        )
    return found


class Split(Record):
    """Encoders and fusion head apart: {part: file}, and {modality: the tensors that its encoder gives}."""

    files: dict[str, str]


class SubsetLatency(Record):
    """Of a subset's engine where it was timed, and over that of the whole."""

    p50_ms: float
    ratio_to_all: float


class Entry(Record):
    """What a bundle's manifest says of one backend; files are relative to the bundle.

    ``engine``: None where the backend runs the graph ``file`` itself. ``subsets``: {modalities joined by "+": file}.
    ``temperatures``: {head: what its outputs are divided by before they become probabilities}.
    """

    precision: str = "fp32"
    file: str = GRAPH
    engine: Engine | None = None
    subsets: dict[str, str] = {}
    subset_latency: dict[str, SubsetLatency] = {}
    split: Split | None = None
    temperatures: dict[str, Annotated[float, Field(gt=0, lt=1e6)]] = {}

    def opened_file(self, backend: str) -> str:
        """The file that the backend opens."""
        return f"{backend}/{self.engine.file}" if self.engine else self.file


class Contents(Record):
    """What a bundle's manifest says of it. ``figures``: of each backend, as the report has them; ``data``: their source."""

    name: str
    contract: dict[str, JsonValue]
    targets: dict[str, Entry]
    figures: dict[str, dict[str, JsonValue]]
    verdict: str
    data: str
    zero_shot: ZeroShot | None = None


def write(path: Path, contents: Contents, files: Mapping[str, Path], *, key: str, parent: str) -> None:
    """Write a bundle of ``files``, {name in it: where it lies}; ``parent``: the sha256 of the artifact with its graph."""
    with artifact.creating(path, stage=STAGE, key=key, parent=parent) as (folder, meta):
        for name, file in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
        meta |= contents.record()


def entry_of(found: Artifact, backend: str) -> Entry:
    """A bundle's entry of a backend. Raises UsageError where it has none, MmedgeError for one that is not understood."""
    targets = found.meta.get("targets")
    known = targets if isinstance(targets, dict) else {}
    if backend not in known:
        raise UsageError(
            f"the bundle has no engine for {backend!r}{did_you_mean(backend, known)}; it has {', '.join(known) or 'none'}",
            where=str(found.path),
            todo=f"choose one of them, or add {backend} to export.targets and export again",
        )
    try:
        return Entry.model_validate(known[backend])
    except ValidationError as error:
        raise not_understood(found, f"targets.{backend}", error) from None


def listed_file(found: Artifact, name: str) -> Path:
    """A file of a bundle that the manifest vouches for; raises MmedgeError for any other."""
    if name not in found.files:
        raise MmedgeError(
            f"the bundle names a file that its manifest does not list: {name!r}",
            where=str(found.path),
            todo="get it again from its source, or export it again",
        )
    return found.file(name)


def verified_file(found: Artifact, name: str) -> Path:
    """A file that is about to be opened, verified again: it may be opened long after the bundle was read.

    The same holds for every file that it names and that is read with it. Raises MmedgeError where one of them is not
    listed, or is not what the manifest lists any more.
    """
    file = listed_file(found, name)
    for each in (name, *(posixpath.normpath(f"{PurePosixPath(name).parent}/{other}") for other in beside(file))):
        if each != name and each.endswith(".bin") and name.endswith(".xml") and not found.file(each).exists():
            continue  # an OpenVINO graph without weights has none beside it
        try:
            changed = artifact.sha256_of(listed_file(found, each)) != found.files[each]
        except OSError:
            changed = True
        if changed:
            raise MmedgeError(
                "a file was changed or removed after the bundle was loaded",
                where=str(found.file(each)),
                todo="load the bundle again; where nobody should have changed it, get it again from its source",
            )
    return file


def preprocessing_sha256(contract: Contract) -> str:
    """What an engine remembers of the preprocessing that it was measured with."""
    return artifact.hash_json({name: spec.model_dump(mode="json") for name, spec in contract.modalities.items()})


def belonging(engine: Engine, precision: str, graph: Path, contract: Contract) -> Engine:
    """A built engine with what ties it to its graph and to the preprocessing that it was measured with."""
    ties = {"graph_sha256": artifact.sha256_of(graph), "preprocessing_sha256": preprocessing_sha256(contract)}
    return engine.model_copy(update={"precision": precision, **ties})


def pack(folder: Path, target: Path) -> None:
    """Write a bundle's folder as one zip file, nothing compressed, so that it is read as fast as the files are."""
    with artifact.replacing(target) as temporary, temporary.open("wb") as stream:
        _packed(folder, stream)


def encrypt(folder: Path, target: Path, key: str | Path | bytes) -> None:
    """Write a bundle's folder as one encrypted file, its signature included where it has one."""
    secret, content = encryption.read_key(key), io.BytesIO()
    _packed(folder, content)
    content.seek(0)
    with artifact.replacing(target) as temporary, temporary.open("wb") as stream:
        encryption.encrypt(content, stream, secret)


def _packed(folder: Path, stream: BinaryIO) -> None:
    listed = artifact.read(folder)
    names = [artifact.MANIFEST, *sorted(listed.files)]
    if (folder / SIGNATURE).is_file():
        names.insert(1, SIGNATURE)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as out:
        for name in names:
            # A fixed date: the same bundle is the same file.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            out.writestr(entry, (folder / name).read_bytes())


def unpack(archive: Path, folder: Path, content: io.BytesIO | None = None) -> None:
    """Unpack a bundle's zip into an empty folder. ``content``: of an archive that was encrypted.

    Raises MmedgeError for what no bundle holds: names that lead out of the folder, links, the same name twice,
    compressed or encrypted entries, sizes that are not those of the file.
    """
    try:
        with zipfile.ZipFile(content or archive) as source:
            entries = source.infolist()
            _check_entries(archive, entries)
            for entry in entries:
                file = folder / entry.filename
                file.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as stream, file.open("xb") as out:
                    shutil.copyfileobj(stream, out)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise MmedgeError(
            f"the bundle cannot be unpacked: {error}",
            where=str(archive),
            todo="copy it again: it is cut short or damaged",
        ) from error


def _check_entries(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    def refuse(what: str) -> MmedgeError:
        return MmedgeError(
            f"the file is no bundle that mmedge wrote: {what}", where=str(archive), todo="get it again from its source"
        )

    if len(entries) > _MOST_FILES:
        raise refuse(f"it has {len(entries)} entries")
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        parts = PurePosixPath(name)
        # orig_filename: zipfile cuts a name at a zero byte.
        if (
            parts.is_absolute()
            or ".." in parts.parts
            or "\\" in name
            or ":" in name
            or name != entry.orig_filename
            or not name
        ):
            raise refuse(f"an entry leads out of its folder: {name!r}")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir() or kind not in (0, stat.S_IFREG):
            raise refuse(f"an entry is not a plain file: {name!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise refuse(f"an entry is compressed or encrypted: {name!r}")
        if name.lower() in seen:
            raise refuse(f"an entry stands there twice: {name!r}")
        seen.add(name.lower())
    # Stored entries cannot be larger together than the file; overlapping ones say they are.
    if sum(entry.file_size for entry in entries) > archive.stat().st_size:
        raise refuse("its entries are larger than the file")


def sign(folder: Path, private_key: Path) -> None:
    """Sign a bundle's manifest, and by its hashes every file, with an Ed25519 key (PEM): writes ``manifest.sig``."""
    key = _private_key(private_key)
    with artifact.replacing(folder / SIGNATURE) as temporary:
        temporary.write_text(key.sign((folder / artifact.MANIFEST).read_bytes()).hex() + "\n")


def _verify_signature(folder: Path, place: Path, key: str | Path | bytes) -> None:
    exceptions = _cryptography("cryptography.exceptions")
    public = _public_key(key)
    try:
        signature = bytes.fromhex(artifact.plain_text(folder / SIGNATURE).strip())
        manifest = artifact.plain_text(folder / artifact.MANIFEST).encode()
    except FileNotFoundError as error:
        what = "is not signed" if Path(error.filename).name == SIGNATURE else "has no manifest.json"
        raise MmedgeError(
            f"a signature is required and the bundle {what}",
            where=str(place),
            todo="mmedge export BUNDLE --sign KEY signs it",
        ) from None
    except (ValueError, OSError):
        raise MmedgeError("the bundle's signature cannot be read", where=str(place), todo="sign it again") from None
    try:
        public.verify(signature, manifest)
    except exceptions.InvalidSignature:
        raise MmedgeError(
            "the bundle's signature is not by the key that is required, or the bundle was changed",
            where=str(place),
            todo="do not use it: get it again from its source",
        ) from None


def _public_key(key: str | Path | bytes) -> Any:
    serialization = _cryptography("cryptography.hazmat.primitives.serialization")
    where = None if isinstance(key, bytes) else str(key)
    try:
        loaded = serialization.load_pem_public_key(key if isinstance(key, bytes) else Path(key).read_bytes())
    except FileNotFoundError:
        raise UsageError(
            "the public key does not exist", where=where, todo="openssl pkey -in KEY -pubout -out KEY.pub"
        ) from None
    except (ValueError, OSError):
        loaded = None
    if type(loaded).__name__.find("Ed25519") < 0:
        raise UsageError("this is no Ed25519 public key in PEM form", where=where, todo="openssl pkey -in KEY -pubout")
    return loaded


def _private_key(path: Path) -> Any:
    serialization = _cryptography("cryptography.hazmat.primitives.serialization")
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise UsageError(
            "the key does not exist", where=str(path), todo="openssl genpkey -algorithm ed25519 -out KEY"
        ) from None
    except (ValueError, TypeError, OSError):
        loaded = None
    if type(loaded).__name__.find("Ed25519") < 0:
        raise UsageError(
            "this is no Ed25519 private key in PEM form without a password",
            where=str(path),
            todo="openssl genpkey -algorithm ed25519 -out KEY",
        )
    return loaded


def _cryptography(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            "signatures need the package cryptography, which is not installed", todo="pip install 'mmedge[sign]'"
        ) from error


@contextmanager
def rewriting(found: Artifact) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Change a bundle's files: yields (temporary folder with all of them, meta); the bundle is replaced at the end."""
    with artifact.creating(found.path, stage=found.stage, key=found.key, parent=found.parent) as (folder, meta):
        for name in sorted(found.files):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.file(name), folder / name)
        meta |= found.meta
        yield folder, meta
