"""What is wrong with the files that a table names: every one is opened, decoded by the runtime's own code, and hashed."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge.artifact import sha256_of
from mmedge.data.decode import decode
from mmedge.data.faults import duplicate
from mmedge.data.samples import fit_vocabulary, jobs_of
from mmedge.data.source import ROW, SPLIT, columns_of
from mmedge.errors import Fault, MmedgeError
from mmedge.progress import Progress
from mmedge.recipe import Data
from mmedge.spec import AudioSpec, ModalitySpec, SensorSpec, TabularSpec, TextSpec


def media_faults(
    table: polars.DataFrame, data: Data, folder: Path, file: str, scratch: Path, progress: Progress
) -> tuple[list[Fault], dict[str, Any], dict[str, ModalitySpec]]:
    """Faults of every modality's content, facts for the data card, and the specs with their vocabularies fitted.

    ``scratch``: a private folder for decoded arrays, emptied again.
    """
    faults: list[Fault] = []
    facts: dict[str, Any] = {}
    fitted: dict[str, ModalitySpec] = {}
    contents: dict[int, list[str]] = defaultdict(list)
    train = table.filter(polars.col(SPLIT) == "train")
    for name, spec in data.modalities.items():
        try:
            fitted[name] = spec = fit_vocabulary(name, spec, train, folder)
        except MmedgeError as error:
            faults.append(Fault.of(error, "vocabulary", column=columns_of(name, spec)[0]))
            continue
        column = columns_of(name, spec)[0]
        jobs = jobs_of(name, spec, table)
        if spec.reads_file:
            jobs = [(index, cells) for index, cells in jobs if (folder / cells[0]).is_file()]  # others are told of
        rows = table[ROW].to_list()
        with tempfile.TemporaryDirectory(dir=scratch) as kept:
            target = Path(kept) / "decoded.npy"
            bad = decode(spec, name, jobs, table.height, folder, target, workers=data.workers, progress=progress)
            if not isinstance(spec, TabularSpec):  # the table's own cells are looked at as columns
                faults += [
                    Fault(
                        "error",
                        "unreadable",
                        f"{what}: {table[column][index]}",
                        file,
                        rows[index],
                        column,
                        todo="mend the file, or empty its cell: the modality is then missing for that sample",
                    )
                    for index, what in bad
                ]
            failed = {index for index, _ in bad}
            good = [index for index, _ in jobs if index not in failed]
            values = np.load(target, mmap_mode="r")
            faults += _constant(name, spec, values, good, rows, file, column)
            if isinstance(spec, TextSpec) and good:
                used = [int((values[index] != spec.pad).sum()) for index in good]
                full = sum(count == spec.length for count in used) / len(used)
                facts[name] = {
                    "tokens_p50": float(np.median(used)),
                    "tokens_in_vocabulary": spec.tokens,
                    "share_full": round(full, 3),
                }
                if full > 0.2:
                    faults.append(
                        Fault(
                            "warning",
                            "cut-text",
                            f"{full:.0%} of the texts fill all {spec.length} tokens and may be cut",
                            file,
                            column=column,
                            todo=f"raise data.modalities.{name}.length",
                        )
                    )
        if isinstance(spec, AudioSpec):
            found, facts[name] = _sounds(
                spec, [(rows[index], Path(folder / cells[0])) for index, cells in jobs], file, column
            )
            faults += found
        faults += _same_content(name, spec, jobs, folder, table, contents, file, column)
    faults += _same_samples(table, data, contents, file)
    return faults, facts, fitted


def _constant(
    name: str, spec: ModalitySpec, values: np.ndarray, good: list[int], rows: list[int], file: str, column: str
) -> list[Fault]:
    if isinstance(spec, (TextSpec, TabularSpec)) or not good:
        return []
    blank = [rows[index] for index in good if np.ptp(values[index]) == 0]
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
    if isinstance(spec, SensorSpec) and len(blank) < len(good):
        low = np.min([values[index].min(axis=1) for index in good], axis=0)
        high = np.max([values[index].max(axis=1) for index in good], axis=0)
        faults += [
            Fault(
                "warning",
                "constant",
                f"channel {channel} of {name} is constant in every file: it tells nothing",
                file,
                column=column,
                todo="leave the channel out",
            )
            for channel in np.flatnonzero(low == high)
        ]
    return faults


def _sounds(
    spec: AudioSpec, files: list[tuple[int, Path]], file: str, column: str
) -> tuple[list[Fault], dict[str, Any]]:
    import soundfile

    faults: list[Fault] = []
    rates: Counter[int] = Counter()
    first: dict[int, int] = {}
    seconds = []
    for row, path in files:
        try:
            info = soundfile.info(str(path))
        except (soundfile.LibsndfileError, OSError, TypeError):
            continue  # told of as unreadable
        rates[info.samplerate] += 1
        first.setdefault(info.samplerate, row)
        seconds.append(info.frames / info.samplerate)
    if len(rates) > 1:
        common, said = (
            rates.most_common(1)[0][0],
            ", ".join(f"{count} at {rate} Hz" for rate, count in rates.most_common()),
        )
        rare = min(rates, key=lambda rate: rates[rate])
        faults.append(
            Fault(
                "warning",
                "sample-rates",
                f"the sounds have several sample rates ({said}); all are resampled to {spec.sample_rate} Hz",
                file,
                first[rare],
                column,
                todo=f"record at one rate: what is not {common} Hz may sound unlike it",
            )
        )
    card: dict[str, Any] = {"sample_rates": {str(rate): count for rate, count in sorted(rates.items())}}
    if seconds:
        card["seconds"] = {"p50": round(float(np.median(seconds)), 3), "max": round(max(seconds), 3)}
        if float(np.median(seconds)) > 2 * spec.samples / spec.sample_rate:
            faults.append(
                Fault(
                    "warning",
                    "cut-audio",
                    f"half of the sounds are longer than {np.median(seconds):.2f} s, and {spec.samples / spec.sample_rate:.2f} s of each are heard",
                    file,
                    column=column,
                    todo="raise frames or hop_ms, or choose 'take'",
                )
            )
    return faults, card


def _same_content(
    name: str,
    spec: ModalitySpec,
    jobs: list[Any],
    folder: Path,
    table: polars.DataFrame,
    contents: dict[int, list[str]],
    file: str,
    column: str,
) -> list[Fault]:
    """Notes each sample's content under its index; warns of one file's content in several splits."""
    rows, splits = table[ROW].to_list(), table[SPLIT].to_list()
    places: dict[str, list[int]] = defaultdict(list)
    for index, cells in jobs:
        if spec.reads_file:
            try:
                digest = sha256_of(folder / cells[0]) + repr(cells[1:])
            except OSError:
                continue
            places[digest].append(index)
        else:
            digest = repr(cells)
        contents[index].append(f"{name}:{digest}")
    return [
        duplicate(
            sorted({splits[index] for index in found}),
            [rows[index] for index in found],
            "warning",
            file,
            f"the same {name}",
            column,
        )
        for found in places.values()
        if len({splits[index] for index in found}) > 1
    ]


def _same_samples(table: polars.DataFrame, data: Data, contents: dict[int, list[str]], file: str) -> list[Fault]:
    """Samples of different files and the same content in several splits; those with the same cells are told of already."""
    rows, splits = table[ROW].to_list(), table[SPLIT].to_list()
    names = {f"{name}:" for name, spec in data.modalities.items() if spec.reads_file}
    columns = dict.fromkeys(c for name, spec in data.modalities.items() for c in columns_of(name, spec))
    cells = table.select(*columns).rows()
    alike: dict[str, list[int]] = defaultdict(list)
    for index, parts in contents.items():
        if any(part.startswith(tuple(names)) for part in parts):
            alike["|".join(sorted(parts))].append(index)
    return [
        duplicate(
            sorted({splits[index] for index in found}),
            [rows[index] for index in found],
            "error",
            file,
            "the content of a whole sample",
        )
        for found in alike.values()
        if len({splits[index] for index in found}) > 1 and len({cells[index] for index in found}) > 1
    ]
