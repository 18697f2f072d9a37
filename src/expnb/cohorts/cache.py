"""Cells of every file that was read, kept beside the workspace: a file that did not change is not read again.

The cells of one file are one parquet file, written under a temporary name and then renamed, so that two notebooks can share a folder. Its name says what it was made from; one more file
holds the cells of all files together, and is written only when the units of all of them have been checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from expnb.cohorts.cells_file import read_cells, replace_file, write_cells
from expnb.cohorts.reduce import Reduced, Sample
from expnb.cohorts.sources import Source
from expnb.errors import EmptyCohortError
from expnb.spec.canonical import digest
from expnb.spec.experiment import Experiment
from expnb.stats.cells import join

# Changes whenever cells mean something else than before.
VERSION = 5
DIGITS = 12
# Cells that are not used are left for a week to those who work with another version of the experiment.
KEEP_UNUSED_SECONDS = 7 * 86_400


@dataclass(frozen=True, slots=True)
class File:
    """One file of the source, and what identifies its content.

    Parameters
    ----------
    path : str
    place : str
        Hash of the path.
    content : str
        Hash of size, place on the disk and times of the last change; one of them can be set back, the other cannot.
    """

    path: str
    place: str
    content: str


class Cache:
    """Cells of the files of one experiment, in a folder of its own.

    Parameters
    ----------
    folder : Path
        Of all experiments.
    experiment : Experiment
    as_of : datetime or None
        Up to when the data are complete, where a metric has a window.
    exact : bool
        Whether every unit is counted; files that were checked by a sample alone are then checked again.
    """

    def __init__(self, folder: Path, experiment: Experiment, as_of: datetime | None, *, exact: bool) -> None:
        self.folder = folder / experiment.name
        self.experiment = experiment
        self.as_of = as_of
        self.exact = exact
        self.spec = _spec(experiment)

    def unchanged(self, paths: Sequence[str], source: str) -> Reduced | None:
        """Cells of all files, where all of them have been read and checked before; nothing but their dates is looked at."""
        known = _read(self._whole([_file(path) for path in paths]), self.experiment)
        if known is None:
            return None
        return replace(known[0], cells=replace(known[0].cells, source=source), note=_said(len(paths), 0, ""))

    def reduced(
        self,
        source: Source,
        one: Callable[[str], Reduced],
        check: Callable[[Reduced], None],
        left_out: Callable[[Reduced], Reduced],
    ) -> Reduced:
        """Cells of all files; those that are known and unchanged are not read.

        Parameters
        ----------
        one : callable
            Cells of one file, from its path.
        check : callable
            Refuses units that occur twice, in all files together.
        left_out : callable
            Adds what all files together leave out: days that were not agreed, units outside of the audience.

        Raises
        ------
        EmptyCohortError
            If no file holds a row.
        """
        known = self.unchanged(source.files, source.name)
        if known is not None:
            return known
        files = [_file(path) for path in source.files]
        whole = self._whole(files)
        parts: list[Reduced] = []
        fresh, why = 0, ""
        for file in files:
            found = self._known(file)
            if found is None:
                why = why or self._why(file)
                fresh += 1
                try:
                    found = one(file.path)
                except EmptyCohortError:
                    continue
                self._keep(file, found)
            parts.append(found)
        if not parts:
            raise EmptyCohortError(source.name)
        together = _together(parts, source.name)
        check(together)
        together = left_out(together)
        for old in self.folder.glob(f"all.*.{self.spec}.parquet"):
            old.unlink(missing_ok=True)
        _write(whole, replace(together, sample=None), self.as_of)
        self._drop_unused([whole, *(self._name(file) for file in files)])
        return replace(together, note=_said(len(files), fresh, why))

    def _drop_unused(self, used: Sequence[Path]) -> None:
        """Delete cells that this reading did not use and that are a week older than its own: of files that are gone, of an experiment that read other columns, and drafts that were never finished."""
        kept = {path.stem for path in used}
        limit = used[0].stat().st_mtime - KEEP_UNUSED_SECONDS
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process was faster
                if path.is_file() and path.stem not in kept and path.stat().st_mtime < limit:
                    path.unlink()

    def _whole(self, files: Sequence[File]) -> Path:
        marks = [*(file.place + file.content for file in files), self.as_of.isoformat() if self.as_of else ""]
        return self.folder / f"all.{_short('|'.join([*marks, 'exact' if self.exact else '']))}.{self.spec}.parquet"

    def _name(self, file: File) -> Path:
        return self.folder / f"{file.place}.{file.content}.{self.spec}.parquet"

    def _known(self, file: File) -> Reduced | None:
        found = _read(self._name(file), self.experiment)
        if found is None:
            return None
        reduced, until = found
        if until == self.as_of:
            return reduced
        open_windows = any(column.n_immature.any() for column in reduced.cells.metrics.values())
        later = until is not None and self.as_of is not None and until < self.as_of
        return reduced if later and not open_windows else None

    def _why(self, file: File) -> str:
        """Why a file that was read before is read again; empty for a new one."""
        names = [path.name.split(".") for path in self.folder.glob(f"{file.place}.*.parquet")]
        if self._name(file).is_file() and _read(self._name(file), self.experiment) is None:
            return f" The cells of {Path(file.path).name} could not be read back."
        if self._name(file).is_file():
            return " Windows that were open have moved on."
        if any(spec == self.spec for _, _, spec, _ in names):
            return f" {Path(file.path).name} changed since it was read."
        return (
            " The experiment reads other columns than before, or this version of expnb counts otherwise."
            if names
            else ""
        )

    def _keep(self, file: File, reduced: Reduced) -> None:
        stale = list(self.folder.glob(f"{file.place}.*.{self.spec}.parquet"))
        _write(self._name(file), reduced, self.as_of)
        for path in stale:
            if path != self._name(file):
                path.unlink(missing_ok=True)
                path.with_suffix(".units").unlink(missing_ok=True)


def _spec(experiment: Experiment) -> str:
    """Of everything that decides what a cell holds; how effects are judged does not, nor does where a cap lies."""
    judged = {
        "role": "info",
        "direction": "increase",
        "rope": None,
        "rope_abs": None,
        "margin": None,
        "margin_abs": None,
    }
    shown = {"owner": "", "version": "", "description": "", "certified": False, "unit": ""}
    metrics = [
        replace(metric, **judged, **shown, cap=None if metric.cap is None else 0.5)  # type: ignore[arg-type]  # names of its own fields
        for metric in experiment.metrics
    ]
    names = (
        "name",
        "unit",
        "variant",
        "segments",
        "trigger",
        "exposed_at",
        "start",
        "end",
        "shape",
        "experiment_column",
        "expect",
        "timezone",
    )
    return _short(
        digest(
            {"version": VERSION, "engine": version("duckdb"), "metrics": metrics}
            | {name: getattr(experiment, name) for name in names}
            | ({"audience": experiment.audience} if experiment.audience else {})
        )
    )


def _short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:DIGITS]


def _file(path: str) -> File:
    state = Path(path).stat()
    return File(
        path,
        _short(str(Path(path).resolve())),
        _short(f"{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}|{state.st_ino}"),
    )


def _together(parts: Sequence[Reduced], source: str) -> Reduced:
    cells = replace(join([part.cells for part in parts]), source=source)
    samples = [part.sample for part in parts if part.sample is not None]
    odd: dict[str, int] = {}
    for part in parts:
        for name, n in part.odd.items():
            odd[name] = odd.get(name, 0) + n
    return Reduced(
        cells,
        np.full(cells.n.size, ""),
        Sample(*(np.concatenate([getattr(sample, name) for sample in samples]) for name in Sample.__slots__))
        if samples
        else None,
        np.zeros(cells.n.size, dtype=np.int64),
        odd,
    )


def _said(files: int, fresh: int, why: str) -> str:
    """What was not read again, and why something was; nothing where all is new."""
    if fresh == files:
        return why.strip()
    if not fresh:
        return "The data did not change since they were read; the cells come from the cache."
    return f"{files - fresh:,} of {files:,} files did not change since they were read; {fresh:,} were read now.{why}"


# --- cells and what only the checks read, as parquet --------------------------------------------


def _write(path: Path, reduced: Reduced, as_of: datetime | None) -> None:
    import pyarrow as pa  # noqa: PLC0415 - only when rows are needed

    facts: dict[str, object] = {"as_of": as_of, "odd": dict(reduced.odd), "outside": reduced.outside}
    facts |= {"strangers": dict(reduced.strangers), "unchecked": reduced.unchecked}
    if reduced.sample is not None:
        arms = {arm: number for number, arm in enumerate(sorted(set(reduced.cells.variant.tolist())))}
        facts["arms"] = list(arms)
        units = {"unit": reduced.sample.unit, "arm": [arms[arm] for arm in reduced.sample.arm.tolist()]}
        replace_file(path.with_suffix(".units"), pa.table(units))
    write_cells(path, reduced.cells, facts)


def _read(path: Path, experiment: Experiment) -> tuple[Reduced, datetime | None] | None:
    """Cells as they were written, and up to when the data were complete; None where there are none that can be read."""
    import pyarrow as pa  # noqa: PLC0415 - only when rows are needed

    found = read_cells(path)
    if found is None:
        return None
    cells, facts = found
    try:
        sample = _sample(path.with_suffix(".units"), facts["arms"]) if "arms" in facts else None
    except (pa.ArrowException, OSError, LookupError, ValueError):
        return None  # torn or foreign: read the source again
    until = datetime.fromisoformat(facts["as_of"]) if facts["as_of"] else None
    size = cells.n.size
    none = np.zeros(size, dtype=np.int64)
    # Epochs decide how cells are added up, not what one holds: they are the experiment's of today.
    cells = replace(cells, epochs=tuple(epoch.start for epoch in experiment.epochs))
    told = {"strangers": facts.get("strangers", {}), "unchecked": tuple(facts.get("unchecked", ()))}
    return Reduced(cells, np.full(size, ""), sample, none, facts["odd"], outside=facts["outside"], **told), until


def _sample(path: Path, arms: Sequence[str]) -> Sample:
    import pyarrow.parquet as pq  # noqa: PLC0415 - only when rows are needed

    rows = pq.ParquetFile(path).read(use_threads=False)
    hashes = rows.column("unit").to_numpy()
    own = np.array(arms, dtype=np.str_)[rows.column("arm").to_numpy().astype(np.int64)]
    return Sample(hashes, own, np.full(hashes.size, ""))
