"""Cells of a look: what is written is what is read back, and nothing else passes for it."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

import expnb as xb
from expnb.cohorts.cells_file import read_cells, write_cells
from expnb.cohorts.looks import keep_look, look_name, read_look
from expnb.stats.cells import Cells


def bits(value):
    """Everything in a value, with the bits of every number."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype.kind), value.tobytes() if value.dtype.kind != "U" else value.tolist())
    if is_dataclass(value):
        return {entry.name: bits(getattr(value, entry.name)) for entry in fields(value)}
    if hasattr(value, "items"):
        return {name: bits(part) for name, part in value.items()}
    return value


@pytest.fixture
def cells(shop):
    """Cells with segments, days, a cap, a covariate, a histogram and checks."""
    for number in (1, 2):
        shop.day(number)
    cells = shop.ws.load("checkout").cells
    assert cells.checks
    assert cells.metrics["spend"].cap is not None
    merged = {
        name: column if column.bins is None else replace(column, bins=column.bins.merged())
        for name, column in cells.metrics.items()
    }
    return replace(cells, metrics=merged)


def test_cells_keep_every_bit_in_a_file(cells, tmp_path):
    write_cells(tmp_path / "cells.parquet", cells, {"more": [1, None]})
    again, facts = read_cells(tmp_path / "cells.parquet")
    assert facts == {"more": [1, None]}
    assert again.fingerprint == cells.fingerprint
    assert bits(again) == bits(cells)


def test_a_posterior_of_kept_cells_is_the_same(shop, cells, tmp_path):
    experiment = shop.ws.experiment("checkout")
    name = keep_look(tmp_path, cells)
    first, again = (xb.fit(experiment, one) for one in (cells, read_look(tmp_path, name)))
    assert first.summary().equals(again.summary())
    assert first == replace(first, cells=None)
    assert "cells" not in repr(first)


def test_the_name_of_a_look_tells_sums_checks_and_caps_apart(cells):
    shifted = replace(cells.metrics["bought"], s1=cells.metrics["bought"].s1 + 1)
    others = [
        replace(cells, metrics={**cells.metrics, "bought": shifted}),
        replace(cells, checks=()),
        cells.capped("spend", 0.5),
    ]
    assert len({look_name(one) for one in (cells, *others)}) == 4
    assert look_name(cells).startswith(cells.fingerprint)


@pytest.mark.parametrize("spoil", ["torn", "foreign", "swapped", "gone"])
def test_a_file_that_is_not_what_its_name_says_is_no_look(cells, tmp_path, spoil):
    name = keep_look(tmp_path, cells)
    path = tmp_path / name
    if spoil == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif spoil == "foreign":
        path.write_text("not ours")
    elif spoil == "swapped":
        write_cells(path, replace(cells, n=cells.n + 1), {})
    else:
        path.unlink()
    assert read_look(tmp_path, name) is None


def test_no_draft_is_left_and_a_look_is_written_once(cells, tmp_path):
    path = tmp_path / keep_look(tmp_path, cells)
    before = path.stat().st_mtime_ns
    keep_look(tmp_path, cells)
    assert [path] == list(tmp_path.glob("*.parquet")) + list(tmp_path.glob(".*.parquet*"))
    assert path.stat().st_mtime_ns == before


def test_cells_are_still_a_value_that_adds_up_after_a_file(cells, tmp_path):
    write_cells(tmp_path / "cells.parquet", cells, {})
    again, _ = read_cells(tmp_path / "cells.parquet")
    assert isinstance(again, Cells)
    assert (again + again).units == 2 * cells.units
