"""What the experiments of a workspace hold of flags and layers, and where two of them collide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from expnb.errors import ExpnbError, FlagFileError, NameNotFoundError, PercentError, PushError
from expnb.flags.base import check_granularity
from expnb.spec.layers import Claim, LayerMap, claim, collisions, layer_maps

if TYPE_CHECKING:
    from expnb.spec.experiment import Experiment
    from expnb.spec.flag import Eligibility, FlagState
    from expnb.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Standing:
    """How an experiment stands to its flag and to the other experiments.

    Parameters
    ----------
    problems : tuple of str
        What keeps it from running as it is written: a sentence for each collision, and for what its flag cannot serve.
    questions : tuple of str
        What could not be looked at, or is for a person to judge.
    layer : LayerMap or None
        Who holds what of its layer; None for an experiment in none.
    """

    problems: tuple[str, ...]
    questions: tuple[str, ...]
    layer: LayerMap | None


def standing(workspace: Workspace, experiment: Experiment) -> Standing:
    """How an experiment stands to its flag and to others; each flag is read once, and only those of the same flag or layer."""
    others, questions = _others(workspace, experiment)
    state, why = _read(workspace, experiment)
    if why and (others or experiment.eligibility.needs):
        questions.append(
            f"the flag {experiment.flag!r} cannot be read, so only the files were compared ({why.rstrip('.')}). Does it serve something else?"
        )
    own = _claim(workspace, experiment, state)
    near = [_claim(workspace, other, _read(workspace, other)[0]) for other in others]
    # What is asked is whether the file collides, as it is written.
    asked = replace(own, layer=experiment.layer, slice=experiment.slice)
    problems = [*collisions(asked, near), *_refused(workspace, experiment)]
    if state is not None:
        problems += _of_another_audience(experiment, state)
        questions += _holdout(experiment, state)
    maps = [one for one in layer_maps([own, *near]) if one.layer == experiment.layer]
    return Standing(tuple(problems), tuple(questions), maps[0] if maps else None)


def layers(workspace: Workspace) -> list[LayerMap]:
    """Who holds which percent of every layer; experiments that cannot be read are left out."""
    found, _ = _readable(workspace)
    return layer_maps([_claim(workspace, one, _read(workspace, one)[0]) for one in found if one.layer])


def unread(workspace: Workspace) -> list[str]:
    """Experiments that cannot be read, whose slices are therefore not shown."""
    return _readable(workspace)[1]


def last_verb(workspace: Workspace, experiment: Experiment) -> str:
    """What was last pushed to the flag of an experiment, such as ``"ship"``; empty where nothing was, or the ledger cannot be read."""
    try:
        entries = workspace.ledger.entries(kind="outcome", flag=experiment.flag)
    except ExpnbError:
        return ""
    bodies = [entry.body for entry in entries if entry.body.get("environment") == workspace.environment]
    receipts = [body.get("receipt") for body in reversed(bodies) if body.get("applied")]
    return next((str(receipt["verb"]) for receipt in receipts if isinstance(receipt, dict)), "")


def _claim(workspace: Workspace, experiment: Experiment, state: FlagState | None) -> Claim:
    """What an experiment holds now: of an open flag what the flag says, which its file cannot change any more."""
    if state is None:
        return claim(experiment)
    if state.exposure.serve or last_verb(workspace, experiment) == "conclude_flat":
        return claim(experiment, status="over")
    if not (state.enabled and state.exposure.enrolled):
        return claim(experiment)
    who = state.exposure.eligibility
    return replace(claim(experiment, status="open"), layer=who.layer, slice=who.slice)


def _read(workspace: Workspace, experiment: Experiment) -> tuple[FlagState | None, str]:
    """The flag of an experiment, and why it cannot be read; neither where there is none yet."""
    try:
        return workspace.flag(experiment), ""
    except NameNotFoundError:
        return None, ""
    except FlagFileError as error:
        return None, error.sentence if Path(error.path).exists() else ""  # the first flag makes the file
    except PushError as error:
        return None, error.sentence
    except ExpnbError as error:
        return None, str(error)


def _others(workspace: Workspace, experiment: Experiment) -> tuple[list[Experiment], list[str]]:
    """Experiments that name the same flag or layer, and a question for each that cannot be read."""
    found, unread = _readable(workspace)
    near = [
        other
        for other in found
        if other.name != experiment.name
        and (other.flag == experiment.flag or (experiment.layer and other.layer == experiment.layer))
    ]
    return near, [f"experiment {name!r} cannot be read. Does it collide with {experiment.name!r}?" for name in unread]


def _readable(workspace: Workspace) -> tuple[list[Experiment], list[str]]:
    """Experiments that can be read, and the names of the others, which must not hide them."""
    found, unread = [], []
    for name in workspace.experiments:
        try:
            found.append(workspace.experiment(name))
        except ExpnbError:
            unread.append(name)
    return found, unread


def _refused(workspace: Workspace, experiment: Experiment) -> Iterator[str]:
    """What the backend of the flag cannot narrow the eligible units by."""
    try:
        able = workspace.flags.capabilities
    except ExpnbError:  # a backend that cannot be reached says so when it is used
        return
    for percent in experiment.policy.percents:
        try:
            check_granularity(experiment.exposure(percent), able.granularity)
        except PercentError as error:
            yield f"rung {percent:g} of the ladder: {error.sentence}"
    missing = [need for need in experiment.eligibility.needs if need not in able.eligibility]
    if missing:
        yield f"the flags of {workspace.environment} cannot serve {' and '.join(missing)} ({experiment.eligibility}). Leave {'it' if len(missing) == 1 else 'them'} out, or keep this flag in a backend that can, such as flagd:flags.flagd.json."


def _of_another_audience(experiment: Experiment, state: FlagState) -> Iterator[str]:
    if _of_the_file(state.exposure.eligibility) != _of_the_file(experiment.eligibility):
        yield f"the flag {experiment.flag!r} lets in {state.exposure.eligibility}, the experiment says {experiment.eligibility}; who is eligible is fixed while a flag lives. Write into the file what the flag has, or give the experiment a new flag."


def _holdout(experiment: Experiment, state: FlagState) -> Iterator[str]:
    """Whether the flag was made before the holdout of the workspace was what it is."""
    held = state.exposure.eligibility.holdout
    if held != experiment.holdout:
        yield f"the flag {experiment.flag!r} keeps out {held:g} % of all units, expnb.toml now says {experiment.holdout:g} %: the flag was made before. Does the holdout have to be clean of this experiment too?"


def _of_the_file(who: Eligibility) -> Eligibility:
    """Without the holdout, which is no choice of the experiment."""
    return replace(who, holdout=0.0)
