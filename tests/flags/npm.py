"""The JavaScript SDK, installed once from npm."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.contracts.conftest import untested

VERSION = "4.0.1"


def flagd_core() -> Path:
    """Folder with @openfeature/flagd-core; kept among temporary files for the next run."""
    npm = shutil.which("npm")
    if not (npm and shutil.which("node")):
        untested("flags in the JavaScript SDK", "no node and npm here. Install Node.js 20.")
    folder = Path(tempfile.gettempdir(), f"expnb-test-flagd-core-{VERSION}")
    if not (folder / "node_modules/@openfeature/flagd-core/package.json").is_file():
        fresh = tempfile.mkdtemp(prefix="expnb-test-npm-")
        options = ["--ignore-scripts", "--no-audit", "--no-fund", f"@openfeature/flagd-core@{VERSION}"]
        done = subprocess.run(
            [npm, "install", *options], check=False, cwd=fresh, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            untested("flags in the JavaScript SDK", f"npm could not install it: {done.stderr[-300:]}")
        shutil.rmtree(folder, ignore_errors=True)
        Path(fresh).rename(folder)
    return folder
