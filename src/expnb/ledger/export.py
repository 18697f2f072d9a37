"""The ledger as flat tables: for a file, or for a table in the user's own warehouse.

Two tables: `entries`, one row per entry, and `effects`, one row per effect of a look, which is what priors are learnt from. Rows of the ledger never change, so an export only ever adds rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from expnb.errors import LedgerError
from expnb.ledger.ledger import Entry
from expnb.ledger.recorded import recorded
from expnb.spec.canonical import Json, canonical_json
from expnb.spec.flag import Exposure

if TYPE_CHECKING:
    import pandas as pd

What = Literal["entries", "effects"]
# Column and its type, in the words of pandas.
COLUMNS: Final[Mapping[What, Mapping[str, str]]] = {
    "entries": {
        "seq": "int64",
        "kind": "str",
        "happened_at": "datetime64[us, UTC]",
        "recorded_at": "datetime64[us, UTC]",
        "experiment": "str",
        "environment": "str",
        "flag": "str",
        "actor": "str",
        "action": "str",
        "applied": "boolean",
        "verb": "str",
        "enrolled_before": "float64",
        "enrolled_after": "float64",
        "treated_after": "float64",
        "body": "str",
        "hash": "str",
    },
    "effects": {
        "seq": "int64",
        "happened_at": "datetime64[us, UTC]",
        "experiment": "str",
        "look": "Int64",
        "metric": "str",
        "kind": "str",
        "variant": "str",
        "log_ratio": "float64",
        "se": "float64",
        "randomised": "bool",
        "fingerprint": "str",
        "hash": "str",
    },
}
KEYS: Final[Mapping[What, tuple[str, ...]]] = {"entries": ("seq",), "effects": ("seq", "metric", "variant")}


def export_frame(entries: Iterable[Entry], what: What = "entries") -> pd.DataFrame:
    """Entries as a flat table; times in UTC, exposures in percent of the eligible units.

    Parameters
    ----------
    what : {"entries", "effects"}
        ``"effects"``: one row per effect of each look that holds them, old looks too; a look without any effect has one row without a metric.
    """
    import pandas as pd  # noqa: PLC0415 - 0.5 s, only for an export

    rows = _entry_rows(entries) if what == "entries" else _effect_rows(entries)
    return pd.DataFrame(rows, columns=list(COLUMNS[what])).astype(dict(COLUMNS[what]))


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or parquet, by the end of the name.

    Raises
    ------
    LedgerError
        If the name ends otherwise, or nothing can be written there.
    """
    writers = {".csv": lambda: frame.to_csv(path, index=False), ".parquet": lambda: frame.to_parquet(path, index=False)}
    if path.suffix not in writers:
        raise LedgerError(f"{path.name!r} ends in {path.suffix!r}; an export is a .csv or a .parquet. Rename it.")
    try:
        writers[path.suffix]()
    except OSError as error:
        raise LedgerError(
            f"the export cannot be written to {str(path)!r} ({error.strerror}). Check the folder and its permissions."
        ) from error


def read_effects(path: Path) -> pd.DataFrame:
    """Exported effects as `learn_prior` takes them: those of the newest look of every experiment.

    Parameters
    ----------
    path : Path
        A .csv or .parquet that `write_frame` wrote.
    """
    import pandas as pd  # noqa: PLC0415 - 0.5 s, only for an export

    if path.suffix == ".parquet":
        return newest_effects(pd.read_parquet(path))
    # As texts, and numbers by Python itself: a name such as "NA" stays a name, and a number keeps its last digit in every version of pandas.
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in ("log_ratio", "se"):
        table[name] = [float(text) if text else float("nan") for text in table[name]]
    return newest_effects(table.assign(seq=table["seq"].astype("int64"), randomised=table["randomised"] == "True"))


def newest_effects(table: pd.DataFrame) -> pd.DataFrame:
    """The effects of the newest look of every experiment, in the columns of `Workspace.past_effects`."""
    newest = table[table["seq"] == table.groupby("experiment")["seq"].transform("max")]
    columns = ["experiment", "metric", "kind", "variant", "log_ratio", "se", "randomised"]
    return newest[newest["metric"] != ""][columns].reset_index(drop=True)


def _entry_rows(entries: Iterable[Entry]) -> Iterator[dict[str, object]]:
    for entry in entries:
        body = entry.body
        before, after = _exposures(entry)
        names = ("experiment", "environment", "flag", "actor", "action")
        yield {
            "seq": entry.seq,
            "kind": entry.kind,
            "happened_at": entry.happened_at,
            "recorded_at": entry.recorded_at,
            **{name: str(body.get(name) or "") for name in names},
            "applied": body.get("applied"),
            "verb": verb(entry),
            "enrolled_before": None if before is None else before.enrolled,
            "enrolled_after": None if after is None else after.enrolled,
            "treated_after": None if after is None else after.treated,
            "body": canonical_json(body),
            "hash": entry.hash,
        }


def verb(entry: Entry) -> str:
    """What the plan or receipt of an entry does, such as ``"ramp_up"``; empty where it has neither."""
    about = _about(entry)
    return str(about.get("verb") or "")


def _about(entry: Entry) -> Mapping[str, Json]:
    """The receipt of an entry, or else its plan."""
    found = entry.body.get("receipt") or entry.body.get("plan")
    return found if isinstance(found, dict) else {}


def _exposures(entry: Entry) -> tuple[Exposure | None, Exposure | None]:
    """What the flag served before and after, as the receipt or the plan says."""
    before, after = (_exposure(_about(entry).get(name)) for name in ("before", "after"))
    return before, after


def _exposure(value: Json) -> Exposure | None:
    """An exposure, as a plan holds it, or within a state, as a receipt does."""
    found = value.get("exposure", value) if isinstance(value, dict) else None
    try:
        return None if found is None else recorded(Exposure, found)
    except ValueError:  # of a newer expnb; the body has it all
        return None


def _effect_rows(entries: Iterable[Entry]) -> Iterator[dict[str, object]]:
    for entry in entries:
        if entry.kind != "look" or "effects" not in entry.body:
            continue
        look = {
            "seq": entry.seq,
            "happened_at": entry.happened_at,
            "experiment": str(entry.body["experiment"]),
            "look": entry.body.get("look"),
            "randomised": bool(entry.body["randomised"]),
            "fingerprint": str(entry.body.get("fingerprint") or ""),
            "hash": entry.hash,
        }
        # A newest look that found no effect hides the older ones: its row says so.
        nothing: dict[str, object] = {"metric": "", "kind": "", "variant": "", "log_ratio": None, "se": None}
        for effect in cast("list[dict[str, object]]", entry.body["effects"]) or [nothing]:
            yield look | effect
