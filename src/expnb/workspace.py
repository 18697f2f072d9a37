"""A workspace: the folder that binds catalogue, experiments, flags, ledger and roles."""

from __future__ import annotations

import getpass
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from expnb.cohorts.looks import keep_look
from expnb.decisions.decide import decide
from expnb.decisions.decision import Decision
from expnb.decisions.evidence import check_evidence
from expnb.decisions.plan import RampPlan, plan_change, plan_ramp
from expnb.decisions.rules import was_judged
from expnb.errors import (
    ExpnbError,
    FlagError,
    LedgerError,
    NameNotFoundError,
    PathNotFoundError,
    PushUncertainError,
    SpecError,
    SpecFileError,
)
from expnb.flags.address import connect
from expnb.flags.base import FlagBackend, Receipt
from expnb.flags.split import check_split, serve_sample
from expnb.ledger.agreement import Agreement, agreement, loosened_since, newest_registration, to_agree
from expnb.ledger.approvals import approvals_needed, approvers, check_approvals, check_approver, check_role
from expnb.ledger.ledger import Entry, EntryKind, Ledger
from expnb.ledger.recorded import recorded as _recorded
from expnb.posterior.posterior import Posterior
from expnb.posterior.priors.learn import LEAST
from expnb.posterior.priors.past import frame, learnt_or_default, records, with_priors
from expnb.spec.canonical import Json, canonical_json, to_json
from expnb.spec.catalogue import Catalogue, CatalogueRow, Registered, new_version, silent_edit, to_register
from expnb.spec.experiment import Experiment
from expnb.spec.flag import FlagRef, FlagSpec, FlagState
from expnb.spec.metric import Metric
from expnb.spec.policy import Policy
from expnb.spec.prior import Prior
from expnb.spec.read import MetricDefinition, parse, read_catalogue, read_experiment, read_toml
from expnb.spec.workspace_file import Environment, WorkspaceFile

if TYPE_CHECKING:
    import pandas as pd

    from expnb.cohorts.cohort import Cohort
    from expnb.cohorts.warehouse import Warehouse

CONFIG = "expnb.toml"
IN_FLIGHT = timedelta(minutes=1)  # longer than any push may take
REPORT = re.compile(r"(.+)-\d{4}-\d{2}-\d{2}-\d{6}\..+")  # files of reports, by experiment and time
CACHES = ("cells", "posterior", "looks")  # folders under .expnb


def utc_now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)


