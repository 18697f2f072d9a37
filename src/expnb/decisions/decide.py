"""From a posterior and the state of the flag to one decision."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

from expnb.decisions.decision import PRECEDENCE, Action, Decision, Rule
from expnb.decisions.precedence import Conditions, first_action
from expnb.decisions.rules import (
    agreement_rule,
    as_served,
    days_at_rung,
    days_rule,
    flat_rule,
    fresh_rule,
    goal_and_guardrails,
    guardrail_rule,
    harm_rule,
    is_due,
    is_verdict,
    new_data_rule,
    quality_rules,
    rung_days_rule,
    sample_ratio_check,
    sample_ratio_rule,
    segment_rules,
    ship_rules,
    units_rule,
)
from expnb.errors import SpecError
from expnb.posterior.effect import Effect
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import Experiment
from expnb.spec.flag import Exposure, FlagState
from expnb.stats.checks import Check

_OF_SIZES = ("sample_ratio", "days")  # checks of how many units each arm has, by segment and day


def decide(
    experiment: Experiment,
    posterior: Posterior,
    *,
    flag: FlagState,
    looks: int,
    now: datetime,
    before: Mapping[str, int] | None = None,
    judged: Decision | None = None,
    unagreed: Sequence[str] = (),
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
    before : mapping of str to int, optional
        Units per arm in the data that carried the last step up; what came in since then came in at this rung.
    judged : Decision, optional
        The last one on other data in which the goal was judged; its verdict holds until `verdict_days` more are complete.
    unagreed : sequence of str
        What was loosened or registered late and nobody else has agreed to; exposure does not rise on it.

    Returns
    -------
    Decision

    Raises
    ------
    SpecError
        If posterior or flag belong to something else, `looks` is below 1, or `now` has no time zone.
    """
    _check(experiment, posterior, flag, looks, now)
    posterior = as_served(experiment, posterior, flag.exposure)
    days = posterior.days(now)
    served = {flag.exposure.serve} - {"", experiment.control} or set(flag.exposure.arms)
    effects = [effect for effect in goal_and_guardrails(experiment, posterior) if effect.variant in served]
    standing = judged if judged and not is_due(posterior, experiment.policy, now, judged) else None
    best = _best_treatment(experiment, effects, standing, flag)
    ratio = sample_ratio_check(experiment, posterior, flag.exposure)
    rules = _ask(experiment, posterior, effects, best, flag, ratio, now, before or {})
    rules += [agreement_rule(sentence) for sentence in unagreed]
    if standing:
        rules = [rule for rule in rules if not is_verdict(rule)]
        if standing.policy_hash == experiment.policy_hash:
            rules += [_dated(rule, standing) for rule in standing.rules if is_verdict(rule) and rule.variant in served]
    action, reasons = _act(experiment, rules, flag, best, {effect.variant for effect in effects})
    to = _exposure(experiment, action, best, flag, rules)
    if action == "hold" and _held_too_long(experiment, flag, now):
        to = replace(flag.exposure, enrolled=experiment.policy.previous_rung(flag.exposure.enrolled))
        held = experiment.policy.rung(flag.exposure.enrolled).max_hold_days
        reasons = [
            *reasons,
            f"The flag has held at {flag.exposure.enrolled:g} % for over {held:g} days; one rung down is proposed.",
        ]
    return Decision(
        experiment=experiment.name,
        action=action,
        variant=best,
        reasons=tuple(reasons),
        rules=tuple(rules),
        notes=(*_notes(posterior, effects, ratio, reasons, flag), *_stands(experiment, standing)),
        flag=flag,
        to=to,
        looks=looks,
        units={name: n if n >= experiment.min_cell else 0 for name, n in posterior.counts.items()},
        prior=posterior.prior,
        engine=posterior.engine,
        seed=posterior.seed,
        fingerprint=posterior.fingerprint,
        first_day=days[0] if days else None,
        watermark=days[1] if days else None,
        judged_on=standing.judged_on if standing else _judged_on(days, rules),
        versions=posterior.versions,
        policy_hash=experiment.policy_hash,
        decided_at=now.astimezone(UTC),
    )


