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

from expnb.cohorts.looks import keep_look, read_look
from expnb.decisions.decide import decide
from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan, plan_change, plan_ramp
from expnb.decisions.rules import was_judged
from expnb.errors import (
    ExpnbError,
    FlagError,
    LedgerError,
    NameNotFoundError,
    PathNotFoundError,
    PlanVoidError,
    SpecError,
    SpecFileError,
)
from expnb.flags.address import connect
from expnb.flags.base import FlagBackend, Receipt, describe
from expnb.ledger.agreement import Agreement, agreement, loosened_since, newest_registration, to_agree
from expnb.ledger.approvals import check_role
from expnb.ledger.ledger import Entry, EntryKind, Ledger
from expnb.ledger.notify import Notifier
from expnb.ledger.reading import decisions, entries_of, entries_on, last_step, receipts
from expnb.ledger.recorded import recorded as _recorded
from expnb.ledger.recorder import Recorder
from expnb.ledger.requests import ChangeRequest
from expnb.posterior.posterior import Posterior
from expnb.posterior.priors.learn import LEAST
from expnb.posterior.priors.past import frame, learnt_or_default, records, with_priors
from expnb.pushing.checks import check_start
from expnb.pushing.control import IN_FLIGHT, ChangeControl
from expnb.pushing.kill import CONFIG, SPOOL, break_glass, flag_name
from expnb.spec.canonical import Json, digest, to_json
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
    from expnb.stats.cells import Cells

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
    places = {other: _place(root, table.flags, other) for other, table in config.environments.items()}
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


