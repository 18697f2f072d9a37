"""From a posterior and the state of the flag to one decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from expnb.decisions.decision import Action, Decision, Rule
from expnb.decisions.rules import (
    days_rule,
    flat_rule,
    goal_and_guardrails,
    guardrail_rule,
    harm_rule,
    quality_rules,
    sample_ratio_check,
    sample_ratio_rule,
    ship_rules,
    units_rule,
    used_data_rule,
)
from expnb.errors import SpecError
from expnb.posterior.effect import Effect
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import Experiment
from expnb.spec.flag import Exposure, FlagState
from expnb.stats.checks import Check


def decide(
    experiment: Experiment, posterior: Posterior, *, flag: FlagState, looks: int, now: datetime, carried: bool = False
) -> Decision:
    """The action that the policy takes on this posterior; pure.

    Parameters
    ----------
    experiment : Experiment
    posterior : Posterior
        Of this experiment.
    flag : FlagState
        As it is now; its real weights are used for the sample ratio, unless the experiment names epochs.
    looks : int
        Looks so far, this one included; 1 for the first.
    now : datetime
        With a time zone.
    carried : bool
        Whether a step up was pushed on these very data: one set of data carries one step.

    Returns
    -------
    Decision

    Raises
    ------
    SpecError
        If posterior or flag belong to something else, `looks` is below 1, or `now` has no time zone.
    """
    _check(experiment, posterior, flag, looks, now)
    effects = goal_and_guardrails(experiment, posterior)
    best = _best_treatment(experiment, effects)
    ratio = sample_ratio_check(experiment, posterior, flag.exposure.weights)
    rules = _ask(experiment, posterior, effects, best, flag, ratio, looks, now)
    if carried:
        rules.append(used_data_rule(posterior))
    action, reasons = _act(experiment, rules, flag)
    to = _exposure(experiment, action, best.variant, flag)
    if action == "hold" and _held_too_long(experiment, flag, now):
        to = replace(flag.exposure, enrolled=experiment.policy.previous_rung(flag.exposure.enrolled))
        reasons = [
            *reasons,
            f"The flag has held at {flag.exposure.enrolled:g} % for over {experiment.policy.max_hold_days} days; one rung down is proposed.",
        ]
    return Decision(
        experiment=experiment.name,
        action=action,
        variant=best.variant,
        reasons=tuple(reasons),
        rules=tuple(rules),
        notes=tuple(_notes(posterior, effects, ratio, reasons)),
        flag=flag,
        to=to,
        looks=looks,
        prior=posterior.prior,
        engine=posterior.engine,
        seed=posterior.seed,
        fingerprint=posterior.fingerprint,
        first_day=posterior.first_day,
        watermark=posterior.last_day,
        versions=posterior.versions,
        policy_hash=experiment.policy_hash,
        decided_at=now.astimezone(UTC),
    )


def _check(experiment: Experiment, posterior: Posterior, flag: FlagState, looks: int, now: datetime) -> None:
    if posterior.experiment != experiment.name:
        raise SpecError(
            f"the posterior belongs to {posterior.experiment!r}, the experiment is {experiment.name!r}. Fit this experiment's cohort."
        )
    if flag.ref.flag != experiment.flag:
        raise SpecError(f"the flag is {flag.ref.flag!r}, the experiment names {experiment.flag!r}. Read that flag.")
    if set(flag.exposure.weights) != set(experiment.weights) or flag.exposure.control != experiment.control:
        raise SpecError(
            f"flag {flag.ref.flag!r} has the arms {list(flag.exposure.weights)} with control {flag.exposure.control!r}, the experiment {list(experiment.weights)} with {experiment.control!r}. Correct one of them."
        )
    if looks < 1:
        raise SpecError(f"looks is {looks}; the first look has number 1.")
    if now.tzinfo is None:
        raise SpecError("now has no time zone; write datetime.now(timezone.utc).")


def _best_treatment(experiment: Experiment, effects: Iterable[Effect]) -> Effect:
    """The goal's effect that is most likely the best arm; the first treatment where nothing is known."""
    goals = [effect for effect in effects if effect.metric == experiment.goal.name]
    return max(goals, key=lambda effect: -1.0 if effect.p_best is None else effect.p_best)


def _ask(
    experiment: Experiment,
    posterior: Posterior,
    effects: Sequence[Effect],
    best: Effect,
    flag: FlagState,
    ratio: Check | None,
    looks: int,
    now: datetime,
) -> list[Rule]:
    policy = experiment.policy
    goals = [effect for effect in effects if effect.role == "goal"]
    guardrails = [effect for effect in effects if effect.role == "guardrail"]
    return [
        *(harm_rule(effect, policy, looks) for effect in effects),
        sample_ratio_rule(ratio),
        units_rule(posterior.counts, effects, policy, min_cell=experiment.min_cell),
        *quality_rules(posterior.checks),
        *(guardrail_rule(effect, policy, flag.exposure.enrolled) for effect in guardrails),
        days_rule(posterior, policy, now),
        *(flat_rule(effect, policy) for effect in goals),
        *ship_rules(best, policy),
    ]


