"""A credential by name: from the environment or the keyring, at the moment it is needed, and never shown."""

from __future__ import annotations

import os
from dataclasses import dataclass

from expnb.errors import CredentialError

_SERVICE = "expnb"


@dataclass(frozen=True, slots=True)
class Secret:
    """The name of a credential; its value is looked up at each use, so that a renewed one holds at once.

    Parameters
    ----------
    name : str
        An environment variable, or an entry of the service ``expnb`` in the keyring.
    """

    name: str

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
