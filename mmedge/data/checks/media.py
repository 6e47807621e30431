"""What is wrong with the files that a table names: every one is opened, decoded by the runtime's own code, and hashed."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars

from mmedge.data.checks.cells import duplicate
from mmedge.data.checks.pictures import picture_faults
from mmedge.data.manifest.faults import columns_of
from mmedge.data.manifest.source import ROW, SPLIT
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.store.content import there
from mmedge.data.store.tensors import UNREADABLE, Decoded, decoded
from mmedge.errors import Fault, MmedgeError
from mmedge.preprocess.members import openable
from mmedge.progress import Progress
from mmedge.recipe import Data
from mmedge.report.checked import SoundFacts, TextFacts
from mmedge.spec import AudioSpec, ImageSpec, ModalitySpec, TabularSpec, TextSpec


def media_faults(
    table: polars.DataFrame, data: Data, folder: Path, file: str, cache: Path, progress: Progress
) -> tuple[list[Fault], dict[str, TextFacts | SoundFacts], dict[str, ModalitySpec]]:
    """Faults of every modality's content, facts for the data card, and the specs with their vocabularies fitted.

    What is decoded stays in ``cache``, where a run finds it.
    """
    faults: list[Fault] = []
    facts: dict[str, TextFacts | SoundFacts] = {}
    fitted: dict[str, ModalitySpec] = {}
    contents: dict[int, list[str]] = defaultdict(list)
    tables = {
        split: part for split in SPLITS if (part := table.filter(polars.col(SPLIT) == split)).height or split == "train"
    }
    for name, spec in data.modalities.items():
        column = columns_of(name, spec)[0]
        try:
            one = decoded(name, spec, tables, folder, cache, data.workers, progress)
        except MmedgeError as error:
            faults.append(Fault.of(error, "vocabulary", column=column))
            continue
        fitted[name] = one.spec
        faults += _unreadable(name, spec, one, tables, folder, file)
        faults += _constant(name, one, tables, file, column)
        if isinstance(one.spec, TextSpec) and one.tokens:
            found, facts[name] = _texts(name, one.spec, one.tokens, file, column)
            faults += found
        if isinstance(spec, AudioSpec):
            found, facts[name] = _sounds(spec, _files(one, tables, column, folder), file, column)
            faults += found
        if isinstance(spec, ImageSpec):
            faults += picture_faults(name, _files(one, tables, column, folder), file, column)
        faults += _same_content(name, spec, one, tables, contents, file, column)
    faults += _same_samples(table, data, contents, file)
    return faults, facts, fitted


def _files(one: Decoded, tables: dict[str, polars.DataFrame], column: str, folder: Path) -> list[tuple[int, Path]]:
    """(row in the user's table, path) of the files that were there to be read; the others are told of already."""
    return [
        (row, folder / cell)
        for split, table in tables.items()
        for (row, cell), held in zip(table.select(ROW, column).iter_rows(), one.contents[split])
        if held not in (None, UNREADABLE)
    ]


def _unreadable(
    name: str, spec: ModalitySpec, one: Decoded, tables: dict[str, polars.DataFrame], folder: Path, file: str
) -> list[Fault]:
    if isinstance(spec, TabularSpec):  # the table's own cells are looked at as columns
        return []
    column = columns_of(name, spec)[0]
    faults = []
    for split, of_split in one.faults.items():
        for row, what in of_split:
            cell = tables[split][column][row]
            if spec.reads_file and not there(spec, folder / cell):
                continue  # told of as missing
            faults.append(
                Fault(
                    "error",
                    "unreadable",
                    f"{what}: {cell}" if spec.reads_file else what,
                    file,
                    tables[split][ROW][row],
                    column,
                    todo="mend the file, or empty its cell: the modality is then missing for that sample",
                )
            )
    return sorted(faults, key=lambda fault: fault.row or 0)


def _constant(name: str, one: Decoded, tables: dict[str, polars.DataFrame], file: str, column: str) -> list[Fault]:
    blank = sorted(tables[split][ROW][row] for split, rows in one.blank.items() for row in rows)
    faults = [
        Fault(
            "warning",
            "blank",
            f"the {name} has one value throughout: blank or silent",
            file,
            row,
            column,
            todo="look at the file",
        )
        for row in blank
    ]
    return faults + [
        Fault(
            "warning",
            "constant",
            f"channel {channel} of {name} is constant in every file: it tells nothing",
            file,
            column=column,
            todo="leave the channel out",
        )
        for channel in one.constant
    ]


def _texts(name: str, spec: TextSpec, tokens: list[int], file: str, column: str) -> tuple[list[Fault], TextFacts]:
    full = sum(count == spec.length for count in tokens) / len(tokens)
    facts = TextFacts(tokens_p50=float(np.median(tokens)), tokens_in_vocabulary=spec.tokens, share_full=round(full, 3))
    if full <= 0.2:
        return [], facts
    cut = Fault(
        "warning",
        "cut-text",
        f"{full:.0%} of the texts fill all {spec.length} tokens and may be cut",
        file,
        column=column,
        todo=f"raise data.modalities.{name}.length",
    )
    return [cut], facts


def _sounds(spec: AudioSpec, files: list[tuple[int, Path]], file: str, column: str) -> tuple[list[Fault], SoundFacts]:
    import soundfile

    faults: list[Fault] = []
    rates: Counter[int] = Counter()
    first: dict[int, int] = {}
    seconds = []
    for row, path in files:
        try:
            info = soundfile.info(openable(path))
        except (soundfile.LibsndfileError, OSError, TypeError):
            continue  # told of as unreadable
        rates[info.samplerate] += 1
        first.setdefault(info.samplerate, row)
        seconds.append(info.frames / info.samplerate)
    if len(rates) > 1:
        common, rates_text = (
            rates.most_common(1)[0][0],
            ", ".join(f"{count} at {rate} Hz" for rate, count in rates.most_common()),
        )
        rare = min(rates, key=lambda rate: rates[rate])
        faults.append(
            Fault(
                "warning",
                "sample-rates",
                f"the sounds have several sample rates ({rates_text}); all are resampled to {spec.sample_rate} Hz",
                file,
                first[rare],
                column,
                todo=f"record at one rate: what is not {common} Hz may sound unlike it",
            )
        )
    if rates and max(rates) < spec.sample_rate:
        faults.append(
            Fault(
                "warning",
                "upsampled",
                f"no sound has the rate that is computed with, {spec.sample_rate} Hz: the highest is {max(rates)} Hz, and bands above {max(rates) / 2:g} Hz stay empty",
                file,
                column=column,
                todo=f"set sample_rate: {max(rates)}",
            )
        )
    if seconds and float(np.median(seconds)) > 2 * spec.samples / spec.sample_rate:
        faults.append(
            Fault(
                "warning",
                "cut-audio",
                f"half of the sounds are longer than {np.median(seconds):.2f} s, and {spec.samples / spec.sample_rate:.2f} s of each are heard",
                file,
                column=column,
                todo=f"raise {'length' if spec.features == 'waveform' else 'frames or hop_ms'}, or choose 'take'",
            )
        )
    lengths = {"p50": round(float(np.median(seconds)), 3), "max": round(max(seconds), 3)} if seconds else {}
    facts = SoundFacts(sample_rates={str(rate): count for rate, count in sorted(rates.items())})
    return faults, facts.model_copy(update={"seconds": lengths}) if lengths else facts


def _same_content(
    name: str,
    spec: ModalitySpec,
    one: Decoded,
    tables: dict[str, polars.DataFrame],
    contents: dict[int, list[str]],
    file: str,
    column: str,
) -> list[Fault]:
    """Notes each sample's content under its row; warns of one file's content in several splits."""
    places: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for split, rows in one.contents.items():
        numbers = tables[split][ROW].to_list()
        for index, held in enumerate(rows):
            if held and held != UNREADABLE:
                contents[numbers[index]].append(f"{name}:{held}")
                if spec.reads_file:
                    places[held].append((numbers[index], split))
    return [
        duplicate(
            sorted({split for _, split in found}),
            sorted(row for row, _ in found),
            "warning",
            file,
            f"the same {name}",
            column,
        )
        for found in places.values()
        if len({split for _, split in found}) > 1
    ]


def _same_samples(table: polars.DataFrame, data: Data, contents: dict[int, list[str]], file: str) -> list[Fault]:
    """Samples of different files and the same content in several splits; those with the same cells are told of already."""
    splits = dict(table.select(ROW, SPLIT).iter_rows())
    names = {f"{name}:" for name, spec in data.modalities.items() if spec.reads_file}
    columns = dict.fromkeys(c for name, spec in data.modalities.items() for c in columns_of(name, spec))
    cells = dict(zip(table[ROW], table.select(*columns).rows()))
    alike: dict[str, list[int]] = defaultdict(list)
    for row, parts in sorted(contents.items()):
        if any(part.startswith(tuple(names)) for part in parts):
            alike["|".join(sorted(parts))].append(row)
    return [
        duplicate(
            sorted({splits[row] for row in found}),
            found,
            "error",
            file,
            "the content of a whole sample",
        )
        for found in alike.values()
        if len({splits[row] for row in found}) > 1 and len({cells[row] for row in found}) > 1
    ]
