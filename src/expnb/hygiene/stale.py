"""Flags that should be gone, or be looked at: past their day, unchanged for long where nothing is learnt, or named by no experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from zoneinfo import ZoneInfo

from expnb.errors import ExpnbError, NameNotFoundError
from expnb.history.page import Page, Section
from expnb.spec.experiment import Experiment
from expnb.spec.flag import FlagRef, FlagState

if TYPE_CHECKING:
    from expnb.workspace import Workspace

IDLE_DAYS = 30.0


@runtime_checkable
class ListsFlags(Protocol):
    """A flag backend that can say which flags it holds."""

    def names(self) -> list[str]:
        """Names of all flags in it, of its environment."""
        ...


@dataclass(frozen=True, slots=True)
class StaleFlag:
    """One flag that should be gone or be looked at.

    Parameters
    ----------
    flag : str
    experiment : str
        Empty where no experiment names it.
    reasons : tuple of str
        Why, a sentence each.
    serves : str
        What it serves now, in words.
    """

    flag: str
    experiment: str
    reasons: tuple[str, ...]
    serves: str = ""

    @property
    def advice(self) -> str:
        """What to do next."""
        if self.experiment:
            return f"Next: expnb remove {self.experiment} --code FOLDER."
        return "Next: write the experiment that owns it, or delete it in the backend once no code asks for it."


@dataclass(frozen=True, slots=True, repr=False)
class StaleFlags(Page):
    """Flags of one environment that should be gone or be looked at.

    Parameters
    ----------
    environment : str
    flags : tuple of StaleFlag
    looked_at : int
        Flags that were looked at.
    unread : mapping of str to str
        Flags that could not be read, and why.
    listed : bool
        Whether the backend could say which flags it holds; else flags that no experiment names are not known.
    """

    environment: str
    flags: tuple[StaleFlag, ...]
    looked_at: int
    unread: tuple[str, ...] = ()
    listed: bool = True

    @property
    def title(self) -> str:
        """The answer in one line."""
        return f"{len(self.flags)} of {self.looked_at} flags in {self.environment} are stale"

    def sections(self) -> tuple[Section, ...]:
        """One per flag, and what could not be looked at."""
        found = [
            Section(
                f"{flag.flag} ({f'experiment {flag.experiment}' if flag.experiment else 'no experiment'}{f': {flag.serves}' if flag.serves else ''})",
                (*flag.reasons, flag.advice),
            )
            for flag in self.flags
        ]
        unknown = list(self.unread)
        if not self.listed:
            unknown.append(
                "this backend does not say which flags it holds, so flags that no experiment names are not among these."
            )
        return (*found, *([Section("not looked at", tuple(unknown))] if unknown else []))


def stale_flags(workspace: Workspace, *, idle_days: float = IDLE_DAYS) -> StaleFlags:
    """The flags of a workspace that should be gone or be looked at.

    Parameters
    ----------
    workspace : Workspace
    idle_days : float
        So many days without a change make a flag stale that teaches nothing: one that serves everybody the same, or nobody anything.
    """
    now = workspace.clock()
    found, unread, named = [], [], set()
    for name in workspace.experiments:
        try:
            experiment = workspace.experiment(name)
            named.add(experiment.flag)
            state = workspace.flag(experiment)
        except NameNotFoundError:  # no flag yet, or none any more
            continue
        except ExpnbError as error:  # one that cannot be read must not hide the others
            unread.append(f"{name}: {error}")
            continue
        reasons = tuple(_reasons(experiment, state, now, idle_days))
        found.append(StaleFlag(experiment.flag, name, reasons, _serves(state)))
    others, listed = _unnamed(workspace, named, unread)
    found += others
    stale = tuple(flag for flag in found if flag.reasons)
    return StaleFlags(workspace.environment, stale, len(found), tuple(unread), listed)


def _reasons(experiment: Experiment, state: FlagState, now: datetime, idle_days: float) -> Iterator[str]:
    """Why the flag of an experiment is stale."""
    today = now.astimezone(ZoneInfo(experiment.timezone)).date()
    if experiment.expires and experiment.expires < today:
        yield f"it expired on {experiment.expires}, {_days((today - experiment.expires).days)} ago."
    elif experiment.review_after and experiment.review_after < today:
        yield f"it was to be looked at again after {experiment.review_after}, {_days((today - experiment.review_after).days)} ago."
    idle = now - state.changed_at
    why = _teaches_nothing(state)
    if why and idle > timedelta(days=idle_days):
        yield f"{why}, unchanged for {_days(idle.days)}."


def _teaches_nothing(state: FlagState) -> str:
    """Why nothing is learnt from a flag as it stands; empty where something is."""
    exposure = state.exposure
    if not state.enabled:
        return "it is disabled"
    if exposure.serve:
        return f"it serves {exposure.serve} to everybody" if not exposure.holdback else ""
    if not exposure.enrolled:
        return "it serves nobody anything new"
    return "it stands at 100 %" if exposure.enrolled == 100 else ""


def _unnamed(workspace: Workspace, named: set[str], unread: list[str]) -> tuple[list[StaleFlag], bool]:
    """Flags of the backend that no experiment names; those that expnb did not make are left alone."""
    try:
        backend = workspace.flags
        if not isinstance(backend, ListsFlags):
            return [], False
        names = [name for name in backend.names() if name not in named]
    except ExpnbError as error:
        unread.append(str(error))
        return [], False
    found = []
    for name in names:
        try:
            state = backend.read(FlagRef(name, workspace.environment))
        except ExpnbError:
            continue
        found.append(StaleFlag(name, "", ("no experiment of this workspace names it.",), _serves(state)))
    return found, True


def _serves(state: FlagState) -> str:
    return str(state.exposure) if state.enabled else "disabled"


def _days(number: int) -> str:
    return f"{number:,} day{'' if number == 1 else 's'}"
