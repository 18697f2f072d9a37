"""A bar for what takes longer than two seconds, where somebody looks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AFTER_SECONDS = 2.0
EVERY_SECONDS = 0.5  # to count draws takes a tenth of that


@contextmanager
def bar(what: str, total: int, done: Callable[[], int], *, wanted: bool) -> Iterator[Callable[[], None]]:
    """A function to call often; it shows how many draws of `total` are `done`, and the bar leaves with the block."""
    begin, seen = time.monotonic(), [-1.0]
    bars: list[Any] = []

    def show() -> None:
        seconds = time.monotonic() - begin
        if seconds < AFTER_SECONDS or seconds < seen[0] + EVERY_SECONDS:
            return
        if not bars:
            bars.append(_tqdm(total=total, desc=what, leave=False, unit=" draws"))
        found = done()
        bars[0].n = found
        bars[0].set_postfix_str("" if found else "tuning")
        seen[0] = time.monotonic() - begin

    try:
        yield show if wanted and can_draw() else lambda: None
    finally:
        for one in bars:
            one.close()


@contextmanager
def line(what: str, *, wanted: bool) -> Iterator[None]:
    """A line that stands while the block runs, and leaves with it."""
    shown = _tqdm(total=0, desc=what, leave=False, bar_format="{desc}") if wanted and can_draw() else None
    try:
        yield
    finally:
        if shown is not None:
            shown.close()


def can_draw() -> bool:
    """Whether somebody looks: a terminal, or a notebook that is not made for paper."""
    if os.environ.get("EXPNB_STATIC"):
        return False
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return sys.stderr.isatty() or (shell is not None and type(shell).__name__ == "ZMQInteractiveShell")


def _tqdm(**options: object) -> Any:  # noqa: ANN401 - a widget or a line of text
    from tqdm import auto  # noqa: PLC0415 - only for what takes long

    made: Callable[..., Any] = auto.tqdm
    return made(**options)
