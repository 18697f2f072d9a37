"""What must be said before PyTensor and ArviZ are imported."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path


def prepare() -> None:
    """Give PyTensor a folder of its own per Python version and no BLAS probe at import; what the user has set stays.

    A folder shared by two Python versions breaks both; the probe compiles programs at every import and prints a warning
    where BLAS is missing. ArviZ 0.23 is imported here without its
    announcement of ArviZ 1, which expnb supports.
    """
    if "pytensor" not in sys.modules:
        os.environ["PYTENSOR_FLAGS"] = pytensor_flags(os.environ.get("PYTENSOR_FLAGS", ""), _settings_files())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        import arviz  # noqa: F401, PLC0415 - seconds, only when a model is asked for


def pytensor_flags(given: str, settings: str = "") -> str:
    """The user's flags, and ours where neither they nor their settings file name the same one."""
    wanted = {"blas__ldflags": "", "base_compiledir": str(compile_folder())}
    return ",".join(
        [given] * bool(given) + [f"{name}={value}" for name, value in wanted.items() if name not in given + settings]
    )


def compile_folder() -> Path:
    """Folder for compiled models of this Python version, in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "expnb" / f"pytensor-{sys.version_info.major}.{sys.version_info.minor}"


def _settings_files() -> str:
    files = [Path(name).expanduser() for name in os.environ.get("PYTENSORRC", "~/.pytensorrc").split(os.pathsep)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
