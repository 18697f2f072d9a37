"""Kill with nothing but a flag backend: for the hour in which ledger, server and half of the workspace are down."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from expnb.errors import FlagError, NameNotFoundError, SpecError
from expnb.flags.address import connect
from expnb.flags.base import Receipt
from expnb.ledger.approvals import check_role
from expnb.ledger.recorder import keep_for_later
from expnb.spec.flag import FlagRef
from expnb.spec.read import read_toml

CONFIG = "expnb.toml"
SPOOL = Path(".expnb", "unrecorded.jsonl")  # below the root of a workspace


def flag_name(root: Path, name: str) -> str:
    """The flag of an experiment, read from its file alone: nothing else of the workspace has to be in order.

    Raises
    ------
    NameNotFoundError, SpecError
    """
    known = sorted(path.stem for path in (root / "experiments").glob("*.toml"))
    if name not in known:
        raise NameNotFoundError("experiment", name, known)
    table = read_toml(root / "experiments" / f"{name}.toml", "experiment file").get("experiment")
    if not isinstance(table, Mapping) or "flag" not in table:
        raise SpecError(f"experiments/{name}.toml names no flag under [experiment]; add `flag = …`.")
    return str(table["flag"])


def break_glass(
    root: Path,
    name: str,
    *,
    environment: str,
    actor: str,
    now: datetime,
    flag: str = "",
    token: str = "",
    reason: str = "",
) -> Receipt:
    """A flag killed with an own credential, past ledger and server; what was done waits in a file until the ledger can take it.

    Parameters
    ----------
    root : Path
        Folder of `expnb.toml`; of it only the flags' address and the roles of the environment are read.
    name : str
        Of the experiment.
    flag : str
        Name of the flag, where the experiment's file cannot be read.
    token : str
        Name of the operator's own credential; that of the environment when left out.

    Raises
    ------
    ApprovalError
        If the actor has no role that may kill.
    FlagError
        If the flags' address cannot be read, or the backend not be reached.
    """
    table = _table(root, environment)
    check_role("kill", actor, _roles(table), environment)
    ref = FlagRef(flag or flag_name(root, name), environment)
    backend = connect(
        str(table["flags"]), root=root, environment=environment, token=token or str(table.get("token", ""))
    )
    receipt = backend.kill(ref, now=now)
    facts = {"experiment": name, "flag": ref.flag, "environment": environment, "actor": actor, "receipt": receipt}
    facts |= {"break_glass": True} | ({"reason": reason} if reason.strip() else {})
    try:
        keep_for_later(root / SPOOL, facts, now)
    except OSError as error:
        note = f"{receipt.note} It could not be kept for the ledger ({error.strerror}): tell whoever runs it."
        return replace(receipt, note=note.strip())
    return receipt


def _roles(table: Mapping[str, Any]) -> dict[str, list[str]]:
    """Roles as far as they can be read: a mistake in them must not stand before a kill."""
    roles = table.get("roles", {})
    read = roles.items() if isinstance(roles, Mapping) else ()
    people = {role: [names] if isinstance(names, str) else names for role, names in read}
    return {role: [str(one) for one in names] for role, names in people.items() if isinstance(names, list)}


def _table(root: Path, environment: str) -> Mapping[str, Any]:
    try:
        raw = tomllib.loads((root / CONFIG).read_text(encoding="utf-8"))
        table = raw["environments"][environment]
        if isinstance(table["flags"], str):
            return dict(table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlagError(
            f'{root / CONFIG} does not say where the flags of {environment!r} are ({type(error).__name__}: {error}). Nothing was changed. Name the environment, or switch the flag off in its own place: a flagd file takes "state": "DISABLED".'
        ) from error
    raise FlagError(f"`flags` of environment {environment!r} in {root / CONFIG} is no text. Nothing was changed.")
