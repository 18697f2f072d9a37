"""The shape of `expnb.toml`: flags and ledger, environments, roles, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from expnb.errors import SpecError, check_choice
from expnb.spec.flag import check_percent
from expnb.spec.policy import Policy

ACTS = ("request", "approval", "push", "roll_back", "kill")
DEFAULT_LEDGER = "sqlite:///.expnb/ledger.sqlite"
KNOWN_ROLES = ("viewer", "analyst", "approver", "operator")


KNOWN_REQUIREMENTS = ("guardrail", "sample_ratio", "fresh", "quality", "min_units")
RAISING = ("start", "ramp_up", "ship", "restore")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRule:
    """What has to be there before a plan that treats more units is pushed; of several rules that hold, the strictest counts.

    Parameters
    ----------
    above_treated : float, optional
        The rule holds for plans that treat more than this percent of the eligible units.
    verb : str
        Or for plans of one kind: ``"ship"`` (and the return to what was shipped), ``"start"``, ``"ramp_up"`` or ``"restore"``.
    need : int
        How many others must agree.
    requires : tuple of str
        Rules of the decision that must be met at the push: ``"guardrail"``, ``"sample_ratio"``, ``"fresh"``, ``"quality"`` or ``"min_units"``.

    Raises
    ------
    SpecError
        If the rule holds for nothing, or asks for nothing.
    """

    above_treated: float | None = None
    verb: str = ""
    need: int = 1
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.above_treated is None) == (not self.verb):
            raise SpecError(
                'an approval rule has one of above_treated and verb. Write { above_treated = 5, need = 1 } or { verb = "ship", need = 1 }.'
            )
        if self.above_treated is not None:
            check_percent(self.above_treated, "above_treated")
        if self.verb:
            check_choice("the verb of an approval rule", self.verb, RAISING)
        if self.need < 0 or (self.need == 0 and not self.requires):
            raise SpecError(
                f"an approval rule has need = {self.need}; at least one other has to agree, or `requires` names what has to be met. Write need = 1."
            )
        for name in self.requires:
            check_choice("what an approval rule requires", name, KNOWN_REQUIREMENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One `[environments.NAME]` table.

    Parameters
    ----------
    flags : str
        Address of the flag backend, as `expnb.flags.connect` takes it.
    token : str
        Name of the backend's credential: an environment variable, or an entry of the service ``expnb`` in the keyring. Never the credential itself.
    max_age_hours : float
        Age at which a plan, and every approval of it, is void.
    policy : mapping
        Fields of `Policy` that hold for every experiment in this environment, whatever its file says; such as stricter thresholds in production.
    """

    flags: str
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    approvals: tuple[ApprovalRule, ...] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)
    token: str = ""
    max_age_hours: float = 24.0

    def __post_init__(self) -> None:
        if self.max_age_hours <= 0:
            raise SpecError(f"max_age_hours is {self.max_age_hours:g}; it must be above 0. Write 24 for a day.")
        for key in self.policy:
            check_choice("a field of the policy of an environment", key, [part.name for part in fields(Policy)])
        for role in self.roles:
            check_choice('a role (its people follow it, as in `approver = ["ben"]`)', role, KNOWN_ROLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTable:
    """The `[ledger]` table.

    Parameters
    ----------
    url : str
        ``sqlite:///PATH``, relative to the workspace.
    connection : str
        In place of `url`, for the ledger of a team: the name of an environment variable, or of an entry of the service ``expnb`` in the keyring, that holds a URL such as ``postgresql://user:password@host/database``.

    Raises
    ------
    SpecError
        If both are given, or the connection is a URL itself.
    """

    url: str = DEFAULT_LEDGER
    connection: str = ""

    def __post_init__(self) -> None:
        _check_name("connection under [ledger]", self.connection)
        if self.connection and self.url != DEFAULT_LEDGER:
            raise SpecError(
                f"[ledger] has a url and the connection {self.connection!r}; the ledger is in one place. Remove one of them."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyTable:
    """The `[notify]` table: who is told of what was done.

    Parameters
    ----------
    webhook : str
        Name of an environment variable, or of an entry of the service ``expnb`` in the keyring, that holds the URL of a webhook as Slack takes it; empty tells nobody.
    on : tuple of str
        Acts that are told; all of them by default.

    Raises
    ------
    SpecError
        If the webhook is a URL itself, or an act is unknown.
    """

    webhook: str = ""
    on: tuple[str, ...] = ACTS

    def __post_init__(self) -> None:
        _check_name("webhook under [notify]", self.webhook)
        for act in self.on:
            check_choice("an act under [notify] on", act, ACTS)


def _check_name(what: str, name: str) -> None:
    """Raise `SpecError` if a secret stands where its name belongs; it is not shown."""
    if "://" in name:
        raise SpecError(
            f"{what} is a URL, which is or holds a secret; expnb.toml holds its name alone. Put the URL into an environment variable or the keyring, and write that name."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The `[defaults]` table.

    Parameters
    ----------
    guardrails : tuple of str
        Catalogue metrics that every experiment inherits as guardrails.
    min_cell : int
        Cells with fewer units never leave the kernel.
    retention_days : float, optional
        Cached cells and posteriors that are older are deleted when the workspace is opened; without it they are kept.
    holdout : float
        Percent of all units that are kept out of every experiment, the same units for every flag.
    """

    guardrails: tuple[str, ...] = ()
    min_cell: int = 20
    retention_days: float | None = None
    holdout: float = 0.0

    def __post_init__(self) -> None:
        check_percent(self.holdout, "holdout")
        if self.retention_days is not None and self.retention_days <= 0:
            raise SpecError(
                f"retention_days is {self.retention_days:g}; it must be above 0. Write 30 for a month, or leave it out to keep everything."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceFile:
    """The shape of `expnb.toml`."""

    schema: int
    environments: Mapping[str, Environment]
    timezone: str = "UTC"
    ledger: LedgerTable = field(default_factory=LedgerTable)
    notify: NotifyTable = field(default_factory=NotifyTable)
    defaults: Defaults = field(default_factory=Defaults)
