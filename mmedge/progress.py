"""Progress is a parameter: stages tell it what they do; who runs them decides whether anybody sees it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """``step`` while a task goes on (``done`` of ``total``, with a short text), ``say`` for a line that stays."""

    def step(self, task: str, done: int, total: int, text: str = "") -> None: ...

    def say(self, line: str) -> None: ...


class Silent:
    """Shows nothing."""

    def step(self, task: str, done: int, total: int, text: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        pass
