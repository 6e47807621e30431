"""Progress is a parameter: stages tell it what they do; who runs them decides whether anybody sees it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


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


class Lines:
    """Progress for logs, on stderr: a line when a task begins, every ten seconds, and when it ends."""

    def __init__(self) -> None:
        self._task, self._told, self._began, self._first = "", 0.0, time.monotonic(), 0

    def step(self, task: str, done: int, total: int, text: str = "") -> None:
        now = time.monotonic()
        if task != self._task:
            self._task, self._told, self._began, self._first = task, now, now, done
        elif (done < total and now - self._told < 10) or (done >= total and self._told == float("inf")):
            return
        self._told = float("inf") if done >= total else now
        since = done - self._first  # a task that is come back to has done a part before
        left = f", {(now - self._began) / since * (total - done):.0f} s left" if since > 0 and done < total else ""
        self.say(f"{task}: {done}/{total} {text}".rstrip() + left)

    def say(self, line: str) -> None:
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


class Notebook:
    """Progress in a notebook's cell: a bar a task, by tqdm."""

    def __init__(self, bars: Any) -> None:
        self._make, self._bars = bars, dict[str, Any]()

    def step(self, task: str, done: int, total: int, text: str = "") -> None:
        if task not in self._bars:
            self._bars[task] = self._make(total=total, desc=task, leave=False)
        bar = self._bars[task]
        bar.total, bar.n = total, done
        bar.set_postfix_str(text, refresh=False)
        bar.refresh()
        if done >= total:
            self._bars.pop(task).close()

    def say(self, line: str) -> None:
        self._make.write(line)

    def close(self) -> None:
        """Take away the bars of tasks that have not ended."""
        for bar in self._bars.values():
            bar.close()


@contextmanager
def shown() -> Iterator[Progress]:
    """Bars with the time that is left, where there is a notebook or a terminal to show them; lines on stderr elsewhere."""
    if _in_notebook():
        try:
            from tqdm.auto import tqdm
        except ImportError:
            yield Lines()
            return
        notebook = Notebook(tqdm)
        try:
            yield notebook
        finally:
            notebook.close()
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield bars
    else:
        yield Lines()


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this, not a shell."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        class Terminal:
            def step(self, task: str, done: int, total: int, text: str = "") -> None:
                if task not in tasks:
                    tasks[task] = bars.add_task(task, total=total, text=text)
                bars.update(tasks[task], completed=done, total=total, text=text)

            def say(self, line: str) -> None:
                bars.console.print(line, highlight=False, markup=False)

        yield Terminal()
