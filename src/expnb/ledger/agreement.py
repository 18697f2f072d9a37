"""Whether an experiment was agreed before its data, and what became easier since.

The specification that was registered before the first look holds. What is registered later is a change: where it loosens something, somebody else has to agree before exposure may rise again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from zoneinfo import ZoneInfo

from expnb.errors import ApprovalError
from expnb.ledger.approvals import ANONYMOUS, same_person
from expnb.ledger.ledger import Entry
from expnb.ledger.recorded import recorded
from expnb.spec.changes import Change, changes
from expnb.spec.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed about an experiment.

    Parameters
    ----------
    notes : tuple of str
        What stands in every output.
    missing : tuple of str
        What nobody else has agreed to yet; no exposure may rise on it.
    holds : Experiment, optional
        The specification that was agreed, or looked at first; None where there is none.
    """

    notes: tuple[str, ...]
    missing: tuple[str, ...]
    holds: Experiment | None = None


@dataclass(slots=True)
class _Walk:
    """The way through the ledger: what holds, and what was said on the way."""

    spec: Experiment | None = None
    by: Entry | None = None  # the first registration
    holds: Entry | None = None  # that of `spec`
    first_look: Entry | None = None
    loosened: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def agreement(
    experiment: Experiment,
    entries: Iterable[Entry],
    *,
    first_day: date | None,
    approvals: bool,
) -> Agreement:
    """What was agreed about an experiment before its data, and since.

    Parameters
    ----------
    experiment : Experiment
        As it is specified now.
    entries : iterable of Entry
        Of this experiment and environment, oldest first.
    first_day : date, optional
        Of the exposures; None where the data carry no dates.
    approvals : bool
        Whether the environment asks for approvals: then a late registration needs one too.
    """
    known = list(entries)
    walk = _walked(known)
    notes = [*_order(experiment, walk, first_day), *walk.loosened]
    missing = list(walk.missing)
    if walk.spec is not None and experiment.spec_hash != walk.spec.spec_hash and not missing:
        edits = list(changes(walk.spec, experiment))
        loosened = [edit for edit in edits if edit.loosens]
        since = f"it was registered on {_day(experiment, walk.holds)}" if walk.holds else "the first look"
        notes += [f"The specification changed after {since}: {_told(edits)}"] if edits else []
        if walk.first_look and loosened:
            missing.append(
                f"The specification was loosened after the first look and is not registered: {_told(loosened)} Register it with a reason, and let somebody else agree: `expnb register {experiment.name} --reason …`, `expnb approve {experiment.name} --specification`."
            )
    if approvals and _is_late(experiment, walk, first_day) and not any(entry.kind == "agreed" for entry in known):
        missing.append(
            f"The specification was {'registered after the first exposure' if walk.by else 'never registered'}; in this environment somebody else has to agree: `{'' if walk.by else f'expnb register {experiment.name}`, `'}expnb approve {experiment.name} --specification`."
        )
    return Agreement(tuple(notes), tuple(missing), walk.spec)


def to_agree(experiment: Experiment, entries: Sequence[Entry], actor: str) -> Entry:
    """The newest registration of the experiment as it is specified now, which `actor` may agree to.

    Raises
    ------
    ApprovalError
        If it is not registered as it stands, or `actor` is its author or anonymous.
    """
    newest = newest_registration(entries)
    if newest is None or newest.body["spec_hash"] != experiment.spec_hash:
        raise ApprovalError(
            f"the specification of {experiment.name!r} is not registered as it stands now; an approval answers a registration. Ask its author to write `expnb register {experiment.name}`."
        )
    if same_person(actor) in ANONYMOUS:
        raise ApprovalError("an anonymous identity cannot approve. Open the workspace under your own name.")
    if not newest.body.get("actor"):
        raise ApprovalError(
            f"who registered {experiment.name!r} is not recorded, so nobody can be known to be somebody else. Register it again: `expnb register {experiment.name}`."
        )
    if same_person(actor) == same_person(str(newest.body["actor"])):
        raise ApprovalError(f"{actor!r} registered this specification; somebody else has to approve it.")
    return newest


