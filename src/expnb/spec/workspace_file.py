"""The shape of `expnb.toml`: flags and ledger, environments, roles, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from expnb.errors import SpecError, check_choice
from expnb.spec.policy import Policy

KNOWN_ROLES = ("viewer", "analyst", "approver", "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRule:
    """How many others must agree before more than `above_treated` percent get a treatment."""

    above_treated: float
    need: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One `[environments.NAME]` table.

    Parameters
    ----------
    policy : mapping
        Fields of `Policy` that hold for every experiment in this environment, whatever its file says; such as stricter thresholds in production.
    """

    flags: str
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    approvals: tuple[ApprovalRule, ...] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.policy:
            check_choice("a field of the policy of an environment", key, [part.name for part in fields(Policy)])
        for role in self.roles:
            check_choice('a role (its people follow it, as in `approver = ["ben"]`)', role, KNOWN_ROLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTable:
    """The `[ledger]` table."""

    url: str = "sqlite:///.expnb/ledger.sqlite"


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
    """

    guardrails: tuple[str, ...] = ()
    min_cell: int = 20
    retention_days: float | None = None

    def __post_init__(self) -> None:
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
    defaults: Defaults = field(default_factory=Defaults)