def _act(experiment: Experiment, rules: Sequence[Rule], flag: FlagState) -> tuple[Action, list[str]]:
    """The first action, from the top of the precedence, whose conditions hold; with the sentences that carry it."""
    harmed = _failing(rules, "harm", outcomes=("not met",))
    if harmed:
        return "roll_back", _sentences(harmed)
    if not flag.enabled:
        return "hold", [f"Flag {flag.ref.flag} was killed; restore it before it can move."]
    if flag.exposure.serve:
        return "hold", [f"Flag {flag.ref.flag} {flag.exposure}; the ramp is over."]
    blocked = _failing(rules, "harm", "new_data", "sample_ratio", "quality", "min_units", "guardrail")
    if blocked:
        return "hold", _sentences(blocked)
    verdict = _verdict(experiment, rules, flag)
    if verdict:
        return verdict
    rung = experiment.policy.next_rung(flag.exposure.enrolled)
    if rung is None:
        return "hold", [
            "The last rung is reached and the goal has no verdict yet.",
            *_sentences(_failing(rules, "min_days", "ship_above_rope", "ship_expected_loss", "ship_above_margin")),
        ]
    allowed = _sentences(rule for rule in rules if rule.name in {"min_units", "guardrail"})
    return "ramp_up", [
        f"Nothing speaks against the next rung, {rung:g} % enrolled.",
        *_sentences(rule for rule in rules if rule.name.startswith("ship_above")),
        *allowed,
    ]


def _verdict(experiment: Experiment, rules: Sequence[Rule], flag: FlagState) -> tuple[Action, list[str]] | None:
    """A verdict on the goal, when enough days are in: conclude flat, ship, or none yet."""
    if _failing(rules, "min_days"):
        return None
    flat = [rule for rule in rules if rule.name == "conclude_flat"]
    ship = [rule for rule in rules if rule.name.startswith("ship_")]
    learnt = flag.exposure.enrolled >= experiment.policy.learn_at
    no_worse = learnt and all(rule.outcome == "met" for rule in ship)
    # Under non-inferiority a flat effect ships, so it has to pass the ship rule too: the sceptical prior alone may not.
    if all(rule.outcome == "met" for rule in flat) and (experiment.policy.aim == "superiority" or no_worse):
        return "conclude_flat", _sentences(flat)
    if no_worse:
        return "ship", _sentences(ship)
    return None


def _exposure(experiment: Experiment, action: Action, variant: str, flag: FlagState) -> Exposure:
    """What the flag should serve after the action."""
    policy = experiment.policy
    if action == "ramp_up":
        rung = policy.next_rung(flag.exposure.enrolled)
        return flag.exposure if rung is None else replace(flag.exposure, enrolled=rung)
    if action == "roll_back":
        return replace(flag.exposure, enrolled=0.0, serve="", holdback=0.0)
    if action == "ship" or (action == "conclude_flat" and policy.aim == "non_inferiority"):
        return replace(flag.exposure, serve=variant, holdback=policy.holdback)
    if action == "conclude_flat":
        return replace(flag.exposure, serve=experiment.control, holdback=0.0)
    return flag.exposure


def _held_too_long(experiment: Experiment, flag: FlagState, now: datetime) -> bool:
    held = (now - flag.changed_at).days
    return (
        flag.enabled
        and not flag.exposure.serve
        and flag.exposure.enrolled > 0
        and held >= experiment.policy.max_hold_days > 0
    )


def _notes(posterior: Posterior, effects: Sequence[Effect], ratio: Check | None, reasons: Sequence[str]) -> list[str]:
    """Warnings of quality checks and notes of effects that are not reasons already."""
    warned = [check.sentence for check in posterior.checks if check.outcome != "ok" and check.name != "sample_ratio"]
    if ratio and ratio.outcome != "ok":
        warned.append(ratio.sentence)
    noted = [f"{effect.metric} under {effect.variant}: {effect.note}." for effect in effects if effect.note]
    return [note for note in (*warned, *noted) if note not in reasons]


def _failing(rules: Iterable[Rule], *names: str, outcomes: tuple[str, ...] = ("not met", "unknown")) -> list[Rule]:
    return [rule for rule in rules if rule.name in names and rule.outcome in outcomes]


def _sentences(rules: Iterable[Rule]) -> list[str]:
    return [rule.sentence for rule in rules]
