"""What happened when a treatment was taken back: told from the ledger alone, also when source and files are gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from expnb.decisions.decision import Decision
from expnb.errors import ReplayError
from expnb.flags.base import Receipt
from expnb.history.page import Page, Section, filled
from expnb.history.records import Past, as_workspace, own_entries, past_decisions
from expnb.history.timeline import Event, receipts, timeline
from expnb.ledger.ledger import Entry
from expnb.spec.flag import FlagState
from expnb.workspace import Workspace

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Incident(Page):
    """One time that a treatment was taken back, or should have been.

    Parameters
    ----------
    experiment, environment : str
    first_served_at, at_rung_since, decided_at, closed_at : datetime or None
        When the treatment is first known to have been served, since when it was at the share at which harm was decided, when harm was decided, and when it was
        no longer served; None where that did not happen, UTC.
    measured : mapping of str to int
        Units in the harmed arms in the data of the last decision before that; 0 where they are fewer than may be shown. Of all treatments, where no harm was decided.
    estimated : mapping of str to float
        Units that came in after those data until it closed, at the pace of the data.
    basis : str
        What the estimate rests on.
    said : tuple of str
        What the metrics said.
    did : mapping of str to tuple of str
        Who did what.
    events : tuple of Event
        From the registration on, and from the end of the incident before.
    """

    experiment: str
    environment: str
    first_served_at: datetime | None = None
    at_rung_since: datetime | None = None
    decided_at: datetime | None = None
    closed_at: datetime | None = None
    measured: Mapping[str, int] = field(default_factory=dict)
    estimated: Mapping[str, float] = field(default_factory=dict)
    basis: str = ""
    said: tuple[str, ...] = ()
    did: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    @property
    def began_at(self) -> datetime | None:
        """When harm was decided, or a person closed the gate without that; None where nothing happened."""
        return self.decided_at or self.closed_at

    @property
    def title(self) -> str:
        """What happened in one line."""
        where = f"{self.experiment} in {self.environment}"
        if self.began_at is None:
            return f"{where}: no incident. The ledger holds no harm that was decided, no roll back and no kill of a flag that served a treatment."
        if self.closed_at is None:
            return f"{where}: harm was decided on {self.began_at:%Y-%m-%d %H:%M} UTC, and the treatment is still served"
        return f"{where}: treatment taken back on {self.closed_at:%Y-%m-%d %H:%M} UTC"

    def write(self, decisions: Path) -> Path:
        """The page `NAME/DATE.incident.md` in the folder of decisions, dated by the day on which the incident began; the same incident has the same page.

        Raises
        ------
        ReplayError
            If there is no incident to write down.
        """
        if self.began_at is None:
            raise ReplayError(f"{self.title} There is nothing to write down.")
        page = decisions / self.experiment / f"{self.began_at:%Y-%m-%d}.incident.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(self.markdown(), encoding="utf-8")
        return page

    def sections(self) -> tuple[Section, ...]:
        """What happened, under headings."""
        who = [f"{name}: {', '.join(acts)}." for name, acts in self.did.items()]
        return filled(
            [
                ("When", tuple(self._when())),
                ("Users", tuple(self._users())),
                ("What the metrics said", self.said),
                ("Who did what", who),
                ("Timeline", tuple(map(str, self.events))),
            ]
        )

    def _when(self) -> Iterator[str]:
        if self.began_at is None:
            return
        if self.first_served_at:
            yield f"First known to be served: {_moment(self.first_served_at)}."
        if self.decided_at is None:
            yield "Harm was not decided by the policy: a person closed the gate."
        else:
            served = _after(self.first_served_at, self.decided_at, "the treatment was first served")
            rung = _after(self.at_rung_since, self.decided_at, "the flag reached this share")
            yield f"Harm decided: {_moment(self.decided_at)}{''.join(f', {part}' for part in (served, rung) if part)}."
        if self.closed_at is None:
            yield "Closed: not yet. Write `expnb rollback` or `expnb kill`."
        else:
            late = _after(self.decided_at, self.closed_at, "harm was decided")
            yield f"Closed: {_moment(self.closed_at)}{f', {late}' if late else ''}."

    def _users(self) -> Iterator[str]:
        what = "harmed" if self.decided_at else "treated"
        for name, n in self.measured.items():
            yield f"Measured: {f'{n:,}' if n else 'too few to be shown'} {what} units of {name}, in the data of the last decision before."
        for name, more in self.estimated.items():
            yield f"Estimated: about {more:,.0f} more units of {name} {self.basis}."


def incident(name: str, workspace: Workspace | str | Path = ".") -> Incident:
    """The last time that a treatment of an experiment was taken back, or harm was decided, from the ledger alone.

    Parameters
    ----------
    name : str
        Of the experiment, also of one whose file is gone.
    workspace : Workspace, str or Path

    Returns
    -------
    Incident
        Without one, its title says so and the rest is empty.

    Raises
    ------
    NameNotFoundError
        If nothing is known of that experiment.
    """
    ws = as_workspace(workspace)
    entries = own_entries(ws, name)
    harms = [past for past in past_decisions(entries) if _is_served(past.decision)]
    closings = list(_closings(entries, harms))
    # One that was decided after the last closing was not answered yet.
    is_open = bool(harms) and (not closings or harms[-1].entry.seq > closings[-1][0].seq)
    if not harms and not closings:
        return Incident(experiment=name, environment=ws.environment)
    closed = None if is_open else closings[-1]
    before = closings[:-1] if closed else closings
    start = before[-1][0].seq if before else 0
    return _told(ws, name, entries, start, closed)


def _told(
    workspace: Workspace, name: str, entries: Sequence[Entry], start: int, closed: tuple[Entry, Receipt] | None
) -> Incident:
    """The incident after an entry, up to its closing."""
    window = [entry for entry in entries if entry.seq > start and (closed is None or entry.seq <= closed[0].seq)]
    known = past_decisions(window)
    harms = [past for past in known if _is_served(past.decision)]
    first, last = harms[0] if harms else None, known[-1] if known else None
    arms = {arm: None for past in harms for arm in _harmed(past.decision)} if harms else _treatments(last)
    closed_at = closed[1].applied_at if closed else None
    until = closed_at or workspace.clock()
    served = min(_served_from(window, known), default=None)
    estimated, basis = _estimate(known, list(arms), served, until, is_closed=closed is not None)
    events = [event for event in timeline(entries) if event.kind == "registered" or event.seq > start]
    heard = first or last
    return Incident(
        experiment=name,
        environment=workspace.environment,
        first_served_at=served,
        at_rung_since=first.decision.flag.changed_at if first else None,
        decided_at=first.decision.decided_at if first else None,
        closed_at=closed_at,
        measured={arm: last.decision.units.get(arm, 0) for arm in arms} if last else {},
        estimated=estimated,
        basis=basis,
        said=tuple(_said(heard.decision, harmed=first is not None)) if heard else (),
        did=_did(events),
        events=tuple(events),
    )


def _closings(entries: Sequence[Entry], harms: Sequence[Past]) -> Iterator[tuple[Entry, Receipt]]:
    """Changes after which no harmed treatment is served any more, whatever they were meant for; and those that took a treatment back where nothing was harmed."""
    last = 0
    for entry, receipt in receipts(entries):
        harmed = {arm for past in harms if last < past.entry.seq < entry.seq for arm in _harmed(past.decision)}
        after = _shares(receipt.after)
        if not any(after.get(arm, 0.0) > 0 for arm in harmed) if harmed else _took_back(receipt):
            last = entry.seq
            yield entry, receipt


def _took_back(receipt: Receipt) -> bool:
    """Whether a change took a treatment back; to ship another, or to conclude, is no incident."""
    if receipt.verb not in {"roll_back", "drop", "kill"} or receipt.before is None:
        return receipt.verb == "kill" and receipt.before is None
    before, after = _shares(receipt.before), _shares(receipt.after)
    return any(share > 0 and after.get(arm, 0.0) == 0 for arm, share in before.items())


def _shares(state: FlagState) -> dict[str, float]:
    """Share of eligible units that get each treatment."""
    exposure = state.exposure
    return {name: share * state.enabled for name, share in exposure.shares().items() if name != exposure.control}


def _harmed(decision: Decision) -> list[str]:
    """Treatments that the decision found to be harmful."""
    harmed = [rule.variant for rule in decision.rules if rule.name == "harm" and rule.outcome == "not met"]
    return list(dict.fromkeys(harmed))


def _is_served(decision: Decision) -> bool:
    """Whether a harmful treatment was served when harm was decided."""
    shares = _shares(decision.flag)
    return any(shares.get(arm, 0.0) > 0 for arm in _harmed(decision))


def _treatments(last: Past | None) -> dict[str, None]:
    return dict.fromkeys(_shares(last.decision.flag)) if last else {}


def _served_from(window: Sequence[Entry], known: Sequence[Past]) -> Iterator[datetime]:
    """Times at which a treatment is known to have been served."""
    for _, receipt in receipts(window):
        for state in (receipt.before, receipt.after):
            if state is not None and any(_shares(state).values()):
                yield state.changed_at
    for past in known:
        if any(_shares(past.decision.flag).values()):
            yield past.decision.flag.changed_at


def _said(decision: Decision, *, harmed: bool) -> Iterator[str]:
    """Sentences of the harm rule: of what was harmed, or of everything where nothing was."""
    for rule in decision.rules:
        if rule.name == "harm" and (rule.outcome == "not met" or not harmed):
            yield rule.sentence


def _estimate(
    known: Sequence[Past], arms: Sequence[str], served: datetime | None, until: datetime, *, is_closed: bool
) -> tuple[dict[str, float], str]:
    """Units that came in after the last data while the treatment was served, at the pace at which they came before."""
    last = known[-1].decision if known else None
    if last is None or last.first_day is None or last.watermark is None:
        return {}, ""
    zone = known[-1].experiment.timezone if known[-1].is_complete else "UTC"
    end = datetime.combine(last.watermark + _DAY, time(), ZoneInfo(zone))
    missing = max(0.0, (until - max(end, served or end)) / _DAY)
    # Since the look before, where there is one: that is the pace at the share of the end.
    earlier = [past.decision for past in known if past.decision.watermark and past.decision.watermark < last.watermark]
    units: Mapping[str, int] = earlier[-1].units if earlier else {}
    days = (last.watermark - earlier[-1].watermark).days if earlier and earlier[-1].watermark else 0
    days = days or (last.watermark - last.first_day).days + 1
    # An arm that is too small to be shown has 0 units here, and no pace.
    pace = {arm: max(0, last.units[arm] - units.get(arm, 0)) / days for arm in arms if last.units.get(arm)}
    what = "until it closed" if is_closed else "until now"
    basis = f"{what}, {missing:.1f} days that the data do not cover, at the pace of their last {days} days"
    return {arm: missing * each for arm, each in pace.items() if missing}, basis


def _did(events: Sequence[Event]) -> dict[str, tuple[str, ...]]:
    """What each person did, in the order of the ledger; the same in a row once."""
    did: dict[str, list[str]] = {}
    for event in events:
        acts = did.setdefault(event.who, [])
        if event.who and event.act and acts[-1:] != [event.act]:
            acts.append(event.act)
    return {who: tuple(acts) for who, acts in did.items() if acts}


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _after(start: datetime | None, end: datetime, what: str) -> str:
    """How long after something; empty where that is not known."""
    if start is None:
        return ""
    seconds = (end - start).total_seconds()
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit} after {what}"
    return f"within a minute after {what}"
