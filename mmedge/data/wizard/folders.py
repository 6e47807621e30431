"""A folder of class folders as a table: a row a file, its label the name of its folder."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmedge.artifact import replacing
from mmedge.data.manifest.splits import SPELLINGS
from mmedge.data.wizard.glimpse import kind_of
from mmedge.errors import UsageError


def write_table_of(folder: Path, table: Path) -> int:
    """Write ``table``, a CSV of the folder's files with their labels, and splits where they are folders; returns its rows.

    Folders are ``LABEL/…/file``, or ``SPLIT/LABEL/…/file`` where the outermost are called train, test and the like.
    Raises UsageError where there are no two labels.
    """
    outer = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    with_splits = len(outer) > 1 and all(name.lower() in SPELLINGS for name in outer)
    found = [(file, *parts) for file, parts in _files(folder) if len(parts) > with_splits]
    kinds = Counter(kind for file, *_ in found if (kind := kind_of(file)))
    kind = kinds.most_common(1)[0][0] if kinds else None
    rows = [row for row in found if kind_of(row[0]) == kind]
    labels = {parts[with_splits] for _, *parts in rows}
    if kind is None or len(labels) < 2:
        raise UsageError(
            f"the folder holds no class folders: {len(labels) if kind else 0} with files that a model could take",
            where=str(folder),
            todo="give each class a folder of its pictures, sounds, videos, clouds or arrays, or name a table",
        )
    with replacing(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        write = csv.writer(stream, lineterminator="\n")
        write.writerow([kind, "label", *(["split"] if with_splits else [])])
        for file, *parts in rows:
            path = Path(os.path.relpath(file, table.resolve().parent)).as_posix()
            write.writerow([path, parts[with_splits], *(parts[:1] if with_splits else [])])
    return len(rows)


def _files(folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(path, the folders below ``folder`` that it lies in), in order; hidden ones are left out."""
    for place, inner, files in os.walk(folder.resolve()):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        parts = Path(place).relative_to(folder.resolve()).parts
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.join(place, name), parts
