"""What the verbs share: their options, the frame that turns errors into exit codes, and progress on stderr."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from mmedge.errors import Interrupted, MissingDependency, MmedgeError
from mmedge.progress import shown as progress

__all__ = [
    "bundle_options",
    "code_option",
    "document",
    "framed",
    "noted",
    "out_option",
    "print_error",
    "print_json",
    "progress",
    "set_option",
    "start_option",
    "typed",
]

if TYPE_CHECKING:
    from mmedge.runtime.engine import Engine

json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout.")
# What the base install leaves out;
_TOOLCHAIN = ("jinja2", "matplotlib", "nncf", "onnx", "onnxscript", "polars", "safetensors", "sklearn", "torch", "torch_pruning")  # fmt: skip
start_option = click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    help="An artifact to start from instead of the stages before it.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a recipe key, as in teacher.train.epochs=5. Repeatable.",
)


def _allow(context: click.Context, _: click.Parameter, names: tuple[str, ...]) -> None:
    if names:
        from mmedge.errors import UsageError
        from mmedge.recipe.code import allowing

        try:
            context.with_resource(allowing(names))
        except UsageError as error:
            raise click.BadParameter(error.what) from None


code_option = click.option(
    "--allow-code",
    multiple=True,
    metavar="NAME",
    expose_value=False,
    callback=_allow,
    help="Run code of this installed package, or what an artifact from elsewhere names in this module. Repeatable.",
)
debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def framed(command: Callable[..., int | None]) -> Callable[..., int]:
    """Run a verb and return its exit code; errors become one to three lines on stderr, and JSON where it was asked for."""

    @functools.wraps(command)
    @json_option
    @debug_option
    def wrapper(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> int:
        interrupts: list[int] = []
        context = click.get_current_context(silent=True)
        out = context.params.get("out") if context else None
        try:
            with noted(interrupts), _document_alone() if as_json else nullcontext():
                return command(*args, as_json=as_json, **kwargs) or 0
        except BrokenPipeError:  # whoever read our output has enough, as in mmedge predict … | head -1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except BaseException as raised:  # Ctrl-C, and what ends the process, too
            if debug and not isinstance(raised, KeyboardInterrupt):
                raise
            # Once Ctrl-C has come, what a library makes of it on its way is Ctrl-C all the same.
            error = _as_ours(KeyboardInterrupt() if interrupts else raised, out)
        if as_json:
            print_error(error.what, error.where, error.todo, error.exit_code)
        click.echo(f"error: {error}".encode("utf-8", "backslashreplace").decode(), err=True)
        return error.exit_code

    return wrapper


@contextmanager
def noted(interrupts: list[int]) -> Iterator[None]:
    """Within the block each Ctrl-C is appended to ``interrupts``, and raised as ever."""

    def handler(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # whoever calls us has a handler of their own
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is handler:
            signal.signal(signal.SIGINT, before)


def _as_ours(raised: BaseException, out: Path | None) -> MmedgeError:
    """Whatever a verb raised as an error of ours."""
    causes = [raised]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if isinstance(raised, MmedgeError):
        return raised
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):  # a library's import makes it an ImportError
        return Interrupted("interrupted; the state is saved", todo="run the same command again to go on")
    if any(_is_full(cause) for cause in causes):
        named = next((cause.filename for cause in causes if isinstance(cause, OSError) and cause.filename), None)
        return MmedgeError(
            "the disk is full", where=str(named or _fullest(out)), todo="free some space or choose another --out"
        )
    match raised:
        case ModuleNotFoundError():
            package = (raised.name or "").partition(".")[0]
            if package in _TOOLCHAIN:
                what = f"this verb needs {package}, which is not installed"
                return MissingDependency(what, todo="pip install 'mmedge[toolchain]'")
            return MmedgeError(f"a module cannot be imported: {raised}", todo="install it, or correct the recipe")
        case OSError():
            what = f"{type(raised).__name__}: {raised.strerror or raised}"
            return MmedgeError(what, where=raised.filename and str(raised.filename))
        case SystemExit():
            what = f"a module that the recipe names ended the process: exit({raised.code})"
            return MmedgeError(what, todo="raise an error instead")
        case MemoryError():
            return MmedgeError("out of memory", todo="lower the batch size")
    return MmedgeError(
        f"unexpected {type(raised).__name__}: {next(iter(str(raised).splitlines()), '')}",
        todo="run again with --debug, and report what it shows",
    )


def _is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a user's share of it, is full; libraries in Rust and C++ say so in words alone."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (isinstance(error, OSError) and error.errno in full) or os.strerror(errno.ENOSPC) in str(error)


def _fullest(out: Path | None) -> Path:
    """Of the folders that are written to the one with the least space left."""
    import shutil
    import tempfile

    here = (out or Path()).resolve()
    there = next(folder for folder in (here, *here.parents) if folder.exists())
    return min((there, Path(tempfile.gettempdir())), key=lambda folder: shutil.disk_usage(folder).free)


# Where the stdout of before ``_document_alone`` is kept in click's context.
_STDOUT = "mmedge.stdout"


@contextmanager
def _document_alone() -> Iterator[None]:
    """Keep stdout for the one document of ``--json``: what anybody else prints meanwhile, a user's code say, goes to stderr."""
    meta = click.get_current_context().meta
    sys.stdout.flush()
    with ExitStack() as held:
        meta[_STDOUT] = sys.stdout
        try:
            number, errors = sys.stdout.fileno(), sys.stderr.fileno()
        except (OSError, ValueError):  # a stream of a test's, which no library of C writes to
            pass
        else:
            before = os.dup(number)
            meta[_STDOUT] = held.enter_context(open(before, "w", encoding="utf-8", errors="backslashreplace"))
            held.callback(os.dup2, before, number)
            os.dup2(errors, number)
        held.callback(meta.pop, _STDOUT)
        held.enter_context(redirect_stdout(sys.stderr))
        yield