def newest_registration(entries: Sequence[Entry]) -> Entry | None:
    """The last registration among entries, oldest first."""
    return next((entry for entry in reversed(entries) if entry.kind == "registered"), None)


def loosened_since(experiment: Experiment, entries: Sequence[Entry]) -> list[Change]:
    """What `experiment` makes easier than the specification that holds, after the first look; empty before."""
    walk = _walked(entries)
    if walk.first_look is None or walk.spec is None:
        return []
    return [edit for edit in changes(walk.spec, experiment) if edit.loosens]


def _walked(entries: Sequence[Entry]) -> _Walk:
    walk = _Walk()
    for entry in entries:
        if entry.kind == "look" and walk.first_look is None:
            walk.first_look = entry
        if walk.spec is None and entry.kind == "decision" and "replay" in entry.body:
            walk.spec = recorded(dict[str, Experiment], {"spec": entry.body["replay"]["spec"]})["spec"]  # type: ignore[call-overload, index]  # the shape that `Workspace.decide` writes
        if entry.kind == "registered" and "spec" in entry.body:  # older ones hold its hash alone
            _registered(walk, entry, entries)
    return walk


def _registered(walk: _Walk, entry: Entry, entries: Sequence[Entry]) -> None:
    """One registration: the first holds, and those that loosen nothing; the others once somebody else agreed."""
    spec = recorded(Experiment, entry.body["spec"])
    edits = [] if walk.spec is None or walk.first_look is None else [e for e in changes(walk.spec, spec) if e.loosens]
    walk.missing.clear()
    agreed = _agreed(entries, entry)
    if walk.first_look and walk.spec is None and not agreed:
        walk.missing.append(
            f"The specification was first registered after a look, on {entry.happened_at:%Y-%m-%d}, and what was looked at is not known here. Somebody else has to agree: `expnb approve {spec.name} --specification`."
        )
        return
    if edits:
        told = f"Loosened after the first look, on {entry.happened_at:%Y-%m-%d} by {entry.body.get('actor', 'unknown')}"
        if not agreed:
            walk.missing.append(
                f"{told}: {_told(edits)} Nobody else has agreed: `expnb approve {spec.name} --specification`."
            )
            return
        reason = f" ({entry.body['reason']})" if entry.body.get("reason") else ""
        walk.loosened.append(f"{told}{reason}, agreed to by {', '.join(agreed)}: {_told(edits)}")
    walk.spec, walk.holds = spec, entry
    if walk.by is None:
        walk.by = entry


def _agreed(entries: Iterable[Entry], registration: Entry | None) -> list[str]:
    """Who agreed to a registration, each once."""
    who = [
        str(entry.body["actor"])
        for entry in entries
        if entry.kind == "agreed" and registration and entry.body["registration"] == registration.seq
    ]
    return list(dict.fromkeys(who))


def _is_late(experiment: Experiment, walk: _Walk, first_day: date | None) -> bool:
    """Whether the first registration came after the first exposure or look, or never; unknown dates are not late."""
    if walk.by is None:
        return True
    if walk.first_look and walk.first_look.seq < walk.by.seq:
        return True
    return first_day is not None and _day(experiment, walk.by) > first_day


def _order(experiment: Experiment, walk: _Walk, first_day: date | None) -> Iterator[str]:
    if walk.by is None:
        yield "The specification is not registered: nothing shows that it was agreed before the data."
        return
    agreed = _day(experiment, walk.by)
    if walk.first_look and walk.first_look.seq < walk.by.seq:
        yield f"Registered on {agreed}, after the first look."
    elif first_day is None:
        yield f"Registered on {agreed}; the data carry no dates."
    else:
        order = "before" if agreed < first_day else "after" if agreed > first_day else "on the day of"
        yield f"Registered on {agreed}, {order} the first exposure."


def _day(experiment: Experiment, entry: Entry) -> date:
    return entry.happened_at.astimezone(ZoneInfo(experiment.timezone)).date()


def _told(edits: Iterable[Change]) -> str:
    return " ".join(edit.sentence for edit in edits)
