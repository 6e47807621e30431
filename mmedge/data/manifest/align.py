"""Streams with timestamps of their own, joined to the manifest's rows, and what that did to the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars

from mmedge.errors import MmedgeError, did_you_mean
from mmedge.recipe import TimedTable
from mmedge.report.arranged import AlignmentRecord

_LEFT, _TIME, _STREAM_TIME = "__left", "__time", "__stream_time"


def join(
    table: polars.DataFrame, name: str, stream: TimedTable, files: set[str], read: Callable[[Path], polars.DataFrame]
) -> tuple[polars.DataFrame, AlignmentRecord]:
    """The manifest's table with the stream's columns, as strings.

    ``files``: columns of paths, relative to the stream's file. ``read`` gives the stream's table of strings. Raises
    MmedgeError for columns or times that are not there.
    """
    other = read(stream.file)
    kept = _columns_that_join(table, other, name, stream)
    folder = str(stream.file.resolve().parent)
    absolute = [
        polars.when(polars.col(c).str.starts_with("/"))
        .then(polars.col(c))
        .otherwise(folder + "/" + polars.col(c))
        .alias(c)
        for c in kept
        if c in files
    ]
    by = [stream.by] if stream.by else []
    left = table.select(*by, seconds(table, stream.on, "the manifest").alias(_TIME))
    left = left.with_row_index(_LEFT).drop_nulls().sort(_TIME)
    times = seconds(other, stream.time, str(stream.file))
    right = other.with_columns(absolute).select(*by, *kept).with_columns(times.alias(_STREAM_TIME))
    right = right.with_row_index("__right").drop_nulls([_STREAM_TIME, *by]).sort(_STREAM_TIME)
    joined = _joined(left, right, kept, stream, name)
    out = table.with_row_index(_LEFT).join(joined.select(_LEFT, *kept), on=_LEFT, how="left", maintain_order="left")
    apart = joined["__apart"].drop_nulls()
    used = joined["__used"].explode(empty_as_null=False).drop_nulls().n_unique() if joined.height else 0
    return out.drop(_LEFT), AlignmentRecord(
        stream=name,
        method=stream.method,
        rows=table.height,
        aligned=len(apart),
        dropped=table.height - len(apart),
        stream_rows=other.height,
        stream_rows_unused=other.height - used,
        seconds_apart=_quantiles(apart),
    )


def _columns_that_join(
    table: polars.DataFrame, other: polars.DataFrame, name: str, stream: TimedTable
) -> tuple[str, ...]:
    """The stream's columns that join; raises MmedgeError where one that the recipe names is not there, or is in both."""
    for column, where, known in (
        (stream.on, "the manifest", table),
        (stream.time, str(stream.file), other),
        *([(stream.by, "the manifest", table), (stream.by, str(stream.file), other)] if stream.by else []),
        *((column, str(stream.file), other) for column in stream.columns),
    ):
        if column not in known.columns:
            raise MmedgeError(
                f"no column {column!r}{did_you_mean(str(column), known.columns)}; there are {', '.join(known.columns)}",
                where=f"{where}, named by data.align.{name}",
            )
    kept = stream.columns or tuple(c for c in other.columns if c not in (stream.time, stream.by))
    clash = [column for column in kept if column in table.columns]
    if clash:
        raise MmedgeError(
            f"both the manifest and the stream have a column {clash[0]!r}",
            where=f"data.align.{name}",
            todo="name the columns to join in data.align.*.columns",
        )
    return kept


def _quantiles(apart: polars.Series) -> dict[str, float]:
    if not len(apart):
        return {}
    found = {"p50": apart.quantile(0.5, "linear"), "p95": apart.quantile(0.95, "linear"), "max": apart.max()}
    return {key: round(float(value), 6) for key, value in found.items()}  # type: ignore[arg-type]