def document() -> Any:
    """The stream that the one document of ``--json`` is written to."""
    context = click.get_current_context(silent=True)
    return sys.stdout if context is None else context.meta.get(_STDOUT, sys.stdout)


def print_json(value: Any) -> None:
    """The one document of ``--json``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair, which a file's name may hold, becomes the escape that JSON has for it.
    click.echo(text.encode("utf-8", "backslashreplace").decode(), file=document())


def print_error(what: str, where: str | None, todo: str | None, exit_code: int) -> None:
    """The document of ``--json`` where a verb failed."""
    print_json({"error": {"what": what, "where": where, "todo": todo, "exit_code": exit_code}})


def typed() -> list[str]:
    """The command as it was typed."""
    return ["mmedge", *sys.argv[1:]]


def bundle_options(command: Callable[..., int]) -> Callable[..., int]:
    """A bundle and how it is loaded, which the verb gets as ``open_engine``: what loads it."""

    @click.argument("bundle", type=click.Path(path_type=Path))
    @click.option("--target", help="One of the bundle's engines.  [default: onnxruntime-cpu]")
    @click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
    @click.option(
        "--require-signature",
        type=click.Path(path_type=Path),
        metavar="KEY",
        help="The public key (PEM) that must have signed the bundle; without its signature nothing is loaded.",
    )
    @click.option(
        "--key", type=click.Path(path_type=Path), metavar="KEYFILE", help="What the bundle was encrypted with."
    )
    @functools.wraps(command)
    def wrapper(
        *args: Any,
        bundle: Path,
        target: str | None,
        threads: int,
        require_signature: Path | None,
        key: Path | None,
        **more: Any,
    ) -> int:
        def load() -> Engine:
            from mmedge import runtime

            return runtime.load(bundle, target, threads, require_signature=require_signature, key=key)

        return command(*args, open_engine=load, **more)

    return wrapper


def out_option(default: str | None = None) -> Callable[..., Any]:
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=default,
        help="Folder to write to." + ("" if default else "  [default: runs/NAME-OF-RECIPE]"),
    )
