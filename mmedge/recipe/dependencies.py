"""What a result depends on beside the recipe: the user's own modules, and the files that these and their arguments name."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mmedge.artifact import hash_json, sha256_of
from mmedge.backends.onnxfile import files_of
from mmedge.recipe.objects import is_object

# Of a folder that an argument names: beyond so many files or bytes their sizes and times stand for their contents.
_MOST_FILES, _MOST_BYTES = 20_000, 4 << 30
# Longer texts are no paths.
_LONGEST = 1024


def code_state(name: str, args: Any, folder: Path, say: Callable[[str], None] = lambda line: None) -> str:
    """A hash of all that ``module:attribute``, called with ``args``, is known to depend on; nothing is imported.

    That is the module's file, every module of the user's that it imports, however deep, and the contents of files and
    folders that its arguments or texts in its code name, relative to ``folder``, to the module or to where mmedge runs.
    ``say`` gets what stands for contents that are too many to read. An object's name holds its hash.
    """
    if is_object(name):
        return hash_json(name)
    files = sources(name.partition(":")[0], folder)
    places = {folder, Path.cwd()}
    state = {
        "code": [sha256_of(file) for file in files],
        "package": _version(name.partition(":")[0], folder),
        "named": {
            text: [path_state(path, say) for path in _standing(text, places)] for text in sorted({*_texts(args)})
        },
        "written": sorted(
            sha256_of(path)
            for file in files
            for text in _constants(file)
            for path in _standing(text, {*places, file.parent})
            if path.is_file() and not is_installed(path)
        ),
    }
    return hash_json(state)


def file_state(path: Path) -> str:
    """A hash of a file's content, for an ONNX graph together with the files that it keeps its weights in."""
    return hash_json([sha256_of(file) for file in files_of(path) if file.is_file()])


def path_state(path: Path, say: Callable[[str], None] = lambda line: None) -> str:
    """A hash of a file's content, or of the names and contents of all files in a folder, hidden ones and runs of mmedge left out."""
    if path.is_file():
        return file_state(path)
    files, size = [], 0
    for file in _below(path):
        files.append(file)
        size += file.stat().st_size
        if len(files) > _MOST_FILES or size > _MOST_BYTES:
            say(
                f"{path} holds more than is read again at each start: a change is noticed by the sizes and times of its"
                f" first {_MOST_FILES} files alone"
            )
            state = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
            return hash_json([[file.relative_to(path) for file in files], state])
    return hash_json([[file.relative_to(path).as_posix(), sha256_of(file)] for file in files])


@dataclass
class Read:
    """What was read in a block of ``watched``: ``files``: {path: sha256}; ``network``: whether anything was asked from one."""

    files: dict[str, str] = field(default_factory=dict)
    network: bool = False


@contextmanager
def watched(without: Path) -> Iterator[Read]:
    """Note which files Python code in this block opens to read; not the interpreter's own, nor those below ``without``.

    What a library opens by C alone (HDF5, sound files) is not seen.
    """
    global _watching
    if not _watching:
        sys.addaudithook(_note)
        _watching = True
    found, opened = Read(), set[str]()
    _opened.append((opened, found))
    try:
        yield found
    finally:
        _opened.remove((opened, found))
    inner = without.resolve()
    for name in sorted(opened):
        path = Path(name)
        if path.is_file() and not is_installed(path) and inner not in path.resolve().parents:
            found.files[name] = sha256_of(path)


def still(files: Mapping[str, str | None]) -> bool:
    """Whether the files that were read are there as they were."""
    return all(Path(name).is_file() and sha256_of(Path(name)) == digest for name, digest in files.items())


_opened: list[tuple[set[str], Read]] = []
_watching = False


def _note(event: str, details: tuple[Any, ...]) -> None:
    """The audit hook, which cannot be taken away again: it does nothing outside ``watched``."""
    if not _opened:
        return
    if event == "open":
        path, mode, flags = details
        writes = any(c in mode for c in "wax+") if mode else bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
        if isinstance(path, (str, bytes, os.PathLike)) and not writes:
            _opened[-1][0].add(os.path.abspath(os.fsdecode(path)))
    elif event == "socket.connect" and isinstance(details[1], tuple):  # not to a process of this machine
        _opened[-1][1].network = True


