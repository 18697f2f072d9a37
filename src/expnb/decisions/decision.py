"""One decision: the action, every rule with its numbers, and what the flag should serve."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal

from expnb.decisions.markdown import escape_markdown
from expnb.spec.canonical import digest
from expnb.spec.flag import Exposure, FlagState

if TYPE_CHECKING:
    import pandas as pd

Action = Literal["roll_back", "hold", "conclude_flat", "ship", "ramp_up"]
Outcome = Literal["met", "not met", "unknown"]

# From worst to best for the treatment: a plan stands while the newest decision is no worse.
PRECEDENCE: tuple[Action, ...] = ("roll_back", "hold", "conclude_flat", "ramp_up", "ship")
EXIT_CODES: Mapping[Action, int] = {"ship": 0, "ramp_up": 0, "hold": 10, "roll_back": 20, "conclude_flat": 30}
TITLES: Mapping[Action, str] = {
    "roll_back": "Roll back",
    "hold": "Hold",
    "conclude_flat": "Conclude: no difference that matters",
    "ship": "Ship",
    "ramp_up": "Ramp up",
}
MARKS: Mapping[Outcome, str] = {"met": "✓", "not met": "✗", "unknown": "?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the policy, asked of the data.

    Parameters
    ----------
    name : str
        Such as ``"harm"`` or ``"guardrail"``.
    metric, variant : str
        What it was asked of; empty for rules on the whole cohort.
    value, threshold : float, optional
        What was found and what was asked for; None where nothing could be found.
    outcome : {"met", "not met", "unknown"}
        ``"met"`` is the good answer. Unknown never passes.
    sentence : str
        In words, with numbers.
    """

    name: str
    metric: str = ""
    variant: str = ""
    value: float | None
    threshold: float | None
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Decision:
    """What should happen to the flag, and why; the same object feeds table, report, exit code and flag.

    Parameters
    ----------
    action : {"roll_back", "hold", "conclude_flat", "ship", "ramp_up"}
    variant : str
        The best treatment on the goal.
    reasons : tuple of str
        The sentences that carry the action.
    rules : tuple of Rule
        Every rule that was asked.
    flag : FlagState
        As it was when the decision was taken.
    to : Exposure
        What the flag should serve.
    looks : int
        Looks at this experiment so far, this one included.
    units : mapping of str to int
        Units per arm in the data; 0 where they are fewer than may be shown.
    notes : tuple of str
        What a reader must know besides: warnings of quality checks, prior against data.
    judged_on : date, optional
        Last day of the data on which the goal was judged, today or by an earlier decision whose verdict stands.
    outlook : tuple of str
        What more days of data are worth, what they cost, and what so many looks mean; explains and decides nothing.
    """

    experiment: str
    action: Action
    variant: str
    reasons: tuple[str, ...]
    rules: tuple[Rule, ...]
    notes: tuple[str, ...]
    flag: FlagState
    to: Exposure
    looks: int
    prior: str
    engine: str
    seed: int
    fingerprint: str
    first_day: date | None
    watermark: date | None
    versions: Mapping[str, str]
    policy_hash: str
    decided_at: datetime
    units: Mapping[str, int] = field(default_factory=dict)
    outlook: tuple[str, ...] = ()
    judged_on: date | None = None

    @property
    def exit_code(self) -> int:
        """0 ship or ramp up, 10 hold, 20 roll back, 30 conclude flat."""
        return EXIT_CODES[self.action]

    @property
    def evidence_hash(self) -> str:
        """SHA-256 of the decision without its time and its outlook: the same evidence gives the same hash."""
        return digest(
            {
                part.name: getattr(self, part.name)
                for part in fields(self)
                if part.name not in {"decided_at", "versions", "outlook"}
            }
        )

    @property
    def title(self) -> str:
        """The action in words, with the change of the flag."""
        change = (
            f": {self.flag.exposure} -> {self.to}"
            if self.to != self.flag.exposure
            else f": flag unchanged, {self.flag.exposure}"
        )
        return f"{TITLES[self.action]}{change}"

    def __str__(self) -> str:
        lines = [f"{self.experiment}: {self.title}", *(f"  - {reason}" for reason in self.reasons)]
        lines += [f"  ! {note}" for note in self.notes] + [f"  ~ {sentence}" for sentence in self.outlook]
        return "\n".join([*lines, f"  {self.footer}"])

    def table(self) -> pd.DataFrame:
        """One row per rule: name, metric, variant, value, threshold, outcome, and the sentence."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s, only when a table is asked for

        columns = [part.name for part in fields(Rule)]
        return pd.DataFrame([[getattr(rule, name) for name in columns] for rule in self.rules], columns=columns)

    def __repr__(self) -> str:
        return str(self)

    @property
    def footer(self) -> str:
        """What the decision rests on, in one line."""
        days = f"data {self.first_day} to {self.watermark}, " if self.first_day else ""
        return f"{days}look {self.looks}, prior {self.prior}, {self.engine} engine, data {self.fingerprint[:8]}"

    def markdown(self) -> str:
        """The decision as a page for reviewers, which shows every text as it is."""

        def items(sentences: tuple[str, ...]) -> str:
            return "\n".join(f"- {escape_markdown(sentence)}" for sentence in sentences)

        rules = [
            f"| {MARKS[rule.outcome]} {rule.outcome} | {' | '.join(map(escape_markdown, (rule.name, rule.metric, rule.variant, rule.sentence)))} |"
            for rule in self.rules
        ]
        parts = [
            f"# {escape_markdown(f'{self.experiment}: {self.title}')}",
            f"Decided at {self.decided_at:%Y-%m-%d %H:%M} UTC. {escape_markdown(self.footer[0].upper() + self.footer[1:])}.",
            items(self.reasons),
            f"## Know besides\n\n{items(self.notes)}" if self.notes else "",
            f"## More data\n\n{items(self.outlook)}" if self.outlook else "",
            "## Every rule\n\n| outcome | rule | metric | variant | in words |\n|---|---|---|---|---|\n"
            + "\n".join(rules),
            f"Evidence `{self.evidence_hash}`, policy `{self.policy_hash}`, flag {escape_markdown(str(self.flag.ref))} at version `{self.flag.version}`.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _repr_html_(self) -> str:
        def items(sentences: tuple[str, ...]) -> str:
            return "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)

        rules = "".join(
            f"<tr><td>{MARKS[rule.outcome]}</td><td style='text-align:left'>{html.escape(' · '.join(part for part in (rule.name, rule.metric, rule.variant) if part))}</td>"
            f"<td style='text-align:left'>{html.escape(rule.sentence)}</td></tr>"
            for rule in self.rules
        )
        notes = f"<p>Know besides:</p><ul>{items(self.notes)}</ul>" if self.notes else ""
        notes += f"<p>More data:</p><ul>{items(self.outlook)}</ul>" if self.outlook else ""
        return (
            f"<div class='expnb-decision'><p><strong>{html.escape(self.experiment)}: {html.escape(self.title)}</strong></p><ul>{items(self.reasons)}</ul>{notes}"
            f"<details><summary>All {len(self.rules)} rules</summary><table>{rules}</table></details><p><small>{html.escape(self.footer)}</small></p></div>"
        )
