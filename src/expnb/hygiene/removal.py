"""What is left to do before a flag is gone: a checklist that is done only when no code names the flag any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expnb.errors import NameNotFoundError
from expnb.history.page import Page, Section
from expnb.hygiene.claims import last_verb
from expnb.hygiene.references import Search, find_references
from expnb.spec.flag import FlagState

if TYPE_CHECKING:
    from expnb.spec.experiment import Experiment
    from expnb.workspace import Workspace

MOST_SHOWN = 50  # references in a text; all are in the value
FOLDERS_OF_A_WORKSPACE = ("experiments", "decisions", "reports", ".expnb")  # they keep naming the flag, as records


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a removal.

    Parameters
    ----------
    name : str
    done : bool
    sentence : str
        What was found; and what to do, where it is not done.
    """

    name: str
    done: bool
    sentence: str

    def __str__(self) -> str:
        return f"[{'x' if self.done else ' '}] {self.name}: {self.sentence}"


@dataclass(frozen=True, slots=True, repr=False)
class Removal(Page):
    """The checklist of one flag.

    Parameters
    ----------
    experiment, flag : str
    steps : tuple of Step
        In the order in which they are taken.
    search : Search
        Where code names the flag.
    exists : bool
        Whether the flag is still in its backend.
    """

    experiment: str
    flag: str
    steps: tuple[Step, ...]
    search: Search
    exists: bool

    @property
    def done(self) -> bool:
        """Whether nothing speaks against deleting the flag: every step is done."""
        return all(step.done for step in self.steps)

    @property
    def title(self) -> str:
        """The answer in one line."""
        left = sum(not step.done for step in self.steps)
        if left:
            return f"flag {self.flag}: {left} of {len(self.steps)} steps are left before it can be deleted"
        return f"flag {self.flag}: {'nothing asks for it any more; delete it now' if self.exists else 'it is gone, and no code asks for it'}"

    def sections(self) -> tuple[Section, ...]:
        """Steps, the lines that name the flag, and what comes last."""
        found = self.search.references
        lines = [str(reference) for reference in found[:MOST_SHOWN]]
        if len(found) > MOST_SHOWN:
            lines.append(f"… and {len(found) - MOST_SHOWN:,} more.")
        parts = [Section("steps", tuple(map(str, self.steps)))]
        if lines:
            parts.append(Section(f"lines that name {self.flag}", tuple(lines)))
        if self.search.unread:
            parts.append(Section("could not be read", self.search.unread))
        if self.done and self.exists:
            parts.append(
                Section(
                    "last",
                    (
                        f"Archive or delete {self.flag} in its backend. Keep experiments/{self.experiment}.toml: it is the record of what was asked.",
                    ),
                )
            )
        return tuple(parts)


def removal(workspace: Workspace, experiment: Experiment, code: Sequence[str | Path]) -> Removal:
    """The checklist for the flag of an experiment.

    Parameters
    ----------
    workspace : Workspace
    experiment : Experiment
    code : sequence of str or Path
        Folders of source code to search; the workspace's own records are left out.

    Raises
    ------
    PathNotFoundError, ParameterError
        If a folder does not exist, or none is named.
    FlagError
        If the flag cannot be read: nobody can tell then what it serves.
    """
    search = find_references(experiment.flag, code, leave_out=_records(workspace))
    try:
        state: FlagState | None = workspace.flag(experiment)
    except NameNotFoundError:  # deleted already
        state = None
    steps = (
        _decided(experiment, state, last_verb(workspace, experiment)),
        _one_for_all(experiment, state),
        _gone(search),
    )
    return Removal(experiment.name, experiment.flag, steps, search, exists=state is not None)


def _decided(experiment: Experiment, state: FlagState | None, verb: str) -> Step:
    name = "shipped or concluded"
    if state is None:
        return Step(name, done=True, sentence="the flag is in its backend no more.")
    if state.exposure.serve:
        return Step(name, done=True, sentence=f"{state.exposure.serve} was shipped.")
    if verb == "conclude_flat":
        return Step(name, done=True, sentence=f"it was concluded on {experiment.control}.")
    closed = "" if state.exposure.enrolled else " The gate is closed, which may be for now."
    return Step(
        name,
        done=False,
        sentence=f"the last step was {verb.replace('_', ' ') or 'none'}, and the flag has {state.exposure}.{closed} Ship it or conclude it: `expnb decide {experiment.name}`.",
    )


def _one_for_all(experiment: Experiment, state: FlagState | None) -> Step:
    name = "one variant for everybody"
    if state is None:
        return Step(name, done=True, sentence="callers get the default in their code.")
    exposure = state.exposure
    if not state.enabled:
        return Step(name, done=True, sentence="it is disabled: callers get the default in their code.")
    if exposure.serve and not exposure.holdback:
        return Step(name, done=True, sentence=f"everybody gets {exposure.serve}.")
    if exposure.serve:
        return Step(
            name,
            done=False,
            sentence=f"{exposure.holdback:g} % are held back on {experiment.control}. End the holdback before code decides alone.",
        )
    if not exposure.enrolled:
        return Step(name, done=True, sentence="nobody gets anything new.")
    return Step(name, done=False, sentence=f"variants are split: {exposure}. Removing the flag would move people.")


def _gone(search: Search) -> Step:
    name = "no code names it"
    where = f"{search.searched:,} files in {', '.join(search.folders)}"
    left_out = f"; {search.binary:,} that are no text were left out" if search.binary else ""
    if search.is_clean:
        return Step(name, done=True, sentence=f"none of {where} does{left_out}.")
    if not search.searched and not search.unread:
        return Step(
            name,
            done=False,
            sentence=f"no file was searched in {', '.join(search.folders)}. Name the folders of your source code.",
        )
    found = len(search.references)
    lines = f"{found:,} line{'' if found == 1 else 's'} in {len({one.path for one in search.references}):,} of {where} name{'s' if found == 1 else ''} it{left_out}"
    unread = f"{len(search.unread):,} could not be read" if search.unread else ""
    what = "; ".join(filter(None, [lines if found else "", unread]))
    return Step(
        name, done=False, sentence=f"{what}. Keep the code of the variant that everybody gets, and remove the others."
    )


def _records(workspace: Workspace) -> list[Path]:
    """Files of the workspace that name the flag because they record it, or are where it lives."""
    folders = [workspace.root / name for name in FOLDERS_OF_A_WORKSPACE]
    places = [table.flags for table in workspace.config.environments.values()]
    return [*folders, *(workspace.root / place.partition(":")[2] for place in places if place.startswith("flagd:"))]
