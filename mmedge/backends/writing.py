"""Networks that write a text: two graphs, one that runs once a text and one that runs once a token, and the loop around them.

In an ONNX file both stand side by side as one graph, whose metadata say how it is written; so it is calibrated, quantized
and shipped as any other. Its inputs ``HEAD.token`` and ``HEAD.state.NAME`` are of the step, which gives ``HEAD.scores`` (log
probabilities) and ``HEAD.next.NAME``; the rest is the beginning, which gives ``HEAD.start.NAME``. Of an engine that is
built there are two, and a file that names them. Opened, either is a ``Session`` that takes samples and gives texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from mmedge.backends.backend import Job
from mmedge.backends.engine import Engine, Profiles
from mmedge.backends.onnxfile import PARTS, metadata, parted, read_nodes
from mmedge.backends.session import Run, Session
from mmedge.errors import MmedgeError, first_line
from mmedge.frozen import Record

# {name: [rows, ...]}: what a step carries to the next, and ``(token int64 [rows], state) -> (log probabilities [rows,
# vocabulary] of the next token, what of the state has changed)``.
State = dict[str, np.ndarray]
Step = Callable[[np.ndarray, State], tuple[np.ndarray, State]]
# The key of a graph's metadata.
KEY = "mmedge.writing"
# Of a row that has no such beam, or of a token that is never written.
_NEVER = np.float32(-np.inf)


class Writing(Record):
    """How a graph's texts are written: the head that they are of, the token that begins and ends one, and what is the most.

    ``files``: of an engine, (that of the beginning, that of the step), beside the file that names them.
    """

    head: str
    end: int = Field(ge=1)
    steps: int = Field(ge=1, le=1024)
    beams: int = Field(1, ge=1, le=64)
    files: tuple[str, str] | None = None


def described(file: Path) -> Writing | None:
    """How a file's texts are written; None where it is one graph or engine as any."""
    if file.name.endswith(PARTS):
        told = file.read_text(encoding="utf-8")
    elif file.suffix.lower() != ".onnx" or KEY not in (known := metadata(file)):
        return None
    else:
        told = known[KEY]
    try:
        return Writing.model_validate_json(told)
    except ValidationError as error:
        raise MmedgeError(
            f"what the file says of how its texts are written is not understood: {first_line(error)}",
            where=str(file),
            todo="export it again",
        ) from None


def graphs_of(graph: Path, how: Writing) -> tuple[bytes, bytes]:
    """(the beginning, the step) of an ONNX file, each a graph of its own."""
    scores, following = f"{how.head}.scores", f"{how.head}.next."
    made = {name for node in read_nodes(graph) for name in node.outputs}
    return parted(graph, [name for name in made if name == scores or name.startswith(following)])


def opened(file: Path, how: Writing, opener: Callable[[Path | bytes], Session]) -> Session:
    """The session of a file that writes; ``opener`` opens each of its parts."""
    beginning, step = (file.with_name(name) for name in how.files) if how.files else graphs_of(file, how)
    return session(opener(beginning), opener(step), how)


def session(beginning: Session, step: Session, how: Writing) -> Session:
    """The two parts as one that takes samples and gives, for the head, float32 [batch, 1 + steps]: see ``tasks.generation``."""

    def over(begin: Run, once: Run) -> Run:
        return lambda inputs: _written(begin(inputs), once, frozenset(step.inputs), how)

    def led(inputs: Mapping[str, np.ndarray], texts: np.ndarray) -> dict[str, np.ndarray]:
        return _led(beginning.run(inputs), step.run, frozenset(step.inputs), how, texts)

    run, checked = over(beginning.run, step.run), over(beginning.checked or beginning.run, step.checked or step.run)
    return Session(run, beginning.inputs, (beginning.native, step.native), checked=checked, led=led)


