"""A flag backend from its address in expnb.toml."""

from __future__ import annotations

from pathlib import Path

from expnb.errors import FlagError, nearest
from expnb.flags.base import FlagBackend

_KNOWN = ("flagd:PATH",)


def connect(url: str, *, root: str | Path, environment: str) -> FlagBackend:
    """The backend that `url` names.

    Parameters
    ----------
    url : str
        ``"flagd:PATH"``: a flagd file.
    root : path
        The folder that relative paths start from.
    environment : str
        The environment whose flags the backend holds.

    Raises
    ------
    FlagError
        If no backend has such an address.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "flagd" and rest:
        from expnb.flags.flagd import FlagdFile  # noqa: PLC0415 - each backend loads only when it is used

        return FlagdFile(Path(root) / rest, environment, name=url)
    # Only the scheme is shown: an address may carry a credential.
    found = (
        f"starts with {scheme + ':'!r}"
        if colon and rest
        else "names no place"
        if colon
        else "has no scheme such as 'flagd:'"
    )
    hint = nearest(scheme, [known.partition(":")[0] for known in _KNOWN]) if scheme != "flagd" else ""
    raise FlagError(
        f"the address of the flags in environment {environment!r} {found}; known are: {', '.join(_KNOWN)}.{hint} Correct `flags` in expnb.toml."
    )
