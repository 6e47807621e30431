"""What ``check`` says of a changed recipe or table."""

from mmedge.pipeline.check import check
from mmedge.progress import Silent
from tests.data.made import COLUMNS, parsed, recipe_values, write_table


def look(manifest, rows=None, *, media=True, header=COLUMNS, model=None, **data):
    if rows is not None:
        write_table(manifest, [header, *rows])
    values = recipe_values(manifest, **data)
    values.update(model or {})
    return check(parsed(values), manifest.parent / "out", code=manifest.parent, progress=Silent(), media=media).record()


def of(card, kind):
    return [fault for fault in card["faults"] if fault["kind"] == kind]
