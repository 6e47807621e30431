"""What ``mmedge check`` finds: the data card with all faults, and how it stands on the terminal (stderr)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from mmedge.errors import Fault
from mmedge.frozen import Record
from mmedge.machine import in_words
from mmedge.report.arranged import AlignmentRecord
from mmedge.report.provenance import SplitCard

# Findings of one kind that are told in full; --json has all of them.
_IN_FULL = 10


class FaultRecord(Record):
    """A finding. Errors stop a run, warnings are for the user to judge."""

    severity: Literal["error", "warning"]
    kind: str = Field(description="A short name, the same for all findings of its kind.")
    what: str
    file: str | None = None
    row: int | None = Field(None, description="From 1.")
    column: str | None = None
    module: str | None = None
    todo: str | None = None

    @classmethod
    def of(cls, fault: Fault) -> FaultRecord:
        """A fault's record."""
        return cls.model_validate(fault.record())

    def __str__(self) -> str:
        row = f"row {self.row}" if self.row is not None else None
        column = f"column {self.column}" if self.column else None
        where = ", ".join(part for part in (self.module, self.file, row, column) if part)
        lines = [f"{self.severity}: {self.what}", where and f"  at: {where}", self.todo and f"  do: {self.todo}"]
        return "\n".join(line for line in lines if line)


class TextFacts(Record):
    """What texts come to in tokens; ``share_full``: of those that fill the length, and may be cut."""

    tokens_p50: float
    tokens_in_vocabulary: int | None
    share_full: float


class SoundFacts(Record):
    """How many sounds have a sample rate in Hz, and how long they are, where any could be read."""

    sample_rates: dict[str, int]
    seconds: dict[str, float] | None = Field(None, description="p50 and max.")


class FilesRecord(Record):
    """A modality's files as they are: their bytes, and milliseconds of processor time that one takes to be decoded."""

    bytes: int
    decode_ms: float


class Card(Record):
    """The data card. What depends on the table is absent where it cannot be read."""

    recipe: str
    source: str
    align: list[AlignmentRecord] | None = None
    media: dict[str, TextFacts | SoundFacts] | None = None
    labels: list[str] | dict[str, list[str]] | None = Field(
        None, description="In their order; of several heads by head."
    )
    splits: dict[str, SplitCard] | None = None
    modalities: dict[str, list[int]] = {}
    store: dict[str, int] | None = Field(
        None, description="Modality -> bytes that the decoded samples take on the disk at most."
    )
    files: dict[str, FilesRecord] | None = Field(
        None, description="Modality -> its files as they are, where the decoded samples are large or not kept."
    )
    power: list[str] = Field([], description="What the samples that choose and judge can tell of a loss, in words.")
    errors: int = 0
    warnings: int = 0
    faults: list[FaultRecord] = []

    def with_faults(self, faults: Sequence[Fault]) -> Card:
        """The card with ``faults`` before those that it has."""
        found = [*map(FaultRecord.of, faults), *self.faults]
        errors = sum(fault.severity == "error" for fault in found)
        return self.model_copy(update={"errors": errors, "warnings": len(found) - errors, "faults": found})

    def lines(self) -> Iterator[str]:
        """What a reader is shown: of a kind of fault that is found often only the first."""
        for split, counts in (self.splits or {}).items():
            yield f"{split}: " + ", ".join(f"{name} {_text(value)}" for name, value in counts.record().items())
        for name, shape in self.modalities.items():
            facts = self.media[name].record() if self.media and name in self.media else {}
            size = f", {in_words(self.store[name])} decoded" if self.store and name in self.store else ""
            if self.files and (of := self.files.get(name)):
                size += f", {in_words(of.bytes)} of files that take {of.decode_ms:.1f} ms each (data.stream: at every epoch)"
            yield f"{name}: {shape}{size}" + "".join(f", {key} {_text(value)}" for key, value in facts.items())
        yield from (f"power: {sentence}" for sentence in self.power)
        counted: Counter[tuple[str, str]] = Counter()
        for fault in self.faults:
            kind = (fault.severity, fault.kind)
            counted[kind] += 1
            if counted[kind] <= _IN_FULL:
                yield str(fault)
        for (severity, name), count in counted.items():
            if count > _IN_FULL:
                yield f"{severity}: {count - _IN_FULL} more of the kind {name}; --json lists all"
        yield f"{self.errors} errors, {self.warnings} warnings" if self.faults else "no fault found"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
    return str(value)
