"""How far the last check of a ledger came, as this machine remembers it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from expnb.ledger.store import START
from expnb.spec.canonical import canonical_json


def read_checkpoint(path: Path, ledger: str) -> tuple[int, str]:
    """Number and hash of the last entry that was checked; those before the first entry where nothing is known of this ledger."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["ledger"] == ledger:
            return int(kept["entries"]), str(kept["head"])
    except (OSError, ValueError, KeyError, TypeError):  # then everything is checked
        pass
    return 0, START


def write_checkpoint(path: Path, ledger: str, entries: int, head: str) -> None:
    """Remember how far a check came; where nothing can be written, the next check is a longer one."""
    written = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(canonical_json({"ledger": ledger, "entries": entries, "head": head}), encoding="utf-8")
        written.replace(path)
