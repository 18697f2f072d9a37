"""Who may do what, and who has to agree first.

A notebook kernel belongs to the person who runs it: checked there, these rules prevent mistakes, not intent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.errors import ApprovalError
from expnb.spec.workspace_file import ApprovalRule

if TYPE_CHECKING:  # a kill asks for roles, and does not wait for a database's driver
    from expnb.ledger.ledger import Entry, EntryKind

# Which roles may do what; an environment without roles lets everybody do everything.
ROLES: Mapping[str, tuple[str, ...]] = {
    "register": ("analyst", "operator"),
    "apply": ("analyst", "operator"),
    "request": ("analyst", "operator"),
    "comment": ("analyst", "approver", "operator"),
    "approve": ("approver",),
    "decline": ("approver",),
    "kill": ("analyst", "approver", "operator"),
}
ANONYMOUS = ("", "anonymous", "nobody")


def check_role(act: str, actor: str, roles: Mapping[str, Sequence[str]], environment: str) -> None:
    """Raise `ApprovalError` unless `actor` has a role that may do `act`; ``"*"`` in a role is everybody."""
    allowed = {who for role in ROLES[act] for who in roles.get(role, ())}
    if roles and actor not in allowed and "*" not in allowed:
        raise ApprovalError(
            f"{actor!r} may not {act} in {environment}; that needs one of the roles {', '.join(ROLES[act])}. "
            f"Ask {', '.join(sorted(allowed)) or 'the owner of expnb.toml'}."
        )


def applying(plan: RampPlan, rules: Iterable[ApprovalRule]) -> list[ApprovalRule]:
    """The rules that hold for a plan; lowering exposure never needs anybody."""
    if not plan.raises_treated:
        return []
    verb = "ship" if plan.after.serve else plan.verb  # to restore what was shipped is to ship it again
    return [
        rule
        for rule in rules
        if rule.verb == verb or (rule.above_treated is not None and plan.after.treated > rule.above_treated)
    ]


def approvals_needed(plan: RampPlan, rules: Sequence[ApprovalRule]) -> int:
    """How many others must agree to a plan."""
    return max((rule.need for rule in applying(plan, rules)), default=0)


def approvers(entries: Iterable[Entry], plan: RampPlan) -> list[str]:
    """Who has agreed to exactly this plan, each once."""
    return _actors(entries, "approval", plan)


def check_approvals(entries: Sequence[Entry], plan: RampPlan, rules: Sequence[ApprovalRule]) -> None:
    """Raise `ApprovalError` unless enough others have agreed to exactly this plan, and nobody declined it."""
    declined = _actors(entries, "declined", plan)
    if declined:
        raise ApprovalError(
            f"{', '.join(declined)} declined the plan {plan.id[:12]} for {plan.experiment!r}. Nothing was pushed. Talk to them, then plan and request anew: `expnb request {plan.experiment}`."
        )
    needed, given = approvals_needed(plan, rules), len(approvers(entries, plan))
    if given < needed:
        flag = {"restore": " --restore", "start": " --start"}.get(plan.verb, "")
        raise ApprovalError(
            f"{plan.after.treated:.4g} % treated in {plan.ref.environment} needs {needed} "
            f"approval{'s' if needed > 1 else ''}, {given} given. Nothing was pushed. "
            f"Request it, and let somebody else approve: `expnb request {plan.experiment}{flag}`."
        )


def check_requires(plan: RampPlan, rules: Sequence[ApprovalRule], decision: Decision | None) -> None:
    """Raise `ApprovalError` unless what the environment requires of such a plan is met in the decision of now."""
    for required in dict.fromkeys(name for rule in applying(plan, rules) for name in rule.requires):
        served = ("", plan.after.serve) if plan.after.serve else plan.after.arms
        asked = (
            [rule for rule in decision.rules if rule.name == required and rule.variant in {"", *served}]
            if decision
            else []
        )
        failing = [rule.sentence for rule in asked if rule.outcome != "met"]
        if failing or not asked:
            why = " ".join(failing) or "No decision of now says so."
            raise ApprovalError(
                f"{plan.ref.environment} asks that the rule {required!r} is met before this plan ({plan.verb}, {plan.after}). {why} Nothing was pushed. Decide again on data that show it."
            )


def check_approver(entries: Sequence[Entry], plan: RampPlan, actor: str) -> None:
    """Raise `ApprovalError` unless somebody else requested the plan and `actor` is a named person."""
    authors = _actors(entries, "request", plan)
    if not authors:
        raise ApprovalError(
            f"nobody requested the plan {plan.id[:12]}; an approval answers a request. Ask its author to request it."
        )
    if same_person(actor) in ANONYMOUS:
        raise ApprovalError("an anonymous identity cannot approve. Open the workspace under your own name.")
    if same_person(actor) in authors:
        raise ApprovalError(f"{actor!r} requested this plan; somebody else has to approve it.")


def _actors(entries: Iterable[Entry], kind: EntryKind, plan: RampPlan) -> list[str]:
    """Who answered a plan in one way, among the entries about its flag; each once."""
    answers = [entry for entry in entries if entry.kind == kind and entry.body["plan_id"] == plan.id]
    return list(dict.fromkeys(same_person(str(entry.body["actor"])) for entry in answers))


def same_person(actor: str) -> str:
    """A name without the differences that do not make another person: case, space around it, how a letter is put together, and what cannot be seen."""
    seen = "".join(letter for letter in unicodedata.normalize("NFKC", actor) if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", seen.casefold()).strip()
