"""Sections of sentences, as text, HTML and Markdown; every result of this package is shown so."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from expnb.decisions.markdown import escape_markdown


@dataclass(frozen=True, slots=True)
class Section:
    """One heading with its sentences."""

    heading: str
    sentences: tuple[str, ...]


def filled(sections: Sequence[tuple[str, Sequence[str]]]) -> tuple[Section, ...]:
    """Sections that say something."""
    return tuple(Section(heading, tuple(sentences)) for heading, sentences in sections if sentences)


class Page(ABC):
    """A title and sections, as text, HTML and Markdown; the last two show every text as it is."""

    __slots__ = ()

    @property
    @abstractmethod
    def title(self) -> str:
        """The answer in one line."""

    @abstractmethod
    def sections(self) -> tuple[Section, ...]:
        """What there is to say, under headings."""

    def __str__(self) -> str:
        lines = [self.title]
        for section in self.sections():
            lines += ["", section.heading, *(f"  - {sentence}" for sentence in section.sentences)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{html.escape(self.title)}</strong></p>"]
        for section in self.sections():
            items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in section.sentences)
            parts.append(f"<p>{html.escape(section.heading)}</p><ul>{items}</ul>")
        return f"<div class='expnb-history'>{''.join(parts)}</div>"

    def markdown(self) -> str:
        """The same as a page for reviewers."""
        parts = [f"# {escape_markdown(self.title)}"]
        for section in self.sections():
            parts.append(f"## {escape_markdown(section.heading)}")
            parts.append("\n".join(f"- {escape_markdown(sentence)}" for sentence in section.sentences))
        return "\n\n".join(parts) + "\n"
