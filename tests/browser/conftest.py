"""A real JupyterLab in a real browser, on loopback only."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# A browser in a container: no sandbox under root, and none of its own calls home.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DEADLINE_MS = 60_000


def found() -> str | None:
    return next((path for path in map(shutil.which, CHROMIUM) if path), None)


def install() -> None:
    """Debian's own package, where that is possible."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            ["apt-get", "-qq", *command],
            check=False,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser; without one nothing in this folder is tested, and that is said."""
    if not found():
        install()
    path = found()
    if path:
        return path
    missing = f"NOT TESTED: charts and ramp panel in a real JupyterLab; no browser here ({', '.join(CHROMIUM)}). Install chromium."
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """One loud line for all tests that had no browser: pytest folds skips that have one place."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and "NOT TESTED" in report.longrepr[2]:
        report.longrepr = (__file__, 1, report.longrepr[2])
    return report


@dataclass
class Lab:
    """A running JupyterLab."""

    base: str
    token: str
    root: Path


@dataclass
class Watched:
    """A page, with what it must not do."""

    page: object
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def workspace_folder(tmp_path_factory):
    """The demo workspace: real data, a real flag file, a real ledger."""
    import expnb as xb

    folder = tmp_path_factory.mktemp("lab") / "workspace"
    xb.demo.make_workspace(folder)
    return folder


@pytest.fixture(scope="session")
def lab(chromium, workspace_folder, tmp_path_factory):
    """JupyterLab on the workspace, with folders, port and token of its own."""
    home = tmp_path_factory.mktemp("jupyter")
    port, token = free_port(), secrets.token_hex(16)
    news = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false"}))
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = {name: value for name, value in os.environ.items() if name != "EXPNB_STATIC"}
    environment |= {name: str(home / folder) for name, folder in folders.items()}
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += [
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={workspace_folder}",
        "--LabApp.news_url=None",
    ]
    command += [
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=workspace_folder)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, home / "lab.log")
            yield Lab(f"http://127.0.0.1:{port}", token, workspace_folder)
        finally:
            server.terminate()
            server.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"JupyterLab did not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def watched(lab, chromium):
    """A page in Chromium; every request that leaves loopback and every console error is kept."""
    from playwright.sync_api import sync_playwright

    inside = (lab.base, lab.base.replace("http", "ws", 1), "data:", "blob:")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        # High, so that Lab draws every cell; sharp only for pictures, because a browser without a GPU pays for each pixel.
        sharpness = 2 if os.environ.get("EXPNB_SCREENSHOTS") else 1
        page = browser.new_page(
            viewport={"width": 1180, "height": 2600}, device_scale_factor=sharpness, reduced_motion="reduce"
        )
        page.set_default_timeout(DEADLINE_MS)
        watched = Watched(page)
        page.on(
            "request", lambda request: None if request.url.startswith(inside) else watched.outside.append(request.url)
        )
        page.on(
            "console", lambda message: watched.errors.append(message.text[:300]) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: watched.errors.append(str(error)[:300]))
        yield watched
        browser.close()


@pytest.fixture(autouse=True)
def _stays_at_home_and_quiet(request):
    """After every test: nothing left loopback, and the console shows no error."""
    yield
    if "watched" in request.fixturenames:
        watched = request.getfixturevalue("watched")
        assert watched.outside == []
        assert watched.errors == []


# A notebook's dot says idle while its connection may still be replaced; a run-all that is sent then is lost. Only an answer counts.
KERNEL_ANSWERS = """async () => {
  const context = window.jupyterapp.shell.currentWidget.sessionContext;
  await context.ready;
  for (let i = 0; i < 150; i++) {
    const kernel = context.session?.kernel;
    if (kernel?.connectionStatus === 'connected') {
      await kernel.info;
      const asked = kernel.requestExecute({ code: '1', silent: true }).done.then(() => true, () => false);
      if (await Promise.race([asked, new Promise((done) => setTimeout(() => done(false), 3000))])) return true;
    }
    await new Promise((done) => setTimeout(done, 200));
  }
  return false;
}"""


@pytest.fixture(scope="session")
def open_and_run(lab, watched):
    """A function that opens a notebook, runs it, and waits until its last cell has an output."""
    page = watched.page

    def run(name: str, until: str = "every cell has run") -> None:
        page.goto(f"{lab.base}/lab/tree/{name}?token={lab.token}&reset")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext")
        assert page.evaluate(KERNEL_ANSWERS), "the kernel never answered"
        # No await on the command: its promise need not settle.
        page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        page.get_by_text(until, exact=True).wait_for(timeout=3 * DEADLINE_MS)

    return run


@pytest.fixture(scope="session")
def theme(watched):
    """A function that switches JupyterLab's theme."""
    page = watched.page

    def switch(name: str) -> None:
        page.evaluate(
            "theme => { void window.jupyterapp.commands.execute('apputils:change-theme', { theme }); }",
            f"JupyterLab {name}",
        )
        page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light", arg=str(name == "Light").lower()
        )
        page.wait_for_timeout(400)  # style sheets are swapped one after the other

    return switch


@pytest.fixture(scope="session")
def photograph(watched):
    """A function that keeps a picture of the cells that hold a chart and a panel, where EXPNB_SCREENSHOTS names a folder."""
    page, folder = watched.page, os.environ.get("EXPNB_SCREENSHOTS")

    def take(name: str, first: object, last: object, room: int = 4) -> None:
        if not folder:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        top, bottom = first.bounding_box(), last.bounding_box()
        left = min(top["x"], bottom["x"]) - room
        right = max(top["x"] + top["width"], bottom["x"] + bottom["width"]) + room
        clip = {
            "x": left,
            "y": top["y"] - room,
            "width": right - left,
            "height": bottom["y"] + bottom["height"] - top["y"] + 2 * room,
        }
        page.screenshot(path=str(Path(folder) / f"{name}.png"), clip=clip)

    return take
