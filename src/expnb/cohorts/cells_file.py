"""Cells as one parquet file that says all of itself: what is read back has the same bits in every sum.

Arrays of one entry per cell are columns, histograms are columns of lists, and the rest (names, quantiles, caps, checks) is JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from expnb.spec.canonical import to_json
from expnb.stats.bins import Bins
from expnb.stats.cells import Cells, Logs, MetricCells
from expnb.stats.checks import Check
from expnb.stats.joint import Joint

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[tuple[int], np.dtype[np.generic]]
_BINS = ("bin", "n", "s1", "s2")


def write_cells(path: Path, cells: Cells, facts: Mapping[str, object]) -> None:
    """Write cells, with facts of the writer's own beside them.

    Parameters
    ----------
    facts : mapping
        What has a JSON form.
    """
    import pyarrow as pa  # noqa: PLC0415 - only when cells are kept

    columns: dict[str, object] = {
        "variant": cells.variant,
        "day": pa.array(cells.day.astype("datetime64[D]")),
        "n": cells.n,
    }
    columns |= {f"segment_{number}": values for number, values in enumerate(cells.segments.values())}
    columns |= {f"broken_{number}": values for number, values in enumerate(cells.broken.values())}
    told = []
    for number, (name, column) in enumerate(cells.metrics.items()):
        parts = {part: inner for part in ("logs", "denominator", "covariate") if (inner := getattr(column, part))}
        columns |= {f"m{number}_{name}": values for name, values in _arrays(column).items()}
        for part, inner in parts.items():
            columns |= {f"m{number}_{part}_{name}": values for name, values in _arrays(inner).items()}
        if column.bins is not None:
            columns |= _lists(f"m{number}_bins", column.bins, cells.n.size)
        has = [*parts, *(["bins"] if column.bins is not None else [])]
        told.append({"name": name, "q": column.q, "cap": column.cap, "has": has})
    said = {
        "segments": list(cells.segments),
        "broken": list(cells.broken),
        "metrics": told,
        "checks": cells.checks,
        "source": cells.source,
        "epochs": list(cells.epochs),
        "facts": facts,
    }
    replace_file(path, pa.table(columns).replace_schema_metadata({"expnb": json.dumps(to_json(said))}))


def replace_file(path: Path, table: pa.Table) -> None:
    """Write under a name of our own, then rename: a reader sees the old file or the new one, never half of one."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - only when cells are kept

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    pq.write_table(table, draft, compression="zstd")
    draft.replace(path)


def read_cells(path: Path) -> tuple[Cells, dict[str, Any]] | None:
    """Cells as they were written, and the facts beside them; None where there are none that can be read."""
    import pyarrow as pa  # noqa: PLC0415 - only when cells were kept
    import pyarrow.parquet as pq  # noqa: PLC0415

    if not path.is_file():
        return None
    try:
        rows = pq.ParquetFile(path).read(use_threads=False)
        said = json.loads(rows.schema.metadata[b"expnb"])
        return _parsed(rows, said), said["facts"]
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError, AttributeError):
        return None  # torn or foreign


def _parsed(rows: pa.Table, said: Mapping[str, Any]) -> Cells:
    import pyarrow as pa  # noqa: PLC0415 - only when cells were kept

    columns = {name: rows.column(name).combine_chunks() for name in rows.column_names}
    arrays = {
        name: np.asarray(values.to_numpy(zero_copy_only=False))
        for name, values in columns.items()
        if not pa.types.is_list(values.type)
    }
    return Cells(
        variant=arrays["variant"].astype(np.str_),
        segments={name: arrays[f"segment_{number}"].astype(np.str_) for number, name in enumerate(said["segments"])},
        day=arrays["day"].astype("datetime64[D]"),
        n=arrays["n"],
        metrics={told["name"]: _metric(number, told, arrays, columns) for number, told in enumerate(said["metrics"])},
        checks=tuple(Check(**check) for check in said["checks"]),
        source=said["source"],
        broken={name: arrays[f"broken_{number}"] for number, name in enumerate(said["broken"])},
        epochs=tuple(date.fromisoformat(day) for day in said["epochs"]),
    )


def _metric(
    number: int, told: Mapping[str, Any], arrays: Mapping[str, Array], columns: Mapping[str, pa.Array]
) -> MetricCells:
    def named(part: str, names: Sequence[str]) -> dict[str, Array]:
        return {name: arrays[f"m{number}_{part}{name}"] for name in names}

    def joint(part: str) -> Joint | None:
        parts = ("shift", "n_missing", "s1", "s2", "cross", "own")
        return Joint(**named(f"{part}_", parts)) if part in told["has"] else None  # type: ignore[arg-type]  # names of its own fields

    plain = [entry.name for entry in fields(MetricCells) if f"m{number}_{entry.name}" in arrays]
    cells = MetricCells(q=told["q"], cap=told["cap"], **named("", plain))  # type: ignore[arg-type]  # names of its own fields
    logs = Logs(**named("logs_", ("n", "s1", "s2"))) if "logs" in told["has"] else None  # type: ignore[arg-type]  # names of its own fields
    bins = None
    if "bins" in told["has"]:
        lists = [columns[f"m{number}_bins_{name}"] for name in _BINS]
        lengths = np.diff(lists[0].offsets.to_numpy())
        own = (part.flatten().to_numpy(zero_copy_only=False) for part in lists)
        bins = Bins(np.repeat(np.arange(lengths.size), lengths), *own)
    return replace(cells, logs=logs, bins=bins, denominator=joint("denominator"), covariate=joint("covariate"))


def _lists(name: str, bins: Bins, size: int) -> dict[str, pa.Array]:
    """A histogram as one list per cell."""
    import pyarrow as pa  # noqa: PLC0415 - only when cells are kept

    bins = bins.merged()
    starts = np.searchsorted(bins.cell, np.arange(size + 1)).astype(np.int32)
    return {f"{name}_{part}": pa.ListArray.from_arrays(starts, pa.array(getattr(bins, part))) for part in _BINS}


def _arrays(part: object) -> dict[str, Array]:
    return {
        entry.name: value
        for entry in fields(part)  # type: ignore[arg-type]  # a dataclass
        if isinstance(value := getattr(part, entry.name), np.ndarray)
    }
