"""The ramp panel without a front end: the same view as HTML and as text."""

from __future__ import annotations

from html import escape

from expnb.widgets.ramp_view import Bar, View

_TRACK = "display:inline-block;width:12em;height:.7em;border:1px solid #8888;border-radius:3px;vertical-align:middle"


def to_html(view: View) -> str:
    """The view as a table; nothing in it can be pressed."""
    rows = [
        ("flag", escape(f"{view.flag} in {view.environment}")),
        *((bar.label, _bar(bar)) for bar in view.bars),
        ("why", _items(view.reasons)),
        ("know besides", _items(view.notes)),
        ("approvals", escape(view.approvals)),
        ("state", escape(_status(view))),
        *((name, escape(value)) for name, value in view.receipt),
    ]
    cells = "".join(
        f"<tr><th style='text-align:left;vertical-align:top'>{escape(name)}</th><td style='text-align:left'>{value}</td></tr>"
        for name, value in rows
        if value
    )
    caption = escape(f"{view.experiment}: {view.action}")
    return f"<div class='expnb-ramp-twin'><table><caption>{caption}</caption><tbody>{cells}</tbody></table>{_rules(view)}<p><small>{escape(' '.join(view.small))}</small></p></div>"


def to_text(view: View) -> str:
    """The view in lines of text."""
    lines = [
        f"{view.experiment}: {view.action}",
        f"  flag {view.flag} in {view.environment}: {' -> '.join(bar.words for bar in view.bars)}",
        *(f"  - {reason}" for reason in view.reasons),
        *(f"  ! {note}" for note in view.notes),
        *([f"  {view.approvals}"] if view.approvals else []),
        f"  {_status(view)}",
        *(f"  {name}: {value}" for name, value in view.receipt),
        f"  {' '.join(view.small)}",
    ]
    return "\n".join(lines)


def _status(view: View) -> str:
    if view.error or view.message:
        return " ".join(part for part in (view.error, view.message) if part)
    return f"Not pushed. To push it: ws.apply(plan). {view.button}."


def _items(sentences: tuple[str, ...]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul style='margin:0;padding-left:1.2em'>{items}</ul>" if items else ""


def _bar(bar: Bar) -> str:
    # The treated part lies in the enrolled one, so its width is a share of that.
    share = 100 * bar.treated / bar.enrolled if bar.enrolled else 0
    fill = f"<span style='display:block;height:100%;width:{share:g}%;background:#1a80c4'></span>"
    gate = f"<span style='display:block;height:100%;width:{bar.enrolled:g}%;background:#1a80c455'>{fill}</span>"
    return f"<span style='{_TRACK}'>{gate}</span> {escape(bar.words)}"


def _rules(view: View) -> str:
    if not view.rules:
        return ""
    body = "".join(
        f"<tr><td>{mark} {escape(outcome)}</td><td style='text-align:left'>{escape(asked)}</td><td style='text-align:left'>{escape(sentence)}</td></tr>"
        for mark, outcome, asked, sentence in view.rules
    )
    more = f"<p>{view.more_rules} more rules stand in the decision.</p>" if view.more_rules else ""
    return f"<details><summary>All {len(view.rules) + view.more_rules} rules</summary><table>{body}</table>{more}</details>"