def open_workspace(
    path: str | Path = ".",
    *,
    environment: str | None = None,
    actor: str | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Workspace:
    """The workspace in a folder.

    Parameters
    ----------
    path : str or Path
        Folder with `expnb.toml`, or a folder below it.
    environment : str, optional
        Needed when `expnb.toml` names several.
    actor : str, optional
        Who acts; the name of the operating-system user when left out.
    clock : callable
        Gives the time now, with a time zone.

    Raises
    ------
    PathNotFoundError, SpecError, NameNotFoundError
    """
    start = Path(path).resolve()
    root = next((folder for folder in (start, *start.parents) if (folder / CONFIG).is_file()), None)
    if root is None:
        raise PathNotFoundError(str(Path(path) / CONFIG), "workspace file", [])
    config = parse(read_toml(root / CONFIG, "workspace file"), WorkspaceFile, str(root / CONFIG))
    name = environment or next(iter(config.environments), "")
    if environment is None and len(config.environments) > 1:
        raise SpecError(
            f"the workspace has the environments {list(config.environments)}; say which one. Write open_workspace(path, environment={name!r})."
        )
    if name not in config.environments:
        raise NameNotFoundError("environment", name, list(config.environments))
    places = {other: _place(root, table.flags) for other, table in config.environments.items()}
    shared = [other for other, place in places.items() if place == places[name]]
    if len(shared) > 1:
        raise SpecError(
            f"the environments {shared} have the same flags {config.environments[name].flags!r}; a push in one would move the other. "
            "Give each environment its own."
        )
    days = config.defaults.retention_days
    if days is not None:
        _delete(_cached(root, before=clock() - timedelta(days=days)))
    return Workspace(
        root=root, config=config, environment=name, actor=getpass.getuser() if actor is None else actor, clock=clock
    )


def _place(root: Path, flags: str) -> str:
    """Where flags are, whatever way the path to a file is written."""
    scheme, _, rest = flags.partition(":")
    return f"{scheme}:{(root / rest).resolve()}" if scheme == "flagd" else flags


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was deleted of one experiment.

    Parameters
    ----------
    cells, posterior, looks, reports : int
        Files of each kind.
    """

    experiment: str
    cells: int = 0
    posterior: int = 0
    looks: int = 0
    reports: int = 0

    @property
    def files(self) -> int:
        """Files of all kinds."""
        return self.cells + self.posterior + self.looks + self.reports

    def __str__(self) -> str:
        kinds = {
            "cached cells": self.cells,
            "cached posteriors": self.posterior,
            "cells of looks": self.looks,
            "reports": self.reports,
        }
        parts = [f"{count} file{'s' if count > 1 else ''} of {kind}" for kind, count in kinds.items() if count]
        return f"{self.experiment}: {', '.join(parts) or 'nothing'} removed"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Catalogue, experiments, flags, ledger and roles of one folder, in one environment.

    A kernel belongs to the person who runs it, so roles and approvals checked here are `unenforced`: they prevent mistakes, not intent.
    """

    root: Path
    config: WorkspaceFile
    environment: str
    actor: str
    clock: Callable[[], datetime]

    # --- what was asked -----------------------------------------------------------------------

    @cached_property
    def catalogue(self) -> Mapping[str, MetricDefinition]:
        """The shared metric definitions."""
        return read_catalogue(self.root / "metrics")

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments in the workspace."""
        return sorted(path.stem for path in (self.root / "experiments").glob("*.toml"))

    def experiment(self, name: str) -> Experiment:
        """An experiment with its catalogue metrics, inherited guardrails, priors and defaults resolved.

        A prior that its file names holds. Without one, that of its newest registration or look holds, so that it never changes under a running experiment; before those,
        the workspace learns one for each metric, from 20 past experiments on.

        Raises
        ------
        NameNotFoundError, SpecError
        """
        if name not in self.experiments:
            raise NameNotFoundError("experiment", name, self.experiments)
        defaults = self.config.defaults
        path = self.root / "experiments" / f"{name}.toml"
        try:
            experiment = read_experiment(
                path, catalogue=self.catalogue, guardrails=defaults.guardrails, policy=self._table.policy
            )
        except SpecFileError as error:
            if not self._table.policy:
                raise
            raise SpecFileError(
                str(path), f"with the policy of the environment {self.environment!r} in expnb.toml: {error}"
            ) from error
        if experiment.name != name:
            raise SpecError(
                f"experiments/{name}.toml holds the experiment {experiment.name!r}; file and experiment have one name. Rename one of them."
            )
        experiment = replace(experiment, timezone=self.config.timezone, min_cell=defaults.min_cell)
        named = "prior" in read_toml(path, "experiment file")
        return experiment if named else with_priors(experiment, self._priors(experiment))

    def metrics(self) -> Catalogue:
        """The metric catalogue, with the experiments that use each metric and what changed since they were registered.

        Raises
        ------
        SpecFileError
            If a file of the catalogue cannot be read; an experiment that cannot be read is named in `unread`.
        """
        users: dict[str, list[str]] = {name: [] for name in self.catalogue}
        notes: dict[str, list[str]] = {name: [] for name in self.catalogue}
        unread: dict[str, str] = {}
        for name in self.experiments:
            try:
                experiment = self.experiment(name)
            except ExpnbError as error:  # one that cannot be read must not hide the others
                unread[name] = str(error)
                continue
            registered = self._registered_metrics(experiment)
            for metric in experiment.metrics:
                if metric.name in users:
                    users[metric.name].append(name)
                    notes[metric.name] += [
                        f"{change} (experiment {name})" for change in _changes((metric,), registered)
                    ]
        rows = [
            CatalogueRow(definition=definition, experiments=tuple(users[name]), notes=tuple(notes[name]))
            for name, definition in sorted(self.catalogue.items())
        ]
        return Catalogue(rows=tuple(rows), unread=unread)

    def questions(self, experiment: Experiment) -> Iterator[str]:
        """What a careful reader would ask about this specification, its catalogue and its registration."""
        yield from experiment.questions()
        for goal in experiment.goals:
            if not goal.certified:
                yield f"the goal {goal.name!r} is not certified: nobody vouches for its definition. Who owns it, and may it decide?"
        registered = self._registered_metrics(experiment)
        for edit in filter(None, (silent_edit(metric, registered) for metric in experiment.metrics)):
            yield f"{edit} since {experiment.name!r} was registered. Is it still the metric that was agreed? Give it a new version, and register again."

    def source(self, experiment: Experiment) -> Path | Warehouse:
        """Where the experiment's cohort lies, as `load_cohort` takes it: a path, or a table or query of a connection.

        Raises
        ------
        SpecError
            If the experiment names none.
        """
        if experiment.connection:
            from expnb.cohorts.warehouse import Warehouse  # noqa: PLC0415 - only where the rows stay in a warehouse

            return Warehouse(experiment.connection, experiment.table, experiment.sql)
        if not experiment.source:
            raise SpecError(
                f'experiment {experiment.name!r} names no source; pass the data to load_cohort, or add `source = "cohort.parquet"`.'
            )
        return self.root / experiment.source

    def load(self, experiment: Experiment | str, source: object = None, *, as_of: datetime | None = None) -> Cohort:
        """The cohort of an experiment of this workspace, by `load_cohort`.

        Paths in its file are taken relative to the workspace, and cells of files that did not change come from the cache.

        Parameters
        ----------
        experiment : Experiment or str
            Or its name.
        source : optional
            Data in place of the experiment's own.
        as_of : datetime, optional
            Up to when the data are complete, as in `load_cohort`.
        """
        from expnb.cohorts.cohort import load_cohort  # noqa: PLC0415 - 1 s, and many commands read no data

        asked = self.experiment(experiment) if isinstance(experiment, str) else experiment
        own = source is None
        return load_cohort(
            asked,
            self.source(asked) if own else source,
            events=self._events(asked),
            as_of=as_of,
            cache=self.cells_folder if own else None,
        )

    def _events(self, experiment: Experiment) -> Path | None:
        """Where the events lie; None where there are none, and where `load_cohort` finds them without a path."""
        if experiment.events is None or not experiment.events.source:
            return None
        return self.root / experiment.events.source

    # --- what past experiments taught -----------------------------------------------------------

    def past_effects(self, *, excluding: str = "") -> pd.DataFrame:
        """The last known effect of every experiment that was looked at, as `learn_prior` takes it.

        One row per experiment, metric and treatment arm: columns `experiment`, `metric`, `kind`, `variant`, `log_ratio`, `se` and `randomised`, which is False where the sample ratio was off.
        Experiments that were stopped or still run are in it: leaving them out would pick by effect.

        Parameters
        ----------
        excluding : str
            Name of an experiment to leave out.
        """
        return _effects(self.ledger.entries(kind="look"), excluding)

    def prior(self, about: Experiment | Metric | str) -> Prior:
        """The prior on the effect on a metric, or on the goal of an experiment.

        Parameters
        ----------
        about : Experiment, Metric or str
            Or the name of one. Of an experiment of this workspace it is the prior in force, as `experiment` resolves it; of a metric it is learnt from all past experiments: those on
            the metric of that name, if they are 20 or more, else those on metrics of its kind, else all; the default, if there are fewer than 20.

        Raises
        ------
        NameNotFoundError
            If neither an experiment nor a metric has that name.
        """
        if isinstance(about, Metric):
            return learnt_or_default(self.past_effects(), about.name, about.kind)
        name = about if isinstance(about, str) else about.name
        if name in self.experiments:
            experiment = self.experiment(name)
            return experiment.prior_on(experiment.goal.name)
        if isinstance(about, Experiment):
            return learnt_or_default(self.past_effects(excluding=name), about.goal.name, about.goal.kind)
        past = self.past_effects()
        if name not in {*self.catalogue, *past["metric"]}:
            raise NameNotFoundError("experiment or metric", name, [*self.experiments, *sorted(self.catalogue)])
        return learnt_or_default(past, name, self.catalogue[name].kind if name in self.catalogue else "")

    def _priors(self, experiment: Experiment) -> Mapping[str, Prior]:
        """The prior of every metric that names none: the pinned one, else one that is learnt, else the default."""
        looks = self.ledger.entries(kind="look")
        pinned = self._pinned(experiment, looks)
        new = [metric for metric in experiment.metrics if metric.name not in pinned]
        if not new or len({entry.body["experiment"] for entry in looks}) < LEAST:
            return pinned
        past = _effects(looks, experiment.name)
        return {**pinned, **{metric.name: learnt_or_default(past, metric.name, metric.kind) for metric in new}}

    def _pinned(self, experiment: Experiment, looks: Sequence[Entry]) -> Mapping[str, Prior]:
        """The priors of the newest registration or look; empty before both."""
        own = [entry for entry in looks if entry.body["experiment"] == experiment.name]
        registered = self._last("registered", experiment.name)
        newest = max((*own, *((registered,) if registered else ())), key=lambda entry: entry.seq, default=None)
        if newest is None:
            return {}
        if "priors" not in newest.body:  # written before priors were learnt: the default held
            return dict.fromkeys((metric.name for metric in experiment.metrics), Prior())
        return _recorded(dict[str, Prior], newest.body["priors"])

    @property
    def cells_folder(self) -> Path:
        """Where cells are cached, a folder per experiment."""
        return self.root / ".expnb" / "cells"

    @property
    def looks_folder(self) -> Path:
        """Where the cells of every look are kept, a folder per experiment; small cells are among them, so it stays on this machine."""
        return self.root / ".expnb" / "looks"

    def register(self, experiment: Experiment, *, reason: str = "") -> Entry:
        """Write the experiment to the ledger: this was agreed, at this time. The same specification is registered once.

        After the first look a registration is a change. One that loosens something needs a reason, and somebody else who agrees (`agree`) before exposure may rise again.

        Raises
        ------
        SpecError
            If it loosens something after the first look, without a reason.
        ApprovalError
            If the actor lacks the role.
        """
        self._allow("register")
        entries = self._own(experiment.name)
        last = newest_registration(entries)
        # Older registrations lack their author, or the specification itself: nobody can agree to those.
        if last and last.body["spec_hash"] == experiment.spec_hash and {"actor", "spec"} <= last.body.keys():
            return last
        loosened = [edit.sentence for edit in loosened_since(experiment, entries)]
        if loosened and not reason.strip():
            raise SpecError(
                f"this loosens {experiment.name!r} after its first look: {' '.join(loosened)} Say why, for the one who has to agree: reason=…, or `expnb register {experiment.name} --reason …`."
            )
        return self._record(
            "registered",
            {
                "experiment": experiment.name,
                "environment": self.environment,
                "actor": self.actor,
                "reason": reason,
                "loosened": loosened,
                "spec_hash": experiment.spec_hash,
                "policy_hash": experiment.policy_hash,
                "metrics": to_register(experiment),
                "priors": experiment.priors,
                "spec": experiment,
            },
        )

    def agree(self, experiment: Experiment) -> Entry:
        """Agree to the specification that somebody else registered late, or loosened after the first look.

        Raises
        ------
        ApprovalError
            If it is not registered as it stands, or this actor is its author, anonymous, or lacks the role.
        """
        self._allow("approve")
        registered = to_agree(experiment, self._own(experiment.name), self.actor)
        facts = {"registration": registered.seq, "spec_hash": experiment.spec_hash}
        return self._record(
            "agreed", {"experiment": experiment.name, "environment": self.environment, "actor": self.actor, **facts}
        )

    def forget(
        self, name: str | None = None, *, older_than: timedelta | None = None, reports: bool = False
    ) -> list[Forgotten]:
        """Delete what was cached of an experiment, and record that it was done; the ledger itself stays.

        Parameters
        ----------
        name : str, optional
            Of an experiment, also of one whose file is gone; all of them when left out.
        older_than : timedelta, optional
            Leave younger files.
        reports : bool
            Delete its reports too.

        Returns
        -------
        list of Forgotten
            One for each experiment of which something was there; the others are not recorded.

        Raises
        ------
        NameNotFoundError
            If nothing is known of that experiment.
        LedgerError
            If the deletion, which was done, cannot be recorded.
        """
        known = self._remembered()
        if name is not None and name not in known:
            raise NameNotFoundError("experiment", name, known)
        before = None if older_than is None else self.clock() - older_than
        done = [self._forget(one, before, reports=reports) for one in ([name] if name is not None else known)]
        found = [forgotten for forgotten in done if forgotten.files]
        for forgotten in found:
            days = None if older_than is None else older_than / timedelta(days=1)
            facts = {"actor": self.actor, "older_than_days": days}
            counts = {kind: getattr(forgotten, kind) for kind in (*CACHES, "reports")}
            self._record("forgotten", {"experiment": forgotten.experiment, **facts, **counts})
        return found

    # --- flags ----------------------------------------------------------------------------------

    @cached_property
    def flags(self) -> FlagBackend:
        """The flag backend of the environment."""
        return connect(self._table.flags, root=self.root, environment=self.environment)

    @cached_property
    def ledger(self) -> Ledger:
        """The record of what was decided and done."""
        url = self.config.ledger.url
        return Ledger(
            f"sqlite:///{self.root / url.removeprefix('sqlite:///')}" if url.startswith("sqlite:///") else url
        )

    def ref(self, experiment: Experiment) -> FlagRef:
        """The experiment's flag in this environment."""
        return FlagRef(experiment.flag, self.environment)

    def flag(self, experiment: Experiment) -> FlagState:
        """The state of the experiment's flag, read now.

        Raises
        ------
        FlagError, NameNotFoundError
            If the backend cannot be read or has no such flag.
        """
        return self.flags.read(self.ref(experiment))

    def create_flag(self, experiment: Experiment) -> FlagState:
        """Create the experiment's flag at 0 percent."""
        return self.flags.create(FlagSpec(self.ref(experiment), experiment.weights, experiment.control))

    # --- decisions ------------------------------------------------------------------------------

    def decide(self, experiment: Experiment, posterior: Posterior) -> Decision:
        """The decision of the policy; counts as a look, unless the data are those of an earlier one.

        Writes the look and the decision to the ledger and `decisions/NAME/DATE.json` and `.md`, and keeps the cells, so that `replay` can recompute it.

        Raises
        ------
        LedgerError
            If the look cannot be recorded: an unrecorded look would make peeking free.

        Warns
        -----
        RuntimeWarning
            If the cells cannot be kept; the decision stands.
        """
        own = self._own(experiment.name)
        seen = {entry.body["fingerprint"]: entry for entry in own if entry.kind == "look"}
        is_new = posterior.fingerprint not in seen
        look = _looks(own) + 1 if is_new else _look_at(posterior.fingerprint, seen[posterior.fingerprint], own)
        agreed = self._agreement(experiment, own, posterior.first_day)
        recorded = self._decisions(experiment.name)
        before = self._last_step(self.ref(experiment), recorded)
        agreed_on = [(key, one) for key, one in recorded if not any(rule.name == "agreement" for rule in one.rules)]
        others = [(key, one) for key, one in reversed(agreed_on) if one.fingerprint != posterior.fingerprint]
        judged_hash, judged = next(((key, one) for key, one in others if was_judged(one)), ("", None))
        unagreed = (*agreed.missing, *_other_prior(experiment, posterior))
        ask = partial(
            decide,
            flag=self.flag(experiment),
            looks=look,
            now=self.clock(),
            before=before.units if before else None,
            judged=judged,
            unagreed=unagreed,
        )
        decision = ask(experiment, posterior)
        if agreed.missing and decision.action != "roll_back":
            # What was agreed still closes the gate, whatever the file says by now.
            for held, answer in _what_holds(agreed.holds, posterior):
                strict = ask(held, answer)
                if strict.action == "roll_back":
                    experiment, posterior, decision = held, answer, strict
        outlook = _outlook(experiment, posterior, decision)
        decision = replace(decision, notes=(*decision.notes, *agreed.notes), outlook=tuple(outlook))
        if is_new:
            facts = {
                "fingerprint": posterior.fingerprint,
                "look": look,
                "watermark": posterior.last_day,
                "priors": experiment.priors,
                "effects": list(records(posterior)),
                "randomised": not any(
                    rule.name == "sample_ratio" and rule.outcome == "not met" for rule in decision.rules
                ),
            }
            self._record("look", {"experiment": experiment.name, **facts})
        if not recorded or recorded[-1][0] != decision.evidence_hash:
            facts = {
                "environment": self.environment,
                "actor": self.actor,
                "action": decision.action,
                "evidence_hash": decision.evidence_hash,
                "decision": decision,
                "replay": {
                    "spec": experiment,
                    "prior": posterior.given_prior,
                    "cells": self._keep(posterior),
                    "before": before.units if before else None,
                    "judged": judged_hash,
                    "unagreed": unagreed,
                },
            }
            self._record("decision", {"experiment": experiment.name, **facts})
        self._write(decision)
        return decision

    def try_policy(self, experiment: Experiment, posterior: Posterior, policy: Policy) -> Decision:
        """What another policy would decide on the same data; nothing follows from it.

        Once these data were looked at, each policy that is tried counts as a look of its own: who may choose the threshold after seeing the data can choose the answer.
        """
        own = self._own(experiment.name)
        tried = replace(experiment, policy=policy)
        facts = {"fingerprint": posterior.fingerprint, "policy_hash": tried.policy_hash}
        looked = [entry for entry in own if entry.kind == "look"]
        known = [entry for entry in own if entry.kind == "view" and facts.items() <= entry.body.items()]
        if looked and not known and tried.policy_hash != self.experiment(experiment.name).policy_hash:
            view = {"experiment": experiment.name, "environment": self.environment, "actor": self.actor, **facts}
            own.append(self._record("view", view))
        before = self._last_step(self.ref(experiment), self._decisions(experiment.name))
        return decide(
            tried,
            posterior,
            flag=self.flag(experiment),
            looks=max(1, _looks(own)),
            now=self.clock(),
            before=before.units if before else None,
        )

    def start(self, experiment: Experiment) -> RampPlan:
        """The plan for the first rung, on which there are no data yet; it needs the specification registered as it stands, and approvals as any plan.

        Raises
        ------
        FlagError
            If the flag was ever open in this environment, or the specification is not registered.
        """
        state = self.flag(experiment)
        first = experiment.policy.percents[0]
        reason = f"The first rung, {first:g} % enrolled: there are no data yet."
        plan = plan_change(
            "start", experiment, state, replace(state.exposure, enrolled=first), reason=reason, now=self.clock()
        )
        self._check_start(plan)
        return plan

    def plan(self, decision: Decision, *, to: float | None = None) -> RampPlan:
        """The change of the flag that a decision asks for, or a smaller one (percent enrolled)."""
        return plan_ramp(self.experiment(decision.experiment), decision, now=self.clock(), to=to)

    # --- pushing ----------------------------------------------------------------------------------

    def approvals_needed(self, plan: RampPlan) -> int:
        """How many others must agree; lowering exposure never needs anybody."""
        return approvals_needed(plan, self._table.approvals)

    def approvals(self, plan: RampPlan) -> list[str]:
        """Who has agreed to exactly this plan."""
        return approvers(self.ledger, plan)

    def request(self, plan: RampPlan) -> Entry:
        """Ask others to agree to a plan."""
        self._allow("request")
        if not plan.changes:
            raise SpecError(
                f"the plan for {plan.experiment!r} changes nothing: {plan.after}. There is nothing to agree to."
            )
        return self._record("request", self._facts(plan) | {"plan": plan})

    def requests(self) -> list[RampPlan]:
        """Plans that others were asked to agree to, oldest first; those that expired are left out."""
        plans = [_recorded(RampPlan, entry.body["plan"]) for entry in self.ledger.entries(kind="request")]
        return [plan for plan in plans if plan.expires_at > self.clock()]

    def approve(self, plan: RampPlan) -> Entry:
        """Agree to a plan that somebody else requested.

        Raises
        ------
        ApprovalError
            If nobody requested it, the approver is its author or anonymous, or lacks the role.
        """
        self._allow("approve")
        check_approver(self.ledger, plan, self.actor)
        return self._record("approval", self._facts(plan))

    def apply(self, plan: RampPlan) -> Receipt:
        """Push a plan: intent, push, read back, evaluate sample units, outcome.

        Raises
        ------
        ApprovalError, PlanVoidError, FlagError, LedgerError
            Before the push; the flag is unchanged.
        PushUncertainError
            After the push, when the flag does not serve what was asked for.
        """
        self._allow("apply")
        self._check_plan(plan)
        self._resolve(plan.ref)
        facts = self._facts(plan)
        intent = self._record("intent", facts | {"plan": plan, "enforcement": "unenforced"})
        facts |= {"intent": intent.seq}
        try:
            receipt = self.flags.apply(plan, now=self.clock(), ledger_head=intent.hash)
        except PushUncertainError:
            raise  # the intent stays open, and is resolved by reading
        except ExpnbError as error:
            self._record("outcome", facts | {"applied": False, "error": str(error)})
            raise
        split = serve_sample(self.flags, receipt.ref)
        self._record("outcome", facts | {"applied": True, "receipt": receipt, "sample": split})
        check_split(receipt.after, split)
        return receipt

    def roll_back(self, experiment: Experiment, *, reason: str) -> Receipt:
        """Close the gate now; needs no decision and no approval, but a reason."""
        if not reason.strip():
            raise SpecError("a roll back needs a reason, for those who read the ledger later. Write one sentence.")
        state = self.flag(experiment)
        closed = replace(state.exposure, enrolled=0.0, serve="", holdback=0.0)
        return self.apply(plan_change("roll_back", experiment, state, closed, reason=reason, now=self.clock()))

    def last_receipt(self, experiment: Experiment) -> Receipt:
        """The receipt of the last change of the experiment's flag.

        Raises
        ------
        FlagError
            If the ledger knows none.
        """
        self._resolve(self.ref(experiment))
        receipts = self._receipts(self.ref(experiment))
        if not receipts:
            raise FlagError(
                f"the ledger knows no change of flag {experiment.flag!r} in {self.environment}; there is nothing to undo."
            )
        return _recorded(Receipt, receipts[-1])

    def plan_restore(self, receipt: Receipt) -> RampPlan:
        """The way back to the state before a receipt, such as after a roll back that was a mistake.

        Raises
        ------
        FlagError
            If the receipt is not in the ledger, or the state before it was never known.
        """
        recorded = [
            entry
            for entry in self.ledger.entries(flag=receipt.ref.flag)
            if entry.body.get("receipt") == to_json(receipt)
        ]
        if not recorded or receipt.before is None:
            raise FlagError(
                f"the ledger holds no receipt of {receipt.verb} for flag {receipt.ref.flag!r} at {receipt.applied_at:%Y-%m-%d %H:%M} UTC with a known state before it; only an audited state can be restored."
            )
        experiment = self.experiment(str(recorded[-1].body["experiment"]))
        state, before = self.flags.read(receipt.ref), receipt.before.exposure
        reason = f"Back to the audited state: {before}."
        return plan_change("restore", experiment, state, before, reason=reason, now=self.clock())

    def restore(self, receipt: Receipt) -> Receipt:
        """Return the flag to the state before a receipt; more exposure than now may need approval, as any plan."""
        return self.apply(self.plan_restore(receipt))

    def kill(self, experiment: Experiment | str) -> Receipt:
        """Close the gate and disable the flag, at once; needs no plan, no approval, no fresh data and no ledger.

        Parameters
        ----------
        experiment : Experiment or str
            Or its name: then only the flag is read from its file, and nothing else of the workspace has to be in order.
        """
        self._allow("kill")
        name, flag = (
            (experiment, self._flag_name(experiment))
            if isinstance(experiment, str)
            else (experiment.name, experiment.flag)
        )
        now = self.clock()
        receipt = self.flags.kill(FlagRef(flag, self.environment), now=now)
        facts = {
            "experiment": name,
            "flag": flag,
            "environment": self.environment,
            "actor": self.actor,
            "receipt": receipt,
        }
        try:
            self._record("kill", facts)
        except (LedgerError, OSError):
            with suppress(OSError):  # the kill is done; where nothing can be written, its receipt is all there is
                self._spool.parent.mkdir(parents=True, exist_ok=True)
                with self._spool.open("a", encoding="utf-8") as file:
                    file.write(canonical_json({"happened_at": now, "body": facts}) + "\n")
        return receipt

    def _flag_name(self, name: str) -> str:
        if name not in self.experiments:
            raise NameNotFoundError("experiment", name, self.experiments)
        table = read_toml(self.root / "experiments" / f"{name}.toml", "experiment file").get("experiment")
        if not isinstance(table, Mapping) or "flag" not in table:
            raise SpecError(f"experiments/{name}.toml names no flag under [experiment]; add `flag = …`.")
        return str(table["flag"])

    # --- the parts ------------------------------------------------------------------------------

    @property
    def _table(self) -> Environment:
        return self.config.environments[self.environment]

    def _allow(self, act: str) -> None:
        check_role(act, self.actor, self._table.roles, self.environment)

    def _facts(self, plan: RampPlan) -> dict[str, object]:
        """What every entry about a plan says."""
        return {
            "experiment": plan.experiment,
            "flag": plan.ref.flag,
            "environment": plan.ref.environment,
            "actor": self.actor,
            "plan_id": plan.id,
        }

    def _check_plan(self, plan: RampPlan) -> None:
        if plan.ref.environment != self.environment:
            raise FlagError(
                f"the plan is for {plan.ref.environment}, the workspace is open in {self.environment}. Open it in that environment."
            )
        if plan.verb == "restore":
            self._check_restore(plan)
        elif self._planned_on_killed(plan):
            raise FlagError(
                f"flag {plan.ref.flag!r} was killed; only `expnb restore` switches it on again. Nothing was pushed."
            )
        elif plan.verb == "start":
            self._check_start(plan)
        elif plan.raises_treated:
            self._check_evidence(plan)
        if plan.raises_treated:
            self._check_owner(plan)
            check_approvals(self.ledger, plan, self._table.approvals)

    def _planned_on_killed(self, plan: RampPlan) -> bool:
        """Whether the plan starts from a killed flag; one that was killed since is a conflict."""
        state = self.flags.read(plan.ref)
        return not state.enabled and state.version == plan.base_version

    def _check_owner(self, plan: RampPlan) -> None:
        """One experiment at a time opens a flag: what another one learns there would not be its own."""
        state = self.flags.read(plan.ref)
        pushed = [entry for entry in self._entries("outcome", plan.ref) if entry.body["applied"]]
        other = str(pushed[-1].body["experiment"]) if pushed else plan.experiment
        if other != plan.experiment and (state.exposure.treated or state.exposure.serve):
            raise FlagError(
                f"flag {plan.ref.flag!r} is open in {plan.ref.environment} for the experiment {other!r}; one experiment at a time moves it. Nothing was pushed. Give {plan.experiment!r} a flag of its own, or close that ramp first: `expnb rollback {other}`."
            )

    def _check_start(self, plan: RampPlan) -> None:
        """The first rung of what was registered, on a flag that was never open."""
        experiment = self.experiment(plan.experiment)
        own = self._own(experiment.name)
        registered = newest_registration(own)
        if registered is None or registered.body["spec_hash"] != experiment.spec_hash:
            raise FlagError(
                f"the specification of {experiment.name!r} is not registered as it stands now; what is tested is agreed before anybody is exposed. Nothing was pushed. Register it: `expnb register {experiment.name}`."
            )
        opened = [_recorded(Receipt, body) for body in self._receipts(plan.ref)]
        states = [state for receipt in opened for state in (receipt.before, receipt.after) if state]
        if plan.before.treated or any(state.exposure.treated or state.exposure.serve for state in states):
            raise FlagError(
                f"flag {plan.ref.flag!r} was open in {plan.ref.environment} before; the first rung is where nobody was exposed yet. Nothing was pushed. Decide on the data, or go back to an audited state: `expnb restore {experiment.name}`."
            )
        missing = self._agreement(experiment, own, None).missing
        if missing:
            raise FlagError(f"{missing[0]} Nothing was pushed.")
        newest = next((entry for entry in reversed(own) if entry.kind == "decision"), None)
        if newest and newest.body["action"] == "roll_back":
            raise FlagError(
                f"the newest decision on {experiment.name!r} is to roll back; nobody is exposed on that. Nothing was pushed. Decide again on newer data."
            )
        first = replace(plan.before, enrolled=experiment.policy.percents[0])
        if plan.before.serve or (plan.after, plan.policy_hash) != (first, experiment.policy_hash):
            raise FlagError(
                f"the plan ({plan.after}) is not the first rung of {experiment.name!r} as it stands now, {experiment.policy.percents[0]:g} %. Nothing was pushed. Plan again: ws.start(exp)."
            )

    def _check_restore(self, plan: RampPlan) -> None:
        """Only a state that a receipt shows may come back."""
        known = [_recorded(Receipt, body).before for body in self._receipts(plan.ref)]
        if not any(state is not None and state.exposure == plan.after for state in known):
            raise FlagError(
                f"no receipt of flag {plan.ref.flag!r} shows '{plan.after}'; only an audited state can be restored."
            )

    def _check_evidence(self, plan: RampPlan) -> None:
        """More exposure needs a recorded decision of this environment, and data that carried no step yet."""
        recorded = self._decisions(plan.experiment)
        decision = next((one for evidence, one in recorded if evidence == plan.evidence_hash), None)
        if decision is None:
            raise FlagError(
                f"the decision behind this plan for {plan.experiment!r} is not in the ledger. Nothing was pushed. Decide through the workspace: ws.decide(exp, posterior)."
            )
        check_evidence(plan, decision, recorded[-1][1], self.experiment(plan.experiment).policy_hash)
        last = self._last_step(plan.ref, recorded)
        if last and last.fingerprint == decision.fingerprint:
            raise FlagError(
                f"these data already carried a step of flag {plan.ref.flag!r}; the next one needs data that were taken there. Nothing was pushed. Decide again on newer data."
            )

    def _last_step(self, ref: FlagRef, recorded: Sequence[tuple[str, Decision]]) -> Decision | None:
        """The decision behind the last step up that was pushed."""
        pushed = {entry.body["intent"] for entry in self._entries("outcome", ref) if entry.body["applied"]}
        plans = [
            _recorded(RampPlan, entry.body["plan"]) for entry in self._entries("intent", ref) if entry.seq in pushed
        ]
        decided = dict(recorded)
        steps = [decided.get(plan.evidence_hash) for plan in plans if plan.raises_treated]
        return next((decision for decision in reversed(steps) if decision), None)

    def _decisions(self, experiment: str) -> list[tuple[str, Decision]]:
        """Recorded decisions of this environment with their evidence hashes, oldest first."""
        entries = self.ledger.entries(kind="decision", experiment=experiment)
        return [
            (str(entry.body["evidence_hash"]), _recorded(Decision, entry.body["decision"]))
            for entry in entries
            if entry.body.get("environment") == self.environment
        ]

    def _entries(self, kind: EntryKind, ref: FlagRef) -> list[Entry]:
        entries = self.ledger.entries(kind=kind, flag=ref.flag)
        return [entry for entry in entries if entry.body.get("environment") == ref.environment]

    def _receipts(self, ref: FlagRef) -> list[Json]:
        """Recorded receipts of a flag, oldest first."""
        entries = [entry for entry in self.ledger.entries(flag=ref.flag) if entry.body.get("receipt")]
        return [entry.body["receipt"] for entry in entries if entry.body.get("environment") == ref.environment]

    def _resolve(self, ref: FlagRef) -> None:
        """Close intents without an outcome, as a crash leaves them, by reading the flag; never by a second push."""
        closed = {entry.body["intent"] for entry in self._entries("outcome", ref)}
        for entry in self._entries("intent", ref):
            # A younger one may still be on its way in another process.
            if entry.seq in closed or self.clock() - entry.recorded_at < IN_FLIGHT:
                continue
            plan, state = _recorded(RampPlan, entry.body["plan"]), self.flags.read(ref)
            facts = self._facts(plan) | {"intent": entry.seq, "resolved_by_reading": state}
            if state.version != plan.base_version and state.exposure == plan.after:
                before = replace(state, exposure=plan.before, version=plan.base_version)
                receipt = Receipt(
                    ref, plan.verb, before, state, state.changed_at, self._table.flags, "resolved by reading"
                )
                self._record("outcome", facts | {"applied": True, "receipt": receipt})
            else:  # somebody moved the flag since: whether this push was there in between cannot be known
                self._record("outcome", facts | {"applied": False if state.version == plan.base_version else None})

    def _registered_metrics(self, experiment: Experiment) -> Registered:
        """Version and definition of the metrics at the newest registration; empty without one."""
        entry = self._last("registered", experiment.name)
        return cast("Registered", entry.body.get("metrics", {})) if entry else {}

    def _own(self, experiment: str) -> list[Entry]:
        """What the ledger has of an experiment, as far as it holds in this environment; oldest first."""
        entries = self.ledger.entries(experiment=experiment)
        return [entry for entry in entries if entry.body.get("environment", self.environment) == self.environment]

    def _agreement(self, experiment: Experiment, own: Sequence[Entry], first_day: date | None) -> Agreement:
        return agreement(experiment, own, first_day=first_day, approvals=bool(self._table.approvals))

    def _last(self, kind: EntryKind, experiment: str) -> Entry | None:
        entries = self.ledger.entries(kind=kind, experiment=experiment)
        return entries[-1] if entries else None

    def _record(self, kind: EntryKind, body: Mapping[str, object]) -> Entry:
        now = self.clock()
        self._flush_spool(now)
        return self.ledger.append(kind, body, happened_at=now, recorded_at=now)

    def _remembered(self) -> list[str]:
        """Names of experiments of which there is a file, a cache or a report."""
        folders = [path for kind in CACHES for path in (self.root / ".expnb" / kind).glob("*") if path.is_dir()]
        reports = [match[1] for path in self._reports() if (match := REPORT.fullmatch(path.name))]
        return sorted({*self.experiments, *(path.name for path in folders), *reports})

    def _reports(self) -> list[Path]:
        return sorted((self.root / "reports").glob("*"))

    def _forget(self, name: str, before: datetime | None, *, reports: bool) -> Forgotten:
        counts = {kind: _delete(_cached(self.root, kind, name, before=before)) for kind in CACHES}
        if reports:
            own = [path for path in self._reports() if (match := REPORT.fullmatch(path.name)) and match[1] == name]
            counts["reports"] = _delete(_older(own, before))
        return Forgotten(experiment=name, **counts)

    @property
    def _spool(self) -> Path:
        """Kills that could not be recorded when they happened."""
        return self.root / ".expnb" / "unrecorded.jsonl"

    def _flush_spool(self, now: datetime) -> None:
        if not self._spool.is_file():
            return
        recorded = {(entry.happened_at, canonical_json(entry.body)) for entry in self.ledger.entries(kind="kill")}
        for line in self._spool.read_text(encoding="utf-8").splitlines():
            try:
                spooled = json.loads(line)
                happened_at = datetime.fromisoformat(spooled["happened_at"])
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash while it was written; the kill itself was done
            if (happened_at, canonical_json(spooled["body"])) not in recorded:
                self.ledger.append("kill", spooled["body"], happened_at=happened_at, recorded_at=now)
        self._spool.unlink()

    def _keep(self, posterior: Posterior) -> str:
        """Name of the file with the cells behind a posterior; empty where there are none, or they cannot be kept."""
        if posterior.cells is None:
            return ""
        try:
            return keep_look(self.looks_folder / posterior.experiment, posterior.cells)
        except OSError as error:  # a decision, which may be a roll back, does not wait for a disk
            warnings.warn(
                f"the cells of this look could not be kept ({error.strerror}): the decision stands, and can be replayed from its source alone. Check {self.looks_folder}.",
                RuntimeWarning,
                stacklevel=3,
            )
            return ""

    def _write(self, decision: Decision) -> None:
        """What a reviewer reads in git, instead of notebook JSON."""
        folder = self.root / "decisions" / decision.experiment
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{decision.decided_at:%Y-%m-%d}"
        stem.with_suffix(".json").write_text(
            json.dumps(to_json(decision), indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        stem.with_suffix(".md").write_text(decision.markdown(), encoding="utf-8")


def _other_prior(experiment: Experiment, posterior: Posterior) -> Iterator[str]:
    """That the posterior was fitted under a prior of somebody's choice."""
    given, own = posterior.given_prior, experiment.prior_on(experiment.goal.name)
    if given is not None and given != own:
        yield f"The posterior was fitted under the prior {given.id} in place of the experiment's own, {own.id}, and nobody agreed to that. Fit without `prior=`, or write it into the file and register it."


def _what_holds(agreed: Experiment | None, posterior: Posterior) -> Iterator[tuple[Experiment, Posterior]]:
    """The specification that was agreed, as far as the data have its metrics, and its posterior."""
    from expnb.posterior.fit import fit_exact  # noqa: PLC0415 - only where something was changed

    cells = posterior.cells
    if agreed is None or cells is None or agreed.goal.name not in cells.metrics:
        return
    metrics = tuple(metric for metric in agreed.metrics if metric.name in cells.metrics)
    goal_rule = agreed.policy.goal_rule if sum(metric.role == "goal" for metric in metrics) > 1 else None
    held = replace(
        agreed,
        metrics=metrics,
        segments=tuple(name for name in agreed.segments if name in cells.segments),
        policy=replace(agreed.policy, goal_rule=goal_rule),
    )
    yield held, fit_exact(held, cells)


def _outlook(experiment: Experiment, posterior: Posterior, decision: Decision) -> Iterator[str]:
    """What more data are worth while the ramp goes on, and what so many looks mean."""
    from expnb.planning.looks import looks_in_words  # noqa: PLC0415 - scipy, which a push does not need
    from expnb.planning.waiting import value_of_waiting  # noqa: PLC0415

    if decision.action != "roll_back" and decision.to.enrolled and not decision.flag.exposure.serve:
        yield from value_of_waiting(
            experiment, posterior, enrolled=decision.to.enrolled, variant=decision.variant, dropped=decision.to.dropped
        ).sentences
    yield looks_in_words(experiment, posterior, decision.looks)


def _look_at(fingerprint: str, first: Entry, own: Iterable[Entry]) -> int:
    """Number of a look at data that were looked at before: that of the first one, and what was tried on them since."""
    tried = [entry for entry in own if entry.kind == "view"]
    return cast("int", first.body["look"]) + sum(entry.body["fingerprint"] == fingerprint for entry in tried)


def _looks(own: Iterable[Entry]) -> int:
    """Looks so far: at new data, or at other thresholds."""
    return sum(entry.kind in {"look", "view"} for entry in own)


def _effects(looks: Iterable[Entry], excluding: str) -> pd.DataFrame:
    """The effects of the newest look of every experiment but one."""
    newest = {str(entry.body["experiment"]): entry for entry in looks if "effects" in entry.body}
    return frame(
        (name, bool(entry.body["randomised"]), cast("list[dict[str, str | float]]", entry.body["effects"]))
        for name, entry in newest.items()
        if name != excluding
    )


def _changes(metrics: Iterable[Metric], registered: Registered) -> list[str]:
    """What happened to the definitions of metrics since they were registered."""
    return [change for metric in metrics for how in (new_version, silent_edit) if (change := how(metric, registered))]


def _cached(root: Path, *below: str, before: datetime | None) -> list[Path]:
    """Files of the caches of a workspace that were last written before a time; all of them without one."""
    kinds, inside = (below[:1], below[1:]) if below else (CACHES, ())
    folders = [Path(root, ".expnb", kind, *inside) for kind in kinds]
    return _older((path for folder in folders for path in sorted(folder.rglob("*"))), before)


def _older(paths: Iterable[Path], before: datetime | None) -> list[Path]:
    """Those of `paths` that are files and were last written before a time."""
    old = []
    for path in paths:
        with suppress(FileNotFoundError):  # another process was faster
            if not path.is_dir() and (before is None or path.lstat().st_mtime < before.timestamp()):
                old.append(path)
    return old


def _delete(files: Sequence[Path]) -> int:
    """How many files were deleted; those that could not be are told."""
    left = []
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            left.append(f"{path.name} ({error.strerror})")
    if left:
        warnings.warn(
            f"{len(left)} old files could not be deleted, such as {left[0]}. Delete them by hand: they are kept longer than expnb.toml says, or were to be forgotten.",
            RuntimeWarning,
            stacklevel=3,
        )
    return len(files) - len(left)
