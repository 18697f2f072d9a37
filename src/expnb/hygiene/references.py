"""Where source code names a flag."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from expnb.errors import ParameterError, PathNotFoundError

# Folders whose files nobody edits: they are made, fetched, or a history.
SKIPPED: Final = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "node_modules",
        "__pycache__",
        "site-packages",
        "venv",
        ".venv",
        ".tox",
        ".nox",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".ipynb_checkpoints",
        ".expnb",
    }
)
BINARY_WITHIN: Final = 8192  # bytes in which a NUL byte tells a binary file, as git has it
SHOWN: Final = 120  # characters of a line


@dataclass(frozen=True, slots=True)
class Reference:
    """One line that names a flag.

    Parameters
    ----------
    path : str
        As the folder was given, with `/`.
    line : int
        From 1 on.
    text : str
        The line, shortened.
    """

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Search:
    """What a search over source folders found.

    Parameters
    ----------
    flag : str
    folders : tuple of str
    references : tuple of Reference
        In the order of files and lines.
    searched, binary : int
        Files that were read, and those left out because they are no text.
    unread : tuple of str
        Files that could not be read, and why.
    """

    flag: str
    folders: tuple[str, ...]
    references: tuple[Reference, ...]
    searched: int
    binary: int = 0
    unread: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether it is known that no file names the flag: all were read, at least one was, and none does."""
        return self.searched > 0 and not self.references and not self.unread


def find_references(flag: str, folders: Sequence[str | Path], *, leave_out: Sequence[Path] = ()) -> Search:
    """Every line in source folders that names a flag.

    Parameters
    ----------
    flag : str
        Its key as code writes it; a longer key that holds it, such as ``gate-position-2``, is another flag.
    folders : sequence of str or Path
        Searched with all below them, but for what nobody edits (`SKIPPED`) and binary files. A file is searched too.
    leave_out : sequence of Path
        Files and folders that may name it, such as the experiment's own file.

    Raises
    ------
    PathNotFoundError
        If a folder does not exist.
    ParameterError
        If no folder is named.
    """
    if isinstance(folders, str) or not folders:
        raise ParameterError(
            f"the folders to search are {folders!r}; nobody can tell that code references are gone without a search. Name the folders of your source code: --code src --code app."
        )
    whole = re.compile(rb"(?<![\w-])" + re.escape(flag.encode()) + rb"(?![\w-])")
    away = {path.resolve() for path in leave_out}
    references: list[Reference] = []
    unread: list[str] = []
    searched = binary = 0

    def unreadable(error: OSError) -> None:
        unread.append(f"{Path(error.filename).as_posix()}: {error.strerror}")

    for path in _files(folders, away, unreadable):
        try:
            data = path.read_bytes()
        except OSError as error:
            unreadable(error)
            continue
        if b"\0" in data[:BINARY_WITHIN]:
            binary += 1
            continue
        searched += 1
        if whole.search(data):
            references += _lines(path, data, whole)
    return Search(
        flag, tuple(Path(each).as_posix() for each in folders), tuple(references), searched, binary, tuple(unread)
    )


def _lines(path: Path, data: bytes, whole: re.Pattern[bytes]) -> Iterator[Reference]:
    for number, line in enumerate(data.splitlines(), 1):
        match = whole.search(line)
        if match:
            # The match is shown, also in a line as long as that of a notebook or of minified code.
            start = max(0, match.start() - SHOWN // 2) if len(line) > SHOWN else 0
            text = line[start : start + SHOWN].decode(errors="replace").strip()
            yield Reference(path.as_posix(), number, text)


def _files(folders: Sequence[str | Path], away: set[Path], unreadable: Callable[[OSError], None]) -> Iterator[Path]:
    """Every file once, in the order of names."""
    seen: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise PathNotFoundError(str(folder), "folder of source code", [])
        for path in [folder] if folder.is_file() else _below(folder, away, unreadable):
            own = path.resolve()
            if own not in seen and own not in away:
                seen.add(own)
                yield path


def _below(folder: Path, away: set[Path], unreadable: Callable[[OSError], None]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(place)
        folders[:] = sorted(name for name in folders if name not in SKIPPED and (here / name).resolve() not in away)
        yield from (here / name for name in sorted(files) if (here / name).is_file())  # a pipe would never end
