"""What an error may say once something was done: never that nothing was changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from expnb.errors import PushError, PushUncertainError

# Where the facts of an error end: what follows says that nothing was done, or advises one who has done nothing yet.
_END: Final = re.compile(r"\s+(Nothing was (changed|pushed)\b|Undo that edit, or kill).*", re.DOTALL)


def fact(error: Exception) -> str:
    """What went wrong, for a place inside another sentence: without the advice, the runbook, and "nothing was changed"."""
    return _END.sub("", error.sentence if isinstance(error, PushError) else str(error))


class HalfMadeError(PushUncertainError):
    """A flag was begun, and its creation went wrong before it was whole."""

    def __init__(self, flag: str, backend: str, why: str, stands: str, runbook: str) -> None:
        super().__init__(flag, backend, why, stands, runbook)
        self.flag, self.backend, self.why, self.stands, self.runbook = flag, backend, why, stands, runbook

    def _sentence(self) -> str:
        return f"flag {self.flag!r} is not whole in {self.backend}: {self.why} {self.stands}"


@contextmanager
def half_way(flag: str, backend: str, stands: str) -> Iterator[None]:
    """Steps of a creation that has done something already: a refusal says what stands by now.

    Parameters
    ----------
    stands : str
        What exists, whom it serves and the next step, in whole sentences; empty where nothing was done yet, and refusals pass as they are.

    Raises
    ------
    HalfMadeError
        If a step is refused.
    """
    try:
        yield
    except PushUncertainError:
        raise
    except PushError as error:
        if not stands:
            raise
        raise HalfMadeError(flag, backend, fact(error), stands, error.runbook) from error