def _joined(
    left: polars.DataFrame, right: polars.DataFrame, kept: tuple[str, ...], stream: TimedTable, name: str
) -> polars.DataFrame:
    """``__left``, the stream's columns (strings), ``__apart`` (seconds, null where nothing was near), ``__used`` (lists)."""
    col = polars.col

    def asof(strategy: str) -> polars.DataFrame:
        return left.join_asof(
            right,
            left_on=_TIME,
            right_on=_STREAM_TIME,
            by=stream.by,
            strategy=strategy,  # type: ignore[arg-type]
            tolerance=stream.tolerance,
            coalesce=False,
            check_sortedness=False,
        )

    if stream.method in ("nearest", "previous"):
        found = asof("nearest" if stream.method == "nearest" else "backward")
        return found.with_columns(
            (col(_TIME) - col(_STREAM_TIME)).abs().alias("__apart"), polars.concat_list("__right").alias("__used")
        )
    right = right.with_columns(_number(right, column, name) for column in kept)
    if stream.method == "linear":
        before, after = (
            asof("backward"),
            asof("forward").rename({c: f"{c}__after" for c in (*kept, _STREAM_TIME, "__right")}),
        )
        both = before.join(after.select(_LEFT, *(f"{c}__after" for c in (*kept, _STREAM_TIME, "__right"))), on=_LEFT)
        span = col(f"{_STREAM_TIME}__after") - col(_STREAM_TIME)
        share = polars.when(span > 0).then((col(_TIME) - col(_STREAM_TIME)) / span).otherwise(0.0)
        apart = polars.min_horizontal(col(_TIME) - col(_STREAM_TIME), col(f"{_STREAM_TIME}__after") - col(_TIME))
        inside = span.is_not_null()
        return both.select(
            _LEFT,
            *((col(c) + share * (col(f"{c}__after") - col(c))).cast(polars.String).alias(c) for c in kept),
            polars.when(inside).then(apart).alias("__apart"),
            polars.when(inside).then(polars.concat_list("__right", "__right__after")).alias("__used"),
        )
    low, high = col(_TIME) - stream.tolerance, col(_TIME) + stream.tolerance
    bounded = left.with_columns(low.alias("__low"), high.alias("__high"))
    conditions = [col("__low") <= col(_STREAM_TIME), col("__high") >= col(_STREAM_TIME)]
    if stream.by:
        right = right.rename({stream.by: "__by"})
        conditions.append(col(stream.by) == col("__by"))
    return (
        bounded.join_where(right, *conditions)
        .group_by(_LEFT)
        .agg(
            *(col(c).mean().cast(polars.String) for c in kept),
            (col(_TIME) - col(_STREAM_TIME)).abs().min().alias("__apart"),
            col("__right").alias("__used"),
        )
    )


def seconds(table: polars.DataFrame, column: str, where: str) -> polars.Series:
    """A column of numbers or of ISO 8601 times as seconds."""
    cells = table[column].str.strip_chars()
    for parsed in (
        lambda: cells.cast(polars.Float64, strict=False),
        lambda: cells.str.to_datetime(strict=False, time_unit="us", time_zone="UTC").dt.epoch("us") / 1e6,
        lambda: cells.str.to_datetime(strict=False, time_unit="us").dt.epoch("us") / 1e6,
    ):
        try:
            seconds = parsed()
        except polars.exceptions.PolarsError:
            continue
        if seconds.null_count() == cells.null_count() and seconds.is_finite().fill_null(True).all():
            return seconds
    numeric = cells.cast(polars.Float64, strict=False)
    wrong = int((numeric.is_null() & cells.is_not_null()).arg_max() or 0)
    raise MmedgeError(
        f"the time {cells[wrong]!r} is neither a number of seconds nor an ISO 8601 time",
        where=f"{where}, row {wrong + 1}, column {column}",
    )


def _number(table: polars.DataFrame, column: str, name: str) -> polars.Series:
    numbers = table[column].cast(polars.Float64, strict=False)
    if numbers.null_count() > table[column].null_count():
        wrong = int((numbers.is_null() & table[column].is_not_null()).arg_max() or 0)
        raise MmedgeError(
            f"the cell {table[column][wrong]!r} of column {column} is no number",
            where=f"data.align.{name}",
            todo="linear and window join numbers; use nearest or previous",
        )
    return numbers
