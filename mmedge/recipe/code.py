"""The code that recipes and artifacts name as ``module:attribute``: the one place that decides what is run, and imports it.

A recipe and an artifact are data, and data must not become any command. What a recipe names is a network's class or a
function that is *defined* in a module of the recipe's own folder. Installed packages, and whatever an artifact names
that the recipe at hand does not, are run where the user says their names: ``--allow-code NAME``, or ``code: [NAME]`` in
the user's own ``~/.config/mmedge/config.yaml``. The standard library never is.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

from mmedge.artifact import Artifact, sha256_of
from mmedge.errors import UsageError, did_you_mean
from mmedge.recipe.dependencies import is_installed, sources
from mmedge.recipe.objects import held, is_object
from mmedge.recipe.whole import Recipe

Kind = Literal["network", "dataset"]
_allowed: list[str] = []
# {module: {file: sha256}} of what was imported last.
_imported: dict[str, dict[str, str]] = {}


def load_attribute(name: str, folder: Path, kind: Kind = "network") -> Any:
    """What ``module:attribute`` names, imported from ``folder`` or a package that the user has allowed.

    Or the object that the caller of this process gave under that name. Raises UsageError where it may not be run, before
    its module is imported where that shows already.
    """
    if is_object(name):
        return held(name)
    module_name, _, attribute = name.partition(":")
    folder = folder.resolve()
    sys.path.insert(0, str(folder))
    try:
        _forget_changed(module_name, folder)
        _refuse_module(module_name, name, folder)
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise _absent(name, folder) from error
        raise
    finally:
        sys.path.remove(str(folder))
    if not hasattr(module, attribute):
        raise UsageError(
            f"module {module_name!r} has no {attribute!r}{did_you_mean(attribute, dir(module))}", where=name
        )
    found = getattr(module, attribute)
    _refuse_object(found, name, folder, kind)
    return found


def code_of(recipe: Recipe) -> list[str]:
    """All ``module:attribute`` that a recipe names."""
    models = [recipe.teacher.model]
    if recipe.distill:
        models += [recipe.distill.model, *(given.model for given in recipe.distill.teachers)]
    named = [recipe.data.dataset, *(model.factory for model in models)]
    return [name for name in named if name and ":" in name]


def code_of_artifact(artifact: Artifact, recipe: Recipe) -> list[str]:
    """What an artifact's manifest names, and the recipe at hand does not."""
    model = artifact.meta.get("model")
    name = model.get("factory") if isinstance(model, dict) else None
    return [str(name)] if name and name not in code_of(recipe) else []


def refuse_foreign(names: Collection[str], where: str) -> None:
    """Raise UsageError for the first of ``names``, which something from elsewhere names, that the user has not allowed."""
    for name in names:
        module = name.partition(":")[0]
        if not is_object(name) and not _is_allowed(module):
            raise UsageError(
                f"the artifact names code, {name}, and data from elsewhere runs none unasked",
                where=where,
                todo=f"where you trust both the artifact and that module, say --allow-code {module}",
            )


@contextmanager
def allowing(names: Collection[str]) -> Iterator[None]:
    """Allow the packages or modules of these names, as ``--allow-code`` does."""
    for name in names:
        if not all(step.isidentifier() for step in name.split(".")):
            raise UsageError(f"--allow-code takes a package's name, not {name!r}", todo="for example --allow-code timm")
    _allowed.extend(names)
    try:
        yield
    finally:
        del _allowed[len(_allowed) - len(names) :]


def config_file() -> Path:
    """The user's own settings."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mmedge" / "config.yaml"


def _of_the_user() -> list[str]:
    """What the user's own file allows: ``code``, a list of names."""
    file = config_file()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        record = YAML(typ="safe").load(text) or {}
    except YAMLError:
        record = None
    names = record.get("code", []) if isinstance(record, dict) and set(record) <= {"code"} else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            "your settings may hold 'code' alone, a list of names", where=str(file), todo="write code: [timm]"
        )
    return names


def _is_allowed(module: str) -> bool:
    if module.partition(".")[0] in sys.stdlib_module_names:
        return False
    return any(module == name or module.startswith(f"{name}.") for name in (*_allowed, *_of_the_user()))


def _refuse_module(module: str, name: str, folder: Path) -> None:
    """Raise UsageError where a module is neither of the folder nor allowed; nothing is imported to know."""
    top = module.partition(".")[0]
    if _is_of(top, folder) or _is_allowed(module):
        return
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        raise UsageError(
            f"{top!r} is a module of Python itself, and a recipe runs none of those",
            where=name,
            todo="name a network's class or a function that is defined beside the recipe, in a module with a name of its own",
        )
    if _spec(top) is None:
        raise _absent(name, folder)
    raise UsageError(
        f"{module!r} is no module of the recipe's folder",
        where=name,
        todo=f"put it beside the recipe ({folder}); or, where you trust the installed package, say --allow-code {top}",
    )


def _refuse_object(found: Any, name: str, folder: Path, kind: Kind) -> None:
    """Raise UsageError where an attribute is not a network's class or a function that is defined where it may be."""
    found = inspect.unwrap(found) if callable(found) else found
    if not isinstance(found, (type, FunctionType)) or (
        kind == "network" and isinstance(found, type) and not _is_network(found)
    ):
        wanted = "a class of torch.nn.Module or a function" if kind == "network" else "a function or a class"
        raise UsageError(f"it is {_article(found)}, not {wanted}", where=name, todo="name one that is defined there")
    home = str(found.__module__)
    if not (_is_of(home.partition(".")[0], folder) or _is_allowed(home)):
        what = f"it is defined in {home!r}, which is no module of the recipe's folder"
        if home.partition(".")[0] in sys.stdlib_module_names:
            raise UsageError(what, where=name, todo="name a class or function that is defined beside the recipe")
        package = home.partition(".")[0]
        todo = f"define a function beside the recipe that calls it, or say --allow-code {package}"
        raise UsageError(what, where=name, todo=todo)


def _is_network(found: type) -> bool:
    """Whether a class is of torch.nn.Module; told by name, so that torch is not imported for it."""
    return any((base.__module__, base.__name__) == ("torch.nn.modules.module", "Module") for base in found.__mro__)


def _article(found: Any) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"


def _spec(top: str) -> Any:
    """Where a top-level module is, or would be imported from; None where there is none."""
    loaded = sys.modules.get(top)
    if loaded is not None:
        return loaded.__spec__
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _is_of(top: str, folder: Path) -> bool:
    """Whether a top-level module or package stands in the folder itself."""
    spec = _spec(top)
    if spec is None:
        return False
    origin = Path(spec.origin) if spec.has_location and spec.origin else None
    if spec.submodule_search_locations is not None:
        places = [Path(place).parent for place in spec.submodule_search_locations]
    else:
        places = [origin.parent] if origin else []
    return any(place.resolve() == folder for place in places) and not (origin and is_installed(origin))


def _forget_changed(module: str, folder: Path) -> None:
    """Let go of what was imported under this name where its files are others now: a long-lived process must not go on with them."""
    found = {str(file): sha256_of(file) for file in sources(module, folder)}
    before = _imported.setdefault(module, found)
    if before != found:
        importlib.invalidate_caches()
        for name, one in list(sys.modules.items()):
            if getattr(one, "__file__", None) in before:
                del sys.modules[name]
        _imported[module] = found


def _absent(name: str, folder: Path) -> UsageError:
    module = name.partition(":")[0]
    return UsageError(
        f"no module {module!r}",
        where=name,
        todo=f"put {module}.py beside the recipe ({folder}), or install it and say --allow-code {module.partition('.')[0]}",
    )
