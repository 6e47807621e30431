"""The traps in users' models that their source text shows: what breaks on another machine, at batch 1, or runs foreign code."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmedge.errors import Fault


def source_faults(factory: Any) -> list[Fault]:
    """What a factory's source file shows: devices by name, and ``squeeze()`` of every axis, with their lines."""
    try:
        file = inspect.getsourcefile(factory)
        tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file else None
    except (OSError, TypeError, SyntaxError, UnicodeDecodeError):
        return []
    faults = []
    for node in _reached_code(tree, getattr(factory, "__name__", "")) if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            faults += _lengths(node, str(file))
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        constants = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        if name == "cuda" or any(
            isinstance(value, str) and value.split(":")[0] in ("cuda", "mps") for value in constants
        ):
            faults.append(
                Fault(
                    "warning",
                    "device",
                    f"a device is named in the code: {ast.unparse(node)[:80]}",
                    f"{file}:{node.lineno}",
                    todo="leave it to the caller: take the device of an input, or register a buffer",
                )
            )
        if name == "squeeze" and not constants and not node.args[isinstance(node.func, ast.Attribute) is False :]:
            faults.append(
                Fault(
                    "warning",
                    "squeeze",
                    f"squeeze() without an axis drops the batch at batch 1: {ast.unparse(node)[:80]}",
                    f"{file}:{node.lineno}",
                    todo="name the axis, as in squeeze(-1)",
                )
            )
        if (
            name == "load"
            and ast.unparse(node.func) == "torch.load"
            and not any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)
        ):
            faults.append(
                Fault(
                    "warning",
                    "unpickles",
                    f"torch.load may run code that is in the file: {ast.unparse(node)[:80]}",
                    f"{file}:{node.lineno}",
                    todo="pass weights_only=True, or use safetensors",
                )
            )
    return faults


def _lengths(forward: ast.FunctionDef, file: str) -> list[Fault]:
    """``len`` of an input: a Python number, by which the export freezes the size of the batch."""
    inputs = {argument.arg for argument in (*forward.args.args, *forward.args.kwonlyargs)}
    return [
        Fault(
            "warning",
            "frozen-batch",
            f"len() of an input is a fixed number in the exported graph: {ast.unparse(node)}",
            f"{file}:{node.lineno}",
            todo=f"{ast.unparse(node.args[0])}.shape[0] stays the batch's",
        )
        for node in ast.walk(forward)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "len"
        and len(node.args) == 1
        and getattr(node.args[0], "id", "") in inputs
    ]


def _reached_code(tree: ast.Module, name: str) -> Iterator[ast.AST]:
    """The nodes of a factory and of all that it names in its own file; of the whole file where it is not found there."""
    defined = {
        node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
    }
    if name not in defined:
        yield from ast.walk(tree)
        return
    seen, waiting = {name}, [name]
    while waiting:
        for node in ast.walk(defined[waiting.pop()]):
            yield node
            named = node.id if isinstance(node, ast.Name) else None
            if named in defined and named not in seen:
                seen.add(named)
                waiting.append(named)
