"""What every test may ask for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PROJECT = Path(__file__).parents[1]

# The same examples in every run: a test that fails fails for everyone. `make test-long` looks for new ones.
settings.register_profile("default", max_examples=50, deadline=None, derandomize=True)
settings.register_profile(
    "long", max_examples=5000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def project():
    """The project's folder."""
    return PROJECT


@pytest.fixture(scope="session")
def artefacts():
    """The folder for pictures and other things to look at after the run; git ignores it."""
    folder = PROJECT / "artefacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cc32(tmp_path_factory):
    """The command of a C compiler that links freestanding programs for 32-bit x86."""
    source = tmp_path_factory.mktemp("cc32") / "probe.c"
    source.write_text("unsigned long long n = 9, d = 2;\nvoid _start(void) { n /= d; for (;;); }\n")
    options = [
        "-ffreestanding",
        "-nostdlib",
        "-static",
        "-no-pie",
        str(source),
        "-lgcc",
        "-o",
        str(source.parent / "a"),
    ]
    for command in (["gcc", "-m32"], ["i686-linux-gnu-gcc"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, *options], capture_output=True, check=False).returncode == 0
        ):
            return command
    raise RuntimeError("no compiler for 32-bit x86 works here; tools/requirements.sh test installs one")