@dataclass
class _Beams:
    """Beginnings of texts, rows * beams of them, those of a row beside each other.

    ``total``: float32 [rows, beams], their log probabilities; ``tokens``: int64 [rows, beams, steps]; ``over``: bool [rows,
    beams], which have ended.
    """

    total: np.ndarray
    tokens: np.ndarray
    over: np.ndarray

    def grown(self, likely: np.ndarray, at: int, end: int) -> np.ndarray:
        """Take the best of all that follows; int64 [rows * beams], which beginning each of them grew from.

        ``likely``: float32 [rows * beams, vocabulary]. One that has ended stays as it is. Of equals the first is taken.
        """
        rows, beams = self.total.shape
        likely = np.array(likely, np.float32).reshape(rows, beams, -1)
        likely[:, :, 0] = _NEVER  # padding, which nobody writes
        likely[self.over] = _NEVER
        likely[self.over, 0] = 0
        totals = (self.total[:, :, None] + likely).reshape(rows, -1)
        best = np.argsort(-totals, axis=1, kind="stable")[:, :beams]
        source, token = np.divmod(best, likely.shape[2])
        row = np.arange(rows)[:, None]
        self.total = np.take_along_axis(totals, best, axis=1)
        self.tokens, self.over = self.tokens[row, source], self.over[row, source] | (token == end)
        self.tokens[:, :, at] = token
        return (row * beams + source).ravel()

    def settled(self) -> bool:
        """Whether no row's best text can change any more: its likeliest beginning has ended, and others only get less likely."""
        return bool(np.take_along_axis(self.over, self.total.argmax(axis=1)[:, None], axis=1).all())


def _written(begun: Mapping[str, np.ndarray], step: Run, takes: frozenset[str], how: Writing) -> dict[str, np.ndarray]:
    """What the beginning gave besides, and the texts that follow: greedy, or by beam search."""
    write = _greedy if how.beams == 1 else _searched
    state, others = _parted(begun, how)
    total, tokens = write(state, lambda token, state: _stepped(step, token, state, takes, how), how)
    return others | {how.head: np.concatenate([total[:, None], tokens], axis=1).astype(np.float32)}


def _greedy(state: State, step: Step, how: Writing) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [rows], the log probability of each row's text, int64 [rows, steps]): the likeliest token each time."""
    rows = len(next(iter(state.values())))
    total, tokens = np.zeros(rows, np.float32), np.zeros((rows, how.steps), np.int64)
    token, over, row = np.full(rows, how.end, np.int64), np.zeros(rows, bool), np.arange(rows)
    for at in range(how.steps):
        likely, changed = step(token, state)
        token = likely[:, 1:].argmax(axis=1) + 1  # 0 is padding, which nobody writes
        gained = likely[row, token]
        token[over], gained[over] = 0, 0
        total += gained
        tokens[:, at] = token
        over |= token == how.end
        if over.all():
            break
        state = state | changed
    return total, tokens


def _searched(state: State, step: Step, how: Writing) -> tuple[np.ndarray, np.ndarray]:
    """The same by beam search (Graves 2012, Kim & Rush 2016)."""
    rows = len(next(iter(state.values())))
    state = {name: np.repeat(x, how.beams, axis=0) for name, x in state.items()}
    total = np.full((rows, how.beams), _NEVER)
    total[:, 0] = 0
    beams = _Beams(total, np.zeros((rows, how.beams, how.steps), np.int64), np.zeros((rows, how.beams), bool))
    token = np.full(rows * how.beams, how.end, np.int64)
    for at in range(how.steps):
        found, changed = step(token, state)
        source = beams.grown(found, at, how.end)
        if beams.settled():
            break
        # What no step changes is the same for all beginnings of a row.
        state |= {name: x[source] for name, x in changed.items()}
        token = beams.tokens[:, :, at].ravel()
    best, row = beams.total.argmax(axis=1), np.arange(rows)
    return beams.total[row, best], beams.tokens[row, best]


def _parted(begun: Mapping[str, np.ndarray], how: Writing) -> tuple[State, dict[str, np.ndarray]]:
    """(the state before the first step, what the beginning gave besides)."""
    starts = f"{how.head}.start."
    state = {name.removeprefix(starts): x for name, x in begun.items() if name.startswith(starts)}
    return state, {name: x for name, x in begun.items() if not name.startswith(starts)}


