"""A JupyterLab server of its own, for browser tests and screenshots.

It shares nothing with the user's Jupyter: configuration, data, runtime files, workspaces and settings live in one
folder that the caller names. Lab's news, update check and autosave are off, so that no dialog covers a picture and no
request leaves the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SETTINGS", "LabServer", "LabServerError", "serve"]

TOKEN = "vmlab"  # it guards a server that listens on the loopback interface for one test run
START_SECONDS = 120.0
STOP_SECONDS = 20.0

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    # Every cell in the page, also those out of sight: a test looks for outputs wherever they are.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
"""Lab's settings, by plug-in, where they differ from its defaults."""


class LabServerError(RuntimeError):
    """The server did not start; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class LabServer:
    """A running server.

    Attributes
    ----------
    url : str
        Its address, with a slash at the end.
    root : Path
        The folder that it shows.
    log : Path
        What it has printed.
    """

    url: str
    root: Path
    log: Path

    def document(self, name: str) -> str:
        """Return the address that opens notebook `name` alone, in a fresh workspace."""
        return f"{self.url}doc/tree/{name}?reset&token={TOKEN}"


def _environment(home: Path) -> dict[str, str]:
    """Return the environment that keeps Jupyter and IPython inside `home`."""
    folders = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "IPYTHONDIR": home / "ipython",
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {**os.environ, **{name: str(folder) for name, folder in folders.items()}}


def _configure(home: Path, root: Path, port: int) -> None:
    """Write the server's configuration and Lab's settings."""
    server = {
        "ServerApp": {
            "allow_root": True,
            "ip": "127.0.0.1",
            "open_browser": False,
            "port": port,
            "root_dir": str(root),
        },
        "IdentityProvider": {"token": TOKEN},
        # A page's script may then give Lab's commands by name (`jupyterapp.commands`).
        "LabApp": {"expose_app_in_browser": True},
    }
    config = home / "config"
    (config / "jupyter_server_config.json").write_text(json.dumps(server))
    (config / "labconfig").mkdir(exist_ok=True)
    (config / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _address(home: Path, process: subprocess.Popen[bytes]) -> str | None:
    """Return the server's address once it has written it down (the port may differ from the one asked for)."""
    for record in (home / "runtime").glob("jpserver-*.json"):
        try:
            found = json.loads(record.read_text())
        except ValueError:  # half written
            continue
        if found["pid"] == process.pid:
            return str(found["url"])
    return None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}api/status?token={TOKEN}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _wait(home: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the server's address as soon as it answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        url = _address(home, process)
        if url is not None and _answers(url):
            return url
        time.sleep(0.1)
    state = "stopped" if process.poll() is not None else f"did not answer within {START_SECONDS:.0f} s"
    raise LabServerError(f"JupyterLab {state}:\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server, and with it its kernels."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def serve(notebooks: Path, home: Path) -> Iterator[LabServer]:
    """Run JupyterLab on a copy of `notebooks` for as long as the context lasts.

    Parameters
    ----------
    notebooks : Path
        The folder to copy and show; nothing in it changes.
    home : Path
        An empty or absent folder for the copy and for all that Jupyter writes.

    Raises
    ------
    LabServerError
        If the server stops or does not answer.
    """
    root = home / "root"
    shutil.copytree(notebooks, root, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    environment = _environment(home)
    _configure(home, root, _free_port())
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab"],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield LabServer(url=_wait(home, process, log), root=root, log=log)
        finally:
            _stop(process)
