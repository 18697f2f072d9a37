"""Sections of sentences, as text, HTML and Markdown; every result of this package is shown so."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

# What Markdown would read as its own; an underscore inside a word is only an underscore.
_MARKS = re.compile(r"[\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w)")


@dataclass(frozen=True, slots=True)
class Section:
    """One heading with its sentences."""

    heading: str
    sentences: tuple[str, ...]


def filled(sections: Sequence[tuple[str, Sequence[str]]]) -> tuple[Section, ...]:
    """Sections that say something."""
    return tuple(Section(heading, tuple(sentences)) for heading, sentences in sections if sentences)


def as_text(title: str, sections: Sequence[Section]) -> str:
    """Sections as lines."""
    lines = [title]
    for section in sections:
        lines += ["", section.heading, *(f"  - {sentence}" for sentence in section.sentences)]
    return "\n".join(lines)


def as_html(title: str, sections: Sequence[Section]) -> str:
    """Sections as HTML; every text is escaped."""
    parts = [f"<p><strong>{html.escape(title)}</strong></p>"]
    for section in sections:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in section.sentences)
        parts.append(f"<p>{html.escape(section.heading)}</p><ul>{items}</ul>")
    return f"<div class='expnb-history'>{''.join(parts)}</div>"


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    """Sections as Markdown; every text is escaped."""
    parts = [f"# {escape_markdown(title)}"]
    for section in sections:
        parts.append(f"## {escape_markdown(section.heading)}")
        parts.append("\n".join(f"- {escape_markdown(sentence)}" for sentence in section.sentences))
    return "\n\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", " ".join(text.split()))
