"""Every error a user can meet: what happened, where, and what to do. The class fixes the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal


class MmedgeError(Exception):
    """An error of one to three lines. ``exit_code`` is what the command line returns for it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None) -> None:
        what, where, todo = _shortened(what), where and _shortened(where), todo and _shortened(todo)
        self.what, self.where, self.todo = what, where, todo
        super().__init__(
            "\n".join(line for line in (what, where and f"  at: {where}", todo and f"  do: {todo}") if line)
        )


class UsageError(MmedgeError):
    """The command or the recipe is invalid."""

    exit_code = 2


class UnusableModel(UsageError):
    """An object that was given as a model is none that mmedge can work on."""


class UnreadableData(UsageError):
    """An object that was given as data yields nothing that can be read as samples."""


class UnmatchedInputs(UsageError):
    """The data's inputs cannot be told to be those of the model."""


class UnlabelledData(UsageError):
    """Labels are needed and the data has none."""


class AccuracyGateFailed(MmedgeError):
    """A gate on accuracy did not pass."""

    exit_code = 3


class LatencyGateFailed(MmedgeError):
    """A gate on latency, size or memory did not pass."""

    exit_code = 4


class MismatchError(MmedgeError):
    """Numbers or precision of a built graph or engine differ from what was asked."""

    exit_code = 5


class MissingDependency(MmedgeError):
    """A package or a piece of hardware that was asked for is not there."""

    exit_code = 6


class Interrupted(MmedgeError):
    """Ctrl-C; the state is saved and the same command resumes."""

    exit_code = 130


class PeerEnded(MmedgeError):
    """Another of the processes that train together has ended, and told why. Never a command's own exit code: see cli.launch."""

    exit_code = 75


# Characters that a line of an error has at most: a cell that it quotes may have millions.
_LINE = 1500


def _shortened(text: str) -> str:
    if len(text) <= _LINE:
        return text
    return "\n".join(line if len(line) <= _LINE else f"{line[: _LINE - 1]}…" for line in text.split("\n"))


def brief(value: object, most: int = 120, *, quoted: bool = True) -> str:
    """What a value is, on one line of at most ``most`` characters: a cell or a text may have millions."""
    if isinstance(value, (str, bytes)):
        value = value[: 2 * most]
    text = repr(value) if quoted else " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def first_line(error: BaseException) -> str:
    """What a foreign exception says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@dataclass(frozen=True)
class Fault:
    """One finding of ``mmedge check``: what, where (file, row from 1, column, module), and what to do.

    Errors stop a run, warnings are for the user to judge. ``kind`` is a short name, the same for all findings of its
    kind.
    """

    severity: Literal["error", "warning"]
    kind: str
    what: str
    file: str | None = None
    row: int | None = None
    column: str | None = None
    module: str | None = None
    todo: str | None = None

    def __post_init__(self) -> None:
        for name in ("what", "file", "column", "module", "todo"):
            if text := getattr(self, name):
                object.__setattr__(self, name, _shortened(text))

    @classmethod
    def of(cls, error: MmedgeError, kind: str, **place: Any) -> Fault:
        """The fault that an error tells of."""
        return cls("error", kind, error.what, **{"file": error.where, "todo": error.todo, **place})

    @property
    def where(self) -> str:
        row = f"row {self.row}" if self.row is not None else None
        column = f"column {self.column}" if self.column else None
        return ", ".join(part for part in (self.module, self.file, row, column) if part)

    def record(self) -> dict[str, str | int]:
        """What was given."""
        return {name: value for name, value in vars(self).items() if value is not None}


def refuse(faults: Iterable[Fault], kind: type[MmedgeError] = MmedgeError) -> None:
    """Raise the first error among the faults that ``check`` would list, with how many more there are."""
    errors = [fault for fault in faults if fault.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more; mmedge check lists them)" if len(errors) > 1 else ""
        raise kind(errors[0].what + more, where=errors[0].where, todo=errors[0].todo)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` when a known word is close to ``word``, else an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
