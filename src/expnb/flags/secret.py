"""A credential by name: from the environment or the keyring, at the moment it is needed, and never shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from expnb.errors import CredentialError, FlagError

_SERVICE: Final = "expnb"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_RANDOM: Final = re.compile(r"[0-9a-f]{16,}", re.IGNORECASE)
# Names are written in one case; random letters are not. sk_live_… of 20 signs and more has all three.
_MIXED: Final = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9]).{20,}")


@dataclass(frozen=True, slots=True)
class Secret:
    """The name of a credential; its value is looked up at each use, so that a renewed one holds at once.

    Parameters
    ----------
    name : str
        An environment variable, or an entry of the service ``expnb`` in the keyring.

    Raises
    ------
    FlagError
        If `name` looks like a credential itself, which errors would show.
    """

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or _RANDOM.search(self.name) or _MIXED.match(self.name):
            raise FlagError(
                "the token of the flags is named by something that is no name of an environment variable; it may be the credential itself, so it is not shown here. "
                'If it is, revoke it. Name a variable or an entry of the keyring: token = "UNLEASH_TOKEN".'
            )

    def reveal(self) -> str:
        """The credential itself, for the header of one request; not for a repr, an error or a ledger.

        Raises
        ------
        CredentialError
            If neither the environment nor the keyring has it.
        """
        found = os.environ.get(self.name, "").strip() or _from_keyring(self.name)
        if not found:
            raise CredentialError(self.name)
        return found


def _from_keyring(name: str) -> str:
    import keyring  # noqa: PLC0415 - 0.1 s, and the environment mostly has it
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        return (keyring.get_password(_SERVICE, name) or "").strip()
    except KeyringError:  # no keyring on this machine, or a locked one: the same as an entry that is missing
        return ""
