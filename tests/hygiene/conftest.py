"""Folders that cannot be read, as the flag files have them."""

from tests.flags.conftest import as_nobody, open_folder  # noqa: F401 - fixtures