def _check(experiment: Experiment, posterior: Posterior, flag: FlagState, looks: int, now: datetime) -> None:
    if posterior.experiment != experiment.name:
        raise SpecError(
            f"the posterior belongs to {posterior.experiment!r}, the experiment is {experiment.name!r}. Fit this experiment's cohort."
        )
    if posterior.asked and posterior.asked != experiment.asked_hash:
        raise SpecError(
            f"the posterior of {experiment.name!r} was fitted with other metrics, margins, arms, segments or another prior than the experiment has now. Load and fit again with this experiment."
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


def _best_treatment(
    experiment: Experiment, effects: Iterable[Effect], standing: Decision | None, flag: FlagState
) -> str:
    """The treatment that is most likely the best arm, or that a standing verdict is about; the first by name where nothing is known.

    Of several goals the weakest counts where all of them have to improve, the strongest where one is enough.
    P(best) is over all arms: where one was dropped, or is not known, the others are ranked by P(improvement) and by how large it is.
    """
    goals: dict[str, list[Effect]] = {}
    for effect in effects:
        if effect.role == "goal":
            goals.setdefault(effect.variant, []).append(effect)
    if standing and standing.variant in goals:
        return standing.variant
    overall = max if experiment.policy.goal_rule == "any" else min
    by_best = not flag.exposure.dropped and all(effect.p_best is not None for own in goals.values() for effect in own)

    def rank(variant: str) -> tuple[float, ...]:
        own = goals[variant]
        if by_best:
            return (overall(effect.p_best or 0.0 for effect in own),)
        return overall(_known(effect.p_improvement) for effect in own), overall(map(_gain, own))

    return max(sorted(goals), key=rank)


def _gain(effect: Effect) -> float:
    """How large an improvement is, on the scale that exists; the least where nothing is known."""
    mean = effect.effect_abs_post if effect.effect_rel_post is None else effect.effect_rel_post
    return _known(None if mean is None else mean if effect.direction == "increase" else -mean)


def _known(value: float | None) -> float:
    return -math.inf if value is None else value


def _ask(
    experiment: Experiment,
    posterior: Posterior,
    effects: Sequence[Effect],
    best: str,
    flag: FlagState,
    ratio: Check | None,
    now: datetime,
    before: Mapping[str, int],
) -> list[Rule]:
    policy, enrolled = experiment.policy, flag.exposure.enrolled
    goals = [effect for effect in effects if effect.role == "goal"]
    guardrails = [effect for effect in effects if effect.role == "guardrail"]
    metrics = len(experiment.goals)
    return [
        *(harm_rule(effect, experiment.harm_threshold) for effect in effects),
        sample_ratio_rule(ratio),
        *fresh_rule(experiment, posterior, now),
        *new_data_rule(posterior, before),
        units_rule(posterior, before, effects, policy.rung(enrolled), min_cell=experiment.min_cell),
        *quality_rules(posterior.checks),
        *(guardrail_rule(effect, policy, enrolled) for effect in guardrails),
        *segment_rules(experiment, posterior, {effect.variant for effect in effects}),
        rung_days_rule(policy.rung(enrolled), flag, now),
        days_rule(posterior, policy, now),
        *(flat_rule(effect, policy) for effect in goals),
        *(rule for effect in goals if effect.variant == best for rule in ship_rules(effect, policy, metrics)),
    ]


def _act(
    experiment: Experiment, rules: Sequence[Rule], flag: FlagState, best: str, served: Collection[str]
) -> tuple[Action, list[str]]:
    """The first action, from the top of the precedence, whose conditions hold; with the sentences that carry it."""
    policy, enrolled = experiment.policy, flag.exposure.enrolled
    harmed = _failing(rules, "harm", outcomes=("not met",))
    over = _over(flag)
    blocked = _failing(
        rules, "harm", "agreement", "fresh", "new_data", "sample_ratio", "quality", "min_units", "guardrail", "segment"
    )
    wary = [rule for rule in blocked if enrolled >= policy.learn_at and rule.variant not in {"", best}]
    wary = [rule for rule in wary if rule.name in {"harm", "guardrail", "segment"}]
    blocked = [rule for rule in blocked if rule not in wary]
    flat, is_flat = _flat(experiment, rules, served)
    ship, may_ship = _better(experiment, rules)
    rung = policy.next_rung(enrolled)
    waiting = _failing(rules, "rung_days")
    found = Conditions(
        harmed=bool(harmed),
        blocked=bool(over or blocked),
        wary=bool(wary),
        judged=not _failing(rules, "min_days"),
        flat=is_flat,
        better=may_ship,
        learnt=enrolled >= policy.learn_at,
        waited=not waiting,
        top=rung is None,
    )
    action = PRECEDENCE[int(first_action(policy, found))]
    if action == "roll_back":
        return action, _sentences(harmed)
    if action == "conclude_flat":
        return action, _sentences(flat)
    if action == "ship":
        return action, _sentences(ship)
    if action == "ramp_up":
        return action, [
            f"Nothing speaks against the next rung, {rung:g} % enrolled.",
            *_sentences(rule for rule in ship if rule.name.startswith("ship_above")),
            *_sentences(rule for rule in rules if rule.name in {"min_units", "guardrail"}),
        ]
    if over or blocked:
        return action, over or _sentences(blocked)
    if rung is not None:
        return action, _sentences([*wary, *waiting])
    return action, [
        "The last rung is reached and the goal has no verdict yet.",
        *_sentences(_failing(rules, "min_days", "ship_above_rope", "ship_expected_loss", "ship_above_margin")),
    ]


def _flat(experiment: Experiment, rules: Iterable[Rule], served: Collection[str]) -> tuple[list[Rule], bool]:
    """The rules that show that no treatment matters, or all of them while that is not shown; and whether it is.

    Where all goals have to improve, a treatment is out as soon as one of them is shown not to matter; not so under non-inferiority, where that ships it.
    """
    own = _by(rules, lambda rule: rule.name == "conclude_flat", lambda rule: rule.variant)
    one_is_enough = experiment.policy.goal_rule == "all" and experiment.policy.aim == "superiority"
    enough = any if one_is_enough else all
    shown = [enough(rule.outcome == "met" for rule in some) for some in own.values()]
    # A standing verdict may know nothing of a treatment that came back since.
    if not shown or not all(shown) or set(own) != set(served):
        return [rule for some in own.values() for rule in some], False
    return [rule for some in own.values() for rule in some if rule.outcome == "met"], True


def _better(experiment: Experiment, rules: Iterable[Rule]) -> tuple[list[Rule], bool]:
    """The rules of the goals that carry the treatment, or all of them while it may not ship; and whether it may."""
    own = _by(rules, lambda rule: rule.name.startswith("ship_"), lambda rule: rule.metric)
    passed = {metric: all(rule.outcome == "met" for rule in some) for metric, some in own.items()}
    # Nothing asked, nothing shown: a standing verdict may be about a treatment that was dropped since.
    if not passed or not (any if experiment.policy.goal_rule == "any" else all)(passed.values()):
        return [rule for some in own.values() for rule in some], False
    return [rule for metric, some in own.items() if passed[metric] for rule in some], True


def _by(rules: Iterable[Rule], chosen: Callable[[Rule], bool], key: Callable[[Rule], str]) -> dict[str, list[Rule]]:
    """Chosen rules by what they are about, in their order."""
    out: dict[str, list[Rule]] = {}
    for rule in filter(chosen, rules):
        out.setdefault(key(rule), []).append(rule)
    return out


def _over(flag: FlagState) -> list[str]:
    """Why this ramp cannot go on at all; empty while it can."""
    if not flag.enabled:
        return [f"Flag {flag.ref.flag} was killed; restore it before it can move."]
    if flag.exposure.serve:
        return [f"Flag {flag.ref.flag} {flag.exposure}; the ramp is over."]
    return []


def _exposure(experiment: Experiment, action: Action, variant: str, flag: FlagState, rules: Iterable[Rule]) -> Exposure:
    """What the flag should serve after the action.

    A roll back drops the treatments that are harmed, and closes the gate where none would be left.
    """
    policy = experiment.policy
    if action == "ramp_up":
        rung = policy.next_rung(flag.exposure.enrolled)
        return flag.exposure if rung is None else replace(flag.exposure, enrolled=rung)
    if action == "roll_back":
        harmed = {rule.variant for rule in _failing(rules, "harm", outcomes=("not met",))}
        if not flag.exposure.serve and set(flag.exposure.arms) - {experiment.control} - harmed:
            return replace(flag.exposure, dropped=(*flag.exposure.dropped, *harmed))
        return flag.exposure.closed()
    if action == "ship" or (action == "conclude_flat" and policy.aim == "non_inferiority"):
        return replace(flag.exposure, serve=variant, holdback=policy.holdback)
    if action == "conclude_flat":
        return replace(flag.exposure, serve=experiment.control, holdback=0.0)
    return flag.exposure


def _held_too_long(experiment: Experiment, flag: FlagState, now: datetime) -> bool:
    """Below `learn_at` only: from there on, fewer units would only make the verdict later."""
    enrolled, most = flag.exposure.enrolled, experiment.policy.rung(flag.exposure.enrolled).max_hold_days or 0
    climbing = flag.enabled and not flag.exposure.serve and 0 < enrolled < experiment.policy.learn_at
    return climbing and days_at_rung(flag, now) >= most > 0


def _notes(
    posterior: Posterior, effects: Sequence[Effect], ratio: Check | None, reasons: Sequence[str], flag: FlagState
) -> list[str]:
    """Warnings of quality checks and notes of effects that are not reasons already."""
    dropped = flag.exposure.dropped
    checks = [check for check in posterior.checks if check.outcome != "ok" and check.name != "sample_ratio"]
    if dropped:  # the cohort knows no flag: its views of arm sizes miss the units of an arm that nobody gets
        checks = [check for check in checks if not check.name.startswith(_OF_SIZES)]
    warned = [check.sentence for check in checks]
    if dropped:
        warned.append(
            f"{', '.join(dropped)} {'was' if len(dropped) == 1 else 'were'} dropped; what the cohort says of arm sizes still counts {'it' if len(dropped) == 1 else 'them'}, and is left out here."
        )
    if ratio and ratio.outcome != "ok":
        warned.append(ratio.sentence)
    noted = [f"{effect.metric} under {effect.variant}: {effect.note}." for effect in effects if effect.note]
    return [note for note in (*warned, *noted) if note not in reasons]


def _judged_on(days: tuple[date, date] | None, rules: Iterable[Rule]) -> date | None:
    """The last day of data, where enough of them are in for a verdict."""
    return None if days is None or _failing(rules, "min_days") else days[1]


def _dated(rule: Rule, standing: Decision) -> Rule:
    """A rule of an earlier verdict, which says so."""
    told = f" (Judged on data up to {standing.judged_on}.)"
    if standing.judged_on is None or rule.sentence.endswith(told):
        return rule
    return replace(rule, sentence=rule.sentence + told)


def _stands(experiment: Experiment, standing: Decision | None) -> Iterator[str]:
    """That the goal was judged on earlier data."""
    if standing:
        every = experiment.policy.verdict_days
        until = f"data up to {standing.judged_on}" if standing.judged_on else "earlier data"
        if standing.policy_hash == experiment.policy_hash:
            yield f"The goal is judged every {every} days; the verdict is that on {until}."
        else:
            yield f"The goal was judged on {until} by another policy, and is judged every {every} days: until then there is no verdict."


def _failing(rules: Iterable[Rule], *names: str, outcomes: tuple[str, ...] = ("not met", "unknown")) -> list[Rule]:
    return [rule for rule in rules if rule.name in names and rule.outcome in outcomes]


def _sentences(rules: Iterable[Rule]) -> list[str]:
    return [rule.sentence for rule in rules]