def _place(root: Path, flags: str, environment: str) -> str:
    """Where the flags of an environment are: a file, whatever way its path is written; elsewhere an environment of the server."""
    scheme, _, rest = flags.partition(":")
    if scheme == "flagd":
        return f"{scheme}:{(root / rest.removeprefix('//')).resolve()}"
    return flags if "environment=" in flags else f"{flags} {environment}"


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
        experiment = replace(
            experiment, timezone=self.config.timezone, min_cell=defaults.min_cell, holdout=defaults.holdout
        )
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
        mark = self._source_mark(asked) if own else ""
        cohort = load_cohort(
            asked,
            self.source(asked) if own else source,
            events=self._events(asked),
            as_of=as_of,
            cache=self.cells_folder if own else None,
        )
        self._marks[cohort.cells.fingerprint] = mark  # before the reading: a file that changes meanwhile is another one
        return cohort

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
        return _effects(self.ledger.newest("look"), excluding)

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
        pinned = self._pinned(experiment)
        new = [metric for metric in experiment.metrics if metric.name not in pinned]
        looks = self.ledger.newest("look") if new else []
        if not new or len(looks) < LEAST:
            return pinned
        past = _effects(looks, experiment.name)
        return {**pinned, **{metric.name: learnt_or_default(past, metric.name, metric.kind) for metric in new}}

    def _pinned(self, experiment: Experiment) -> Mapping[str, Prior]:
        """The priors of the newest registration or look; empty before both."""
        known = [self.ledger.last(kind=kind, experiment=experiment.name) for kind in ("look", "registered")]
        newest = max((entry for entry in known if entry), key=lambda entry: entry.seq, default=None)
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
        entries = entries_of(self.ledger, experiment.name, self.environment)
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
        registered = to_agree(experiment, entries_of(self.ledger, experiment.name, self.environment), self.actor)
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
        self._allow("forget")
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
        return connect(self._table.flags, root=self.root, environment=self.environment, token=self._table.token)

    @cached_property
    def ledger(self) -> Ledger:
        """The record of what was decided and done."""
        url, connection = self.config.ledger.url, self.config.ledger.connection
        if connection:
            return Ledger(connection=connection)
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
        self._allow("create")
        spec = FlagSpec(self.ref(experiment), experiment.weights, experiment.control, experiment.eligibility)
        return self.flags.create(spec)

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
        own = entries_of(self.ledger, experiment.name, self.environment)
        seen = {entry.body["fingerprint"]: entry for entry in own if entry.kind == "look"}
        is_new = posterior.fingerprint not in seen
        look = _looks(own) + 1 if is_new else _look_at(posterior.fingerprint, seen[posterior.fingerprint], own)
        agreed = self._agreement(experiment, own, posterior.first_day)
        recorded = decisions(own)
        before = last_step(entries_on(self.ledger, self.ref(experiment)), recorded)
        agreed_on = [(past, one) for past, one in recorded if not any(rule.name == "agreement" for rule in one.rules)]
        others = [(past, one) for past, one in reversed(agreed_on) if one.fingerprint != posterior.fingerprint]
        judged_in, judged = next(((past, one) for past, one in others if was_judged(one)), (None, None))
        state = self.flag(experiment)
        unagreed = (*agreed.missing, *_other_prior(experiment, posterior), *_other_audience(experiment, state))
        ask = partial(
            decide,
            flag=state,
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
        if not recorded or recorded[-1][0].body["evidence_hash"] != decision.evidence_hash:
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
                    "judged": judged_in.body["evidence_hash"] if judged_in else "",
                    "source": self._marks.get(posterior.fingerprint) or self._source_mark(experiment),
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
        own = entries_of(self.ledger, experiment.name, self.environment)
        tried = replace(experiment, policy=policy)
        facts = {"fingerprint": posterior.fingerprint, "policy_hash": tried.policy_hash}
        looked = [entry for entry in own if entry.kind == "look"]
        known = [entry for entry in own if entry.kind == "view" and facts.items() <= entry.body.items()]
        if looked and not known and tried.policy_hash != self.experiment(experiment.name).policy_hash:
            view = {"experiment": experiment.name, "environment": self.environment, "actor": self.actor, **facts}
            own.append(self._record("view", view))
        recorded = decisions(own)
        before = last_step(entries_on(self.ledger, self.ref(experiment)), recorded)
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
            "start",
            experiment,
            state,
            replace(state.exposure, enrolled=first),
            reason=reason,
            now=self.clock(),
            valid_for=timedelta(hours=self._table.max_age_hours),
        )
        own = entries_of(self.ledger, experiment.name, self.environment)
        check_start(entries_on(self.ledger, state.ref), own, plan, experiment, approvals=bool(self._table.approvals))
        return plan

    def plan(self, decision: Decision, *, to: float | None = None) -> RampPlan:
        """The change of the flag that a decision asks for, or a smaller one (percent enrolled)."""
        valid_for = timedelta(hours=self._table.max_age_hours)
        return plan_ramp(self.experiment(decision.experiment), decision, now=self.clock(), to=to, valid_for=valid_for)

    # --- pushing ----------------------------------------------------------------------------------

    @cached_property
    def control(self) -> ChangeControl:
        """Requests, approvals, pushes and kills in this environment, in the name of the actor."""
        told = self.config.notify
        return ChangeControl(
            flags=self.flags,
            recorder=self._recorder,
            table=self._table,
            environment=self.environment,
            actor=self.actor,
            experiment=self.experiment,
            retake=self._retake,
            notifier=Notifier(told.webhook, told.on),
        )

    def approvals_needed(self, plan: RampPlan) -> int:
        """How many others must agree; lowering exposure never needs anybody."""
        return self.control.approvals_needed(plan)

    def approvals(self, plan: RampPlan) -> list[str]:
        """Who has agreed to exactly this plan."""
        return self.control.approvals(plan)

    def request(self, plan: RampPlan) -> Entry:
        """Ask others to agree to a plan; where the backend has approvals of its own, also there."""
        return self.control.request(plan)

    def requests(self) -> list[ChangeRequest]:
        """What others were asked to agree to and can still be pushed, oldest first, with their answers."""
        return self.control.requests()

    def approve(self, plan: RampPlan, *, comment: str = "") -> Entry:
        """Agree to a plan that somebody else requested.

        Raises
        ------
        ApprovalError
            If nobody requested it, the approver is its author or anonymous, or lacks the role.
        """
        return self.control.approve(plan, comment=comment)

    def decline(self, plan: RampPlan, *, reason: str) -> Entry:
        """Stop a plan that was requested; it cannot be pushed any more."""
        return self.control.decline(plan, reason=reason)

    def comment(self, plan: RampPlan, text: str) -> Entry:
        """Say something about a plan that was requested; kept with it."""
        return self.control.comment(plan, text)

    def preview(self, plan: RampPlan) -> str:
        """What `apply` would write, as a diff, after the same checks; nothing is changed or recorded."""
        return self.control.preview(plan)

    def apply(self, plan: RampPlan) -> Receipt:
        """Push a plan: intent, push, read back, evaluate sample units, outcome.

        Raises
        ------
        ApprovalError, PlanVoidError, FlagError, LedgerError
            Before the push; the flag is unchanged.
        PushUncertainError
            After the push, when its answer was lost, or the flag does not serve what was asked for.
        """
        return self.control.apply(plan)

    def roll_back(self, experiment: Experiment, *, reason: str) -> Receipt:
        """Close the gate now; needs no decision and no approval, but a reason."""
        return self.control.roll_back(experiment, reason=reason)

    def last_receipt(self, experiment: Experiment) -> Receipt:
        """The receipt of the last change of the experiment's flag.

        Raises
        ------
        FlagError
            If the ledger knows none.
        """
        return self.control.last_receipt(experiment)

    def plan_restore(self, receipt: Receipt) -> RampPlan:
        """The way back to the state before a receipt, such as after a roll back that was a mistake.

        Raises
        ------
        FlagError
            If the receipt is not in the ledger, or the state before it was never known.
        """
        return self.control.plan_restore(receipt)

    def restore(self, receipt: Receipt) -> Receipt:
        """Return the flag to the state before a receipt; more exposure than now may need approval, as any plan."""
        return self.apply(self.plan_restore(receipt))

    def kill(self, experiment: Experiment | str, *, reason: str = "") -> Receipt:
        """Close the gate and disable the flag, at once; needs no plan, no approval, no fresh data and no ledger.

        Parameters
        ----------
        experiment : Experiment or str
            Or its name: then only the flag is read from its file, and nothing else of the workspace has to be in order.
        reason : str
            May follow later: `explain_kill`.
        """
        name = experiment if isinstance(experiment, str) else experiment.name
        flag = flag_name(self.root, name) if isinstance(experiment, str) else experiment.flag
        try:
            control = self.control
        except LedgerError:  # an address that is none must not stand before a kill
            return break_glass(
                self.root,
                name,
                environment=self.environment,
                actor=self.actor,
                now=self.clock(),
                flag=flag,
                reason=reason,
            )
        return control.kill(name, flag, reason=reason)

    def explain_kill(self, experiment: Experiment | str, reason: str) -> list[Entry]:
        """Say afterwards why a flag was killed."""
        flag = flag_name(self.root, experiment) if isinstance(experiment, str) else experiment.flag
        return self.control.explain_kill(flag, reason)

    def moved_outside(self, ref: FlagRef) -> str:
        """A sentence where a flag is not as the ledger's last word on it says; empty where it is, or where there is none."""
        made, state = receipts(entries_on(self.ledger, ref)), self.flags.read(ref)
        if not made or any(one.after.version == state.version for one in made[-2:]):
            return ""
        return f"not what the ledger says: {made[-1].verb} at {made[-1].applied_at:%Y-%m-%d %H:%M} UTC left {describe(made[-1].after)}; somebody changed it outside expnb"

    def receipt(self, seq: int) -> Receipt:
        """The receipt of a ledger entry, to go back to the state before it.

        Raises
        ------
        FlagError
            If the entry holds none.
        """
        found = [entry for entry in self.ledger.entries() if entry.seq == seq and entry.body.get("receipt")]
        if not found:
            raise FlagError(
                f"ledger entry {seq} holds no receipt of a change; `expnb ledger list` shows those that do."
            )
        return _recorded(Receipt, found[0].body["receipt"])

    def settle(self) -> list[Entry]:
        """Outcomes of pushes that a crash or a lost answer left open, found by reading their flags."""
        return self.control.settle()

    def open_matters(self) -> list[str]:
        """What waits for somebody: pushes without an outcome, kills without a reason."""
        lost = [
            f"The push of flag {entry.body['flag']!r} by {entry.body['actor']} at {entry.recorded_at:%Y-%m-%d %H:%M} UTC has no outcome. It is settled from the flag, never pushed again: ws.settle(), or `expnb settle`. Runbook: open-intent."
            for entry in self.control.unsettled()
            if self.clock() - entry.recorded_at >= IN_FLIGHT
        ]
        kills = [
            f"Flag {entry.body['flag']!r} was killed by {entry.body['actor']} at {entry.happened_at:%Y-%m-%d %H:%M} UTC, and nobody said why: `expnb explain {entry.body['experiment']} --reason …`."
            for entry in self.control.unexplained_kills()
        ]
        return [*lost, *kills]

    # --- the parts ------------------------------------------------------------------------------

    @property
    def _table(self) -> Environment:
        return self.config.environments[self.environment]

    def _allow(self, act: str) -> None:
        check_role(act, self.actor, self._table.roles, self.environment)

    @cached_property
    def _recorder(self) -> Recorder:
        return Recorder(self.ledger, self.clock, self.root / SPOOL)

    def _retake(self, entry: Entry, decision: Decision, state: FlagState) -> Decision:
        """A recorded decision taken again: on its data as they are now, at this time.

        Raises
        ------
        PlanVoidError
            If the specification is another one by now, or the data of the decision are gone or changed.
        """
        facts = cast("dict[str, Json]", entry.body.get("replay", {}))
        if not facts:  # of an older expnb: the record is all there is
            return decision
        experiment = self.experiment(decision.experiment)
        planned = f"{decision.action} {decision.variant}".strip()
        if _recorded(Experiment, facts["spec"]).spec_hash != experiment.spec_hash:
            why = "Its specification is not the one that was decided with."
            raise PlanVoidError(decision.flag.ref.flag, planned, "that the experiment was changed", why)
        cells = self._cells_of_now(experiment, facts)
        if cells is None:
            why = "The cells that it was taken on are gone or were changed."
            raise PlanVoidError(decision.flag.ref.flag, planned, "that its data are not there", why)
        from expnb.posterior.fit import fit_exact  # noqa: PLC0415 - scipy, which lowering does not need

        prior = None if facts["prior"] is None else _recorded(Prior, facts["prior"])
        own = entries_of(self.ledger, experiment.name, self.environment)
        judged = next((one for past, one in decisions(own) if past.body["evidence_hash"] == facts["judged"]), None)
        # As it was asked then: the look that this decision is itself was not there yet.
        without_look = [
            one
            for one in own
            if one.seq != entry.seq and (one.kind != "look" or one.body["fingerprint"] != decision.fingerprint)
        ]
        posterior = fit_exact(experiment, cells, prior=prior) if prior is not None else fit_exact(experiment, cells)
        return decide(
            experiment,
            posterior,
            flag=state,
            looks=decision.looks,
            now=self.clock(),
            before=cast("Mapping[str, int] | None", facts["before"]),
            judged=judged,
            unagreed=(
                *self._agreement(experiment, without_look, posterior.first_day).missing,
                *_other_prior(experiment, posterior),
                *_other_audience(experiment, state),
            ),
        )

    def _cells_of_now(self, experiment: Experiment, facts: Mapping[str, Json]) -> Cells | None:
        """The cells that were kept of a look; where the experiment's own data may have changed since, its cells as they are now."""
        by_hand = not experiment.source and not experiment.connection
        if by_hand or (facts["cells"] and facts.get("source") and facts["source"] == self._source_mark(experiment)):
            return read_look(self.looks_folder / experiment.name, str(facts["cells"])) if facts["cells"] else None
        return self.load(experiment).cells

    def _source_mark(self, experiment: Experiment) -> str:
        """A text that changes with the experiment's own files; empty where they are not files."""
        sources = [experiment.source, experiment.events.source if experiment.events else ""]
        if experiment.connection or not experiment.source:
            return ""
        seen = [(path, path.stat()) for source in filter(None, sources) for path in self._files(source)]
        return digest([[str(path), one.st_size, one.st_mtime_ns] for path, one in seen])

    def _files(self, pattern: str) -> list[Path]:
        folder, below = (Path("/"), pattern[1:]) if pattern.startswith("/") else (self.root, pattern)
        return sorted(folder.glob(below))

    @cached_property
    def _marks(self) -> dict[str, str]:
        """Marks of the sources as they were when cells were loaded from them, by fingerprint."""
        return {}

    def _registered_metrics(self, experiment: Experiment) -> Registered:
        """Version and definition of the metrics at the newest registration; empty without one."""
        entry = self.ledger.last(kind="registered", experiment=experiment.name)
        return cast("Registered", entry.body.get("metrics", {})) if entry else {}

    def _agreement(self, experiment: Experiment, own: Sequence[Entry], first_day: date | None) -> Agreement:
        return agreement(experiment, own, first_day=first_day, approvals=bool(self._table.approvals))

    def _record(self, kind: EntryKind, body: Mapping[str, object]) -> Entry:
        return self._recorder.record(kind, body)

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


def _other_audience(experiment: Experiment, state: FlagState) -> Iterator[str]:
    """That the flag lets in others than the experiment says; a holdout may have grown since."""
    own, flag = (replace(who, holdout=0.0) for who in (experiment.eligibility, state.exposure.eligibility))
    if own != flag:
        yield f"The flag lets in {flag}, the experiment says {own}; the data are of other units than the flag serves. Write into the file what the flag has."


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