def sources(module: str, folder: Path) -> list[Path]:
    """The files of a module and of all that it imports of the user's own, each once, in a fixed order."""
    found: dict[Path, None] = {}
    waiting = _files_of(module, folder)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found[file] = None
            waiting += _imported(file, folder)
    return sorted(found)


def _imported(file: Path, folder: Path) -> list[Path]:
    """The user's own files that a file's imports name, those in functions too, and texts that are a module's name."""
    found: list[Path] = []
    for node in ast.walk(_tree(file)):
        match node:
            case ast.Import():
                for alias in node.names:
                    found += _files_of(alias.name, folder)
            case ast.ImportFrom(level=0):
                for alias in node.names:
                    found += _files_of(f"{node.module}.{alias.name}", folder)
            case ast.ImportFrom():
                base = file.parents[node.level - 1] if node.level <= len(file.parents) else folder
                steps = (node.module or "").split(".") if node.module else []
                for alias in node.names:
                    found += _below_package(base, [*steps, alias.name])
            case ast.Constant(value=str() as text) if text.replace(".", "").isidentifier() and len(text) < _LONGEST:
                found += _files_of(text, folder, also_elsewhere=False)
    return found


def _files_of(module: str, folder: Path, also_elsewhere: bool = True) -> list[Path]:
    """The files of ``a.b.c`` and its packages, in ``folder`` or wherever else the user keeps code; none of an installed one."""
    steps = module.split(".")
    found = [file for file in _below_package(folder, steps) if not is_installed(file)]
    if found or not also_elsewhere or steps[0] in sys.stdlib_module_names or steps[0] == "mmedge":
        return found
    place = _elsewhere(steps[0])
    return _below_package(place, steps) if place else []


def _below_package(base: Path, steps: list[str]) -> list[Path]:
    """The files of a module's packages and its own; a last step that is no module is an attribute of the one before."""
    found = []
    init = base / "__init__.py"
    if init.is_file() and base.name.isidentifier():
        found.append(init)
    for step in steps:
        if (base / f"{step}.py").is_file():
            found.append(base / f"{step}.py")
        base = base / step
        if (base / "__init__.py").is_file():
            found.append(base / "__init__.py")
    return found


def _elsewhere(top: str) -> Path | None:
    """The folder that a package of the user's own is imported from, beside the recipe's; None where it is installed or absent."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py") or is_installed(Path(spec.origin)):
        return None
    file = Path(spec.origin)
    return file.parent.parent if file.name == "__init__.py" else file.parent


def _version(module: str, folder: Path) -> str:
    """The version of the installed package that a module is of; empty for the user's own."""
    top = module.partition(".")[0]
    try:
        return "" if _files_of(module, folder) else metadata.version(top)
    except metadata.PackageNotFoundError:
        return ""


def is_installed(path: Path) -> bool:
    """Whether a file is of Python itself, of an installed package, of mmedge or of the system."""
    if {"site-packages", "dist-packages", "__pycache__"} & {*path.parts}:
        return True
    homes = (sysconfig.get_paths()["stdlib"], Path(__file__).parents[1], "/proc", "/sys", "/dev", "/etc")
    return any(Path(home) in path.parents for home in homes)


def _texts(value: Any) -> Iterator[str]:
    """Every text in the arguments that may be a path."""
    if isinstance(value, str):
        if value and len(value) < _LONGEST and "\0" not in value and "\n" not in value:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _constants(file: Path) -> set[str]:
    return {
        text
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for text in _texts(node.value)
    }


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # who imports it tells so
        return ast.Module([], [])


def _standing(text: str, places: set[Path]) -> list[Path]:
    """The files and folders that a text names, relative to any of ``places``."""
    found = set()
    for place in places:
        try:
            path = place / Path(text).expanduser()
            if path.exists():
                found.add(path.resolve())
        except (OSError, RuntimeError, ValueError):  # too long a name, or a home that nobody has
            continue
    return sorted(found)


def _below(folder: Path) -> Iterator[Path]:
    """The plain files of a folder and those below it, in order; hidden ones and the folders of mmedge's runs are left out."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != "__pycache__" and not (here / name / ".work").is_dir()
        )
        yield from (here / name for name in sorted(files) if not name.startswith(".") and (here / name).is_file())
