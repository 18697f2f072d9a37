"""Cells of a look, kept beside the workspace: from them its decision can be recomputed when the source has moved on.

Small cells are among them, so the folder stays on the machine, as the cache does.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from expnb.cohorts.cells_file import read_cells, write_cells
from expnb.spec.canonical import to_json
from expnb.stats.cells import Cells

DIGITS = 12


def look_name(cells: Cells) -> str:
    """Name of the file of a look, which says what is in it: the fingerprint of the sums, and a hash of the checks, caps and epochs that a decision reads besides."""
    caps = {name: column.cap for name, column in cells.metrics.items()}
    besides = json.dumps(to_json([cells.checks, caps, list(cells.epochs)]), sort_keys=True)
    return f"{cells.fingerprint}.{sha256(besides.encode()).hexdigest()[:DIGITS]}.parquet"


def keep_look(folder: Path, cells: Cells) -> str:
    """The name under which cells are kept in a folder; they are written unless they are there."""
    name = look_name(cells)
    if not (folder / name).is_file():
        write_cells(folder / name, cells, {})
    return name


def read_look(folder: Path, name: str) -> Cells | None:
    """Cells that were kept under a name; None where they are not there, or not what the name says."""
    found = read_cells(folder / name)
    return found[0] if found and look_name(found[0]) == name else None