def _stepped(
    step: Run, token: np.ndarray, state: Mapping[str, np.ndarray], takes: frozenset[str], how: Writing
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(log probabilities [rows, vocabulary] of the next token, what of the state has changed)."""
    head = how.head
    feed = {f"{head}.state.{name}": x for name, x in state.items()} | {f"{head}.token": token}
    found = step({name: x for name, x in feed.items() if name in takes})
    return found[f"{head}.scores"], {
        name: found[f"{head}.next.{name}"] for name in state if f"{head}.next.{name}" in found
    }


def _led(
    begun: Mapping[str, np.ndarray], step: Run, takes: frozenset[str], how: Writing, texts: np.ndarray
) -> dict[str, np.ndarray]:
    """What the beginning gave besides, and ``HEAD.likelihoods``, float32 [rows, steps]: the log probability of each token of
    texts, [rows, steps], after those before it; 0 behind a text's end."""
    state, others = _parted(begun, how)
    token = np.full(len(texts), how.end, np.int64)
    found = np.zeros(texts.shape, np.float32)
    for at in range(int((texts != 0).any(axis=0).sum())):
        likely, changed = _stepped(step, token, state, takes, how)
        state |= changed
        token = texts[:, at].astype(np.int64)
        found[:, at] = np.where(token != 0, likely[np.arange(len(token)), token], 0)
    return others | {f"{how.head}.likelihoods": found}


def along(expect: Session, actual: Session, head: str) -> tuple[Run, Run]:
    """Two sessions that write, as they are compared: both led through the text that the first one writes.

    Left to themselves one token's least difference would make another text. The second must be run after the first, each
    time with the same inputs.
    """
    texts: list[np.ndarray] = []

    def first(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        texts[:] = [expect.run(inputs)[head][:, 1:]]
        return _of(expect, inputs)

    def _of(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert session.led is not None, "both write"
        return session.led(inputs, texts[0])

    return first, lambda inputs: _of(actual, inputs)


def behind(expect: Run, actual: Session, head: str) -> tuple[Run, Run]:
    """The same of a network in another framework and its graph: ``HEAD.likelihood``, float32 [rows, 1], the log probability of
    the text that the first one writes, which gives it itself, and through which the second one is led."""
    texts: list[np.ndarray] = []
    whole = f"{head}.likelihood"

    def first(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = expect(inputs)
        text = found.pop(head)
        texts[:] = [text[:, 1:]]
        return found | {whole: text[:, :1]}

    def second(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert actual.led is not None, "it writes"
        found = actual.led(inputs, texts[0])
        return found | {whole: found.pop(f"{head}.likelihoods").sum(axis=1, keepdims=True)}

    return first, second


def feeds(
    graph: Path, how: Writing, opener: Callable[[bytes], Session]
) -> Callable[[Mapping[str, np.ndarray], int], dict[str, np.ndarray]]:
    """``(a sample's inputs, number) ->`` what the whole graph takes: the sample, and the step of its text of that number, counted around."""
    begin, once = (opener(part) for part in graphs_of(graph, how))
    seen: list[dict[str, np.ndarray]] = []

    def remembering(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(dict(inputs))
        return once.run(inputs)

    def feed(inputs: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
        seen.clear()
        _written(begin.run(inputs), remembering, frozenset(once.inputs), how.model_copy(update={"beams": 1}))
        return {**inputs, **seen[number % len(seen)]}

    return feed


def built(job: Job, how: Writing, build: Callable[[Job], Engine], opener: Callable[[bytes], Session]) -> Engine:
    """Build the engines of both parts of ``job.graph``, and beside them the file that names them; what is told is of both."""
    made = []
    for name, content in zip(("beginning", "step"), graphs_of(job.graph, how)):
        profiles = job.profiles if name == "beginning" else _profiles(opener(content), job.profiles["present"], how)
        part = job.graph.with_name(f"{job.stem}-{name}.onnx")
        part.write_bytes(content)
        try:
            made.append(build(replace(job, graph=part, stem=part.stem, profiles=profiles)))
        finally:
            part.unlink()
    first, second = made
    file = f"{job.stem}{PARTS}"
    named = how.model_copy(update={"files": (first.file, second.file)})
    job.graph.with_name(file).write_text(json.dumps(named.record()), encoding="utf-8")
    layers = None
    if first.int8_layers is not None and second.int8_layers is not None:
        layers = [*first.int8_layers, *second.int8_layers]
    files = [file, *(each for one in made for each in one.files or [one.file])]
    notes = list(dict.fromkeys([*first.notes, *second.notes]))
    return first.model_copy(update={"file": file, "files": files, "int8_layers": layers, "notes": notes})


def _profiles(step: Session, batches: list[list[int]], how: Writing) -> Profiles:
    """Of the step's inputs: as many rows as beams of the samples' batches. ``batches``: the profile of ``present``."""
    rows = [1, *(shape[0] * how.beams for shape in batches[1:])]
    return {
        name: [[count, *(size or 1 for size in info.shape[1:])] for count in rows] for name, info in step.inputs.items()
    }
