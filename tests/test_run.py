"""What is promised of tests/run.py, and of the set-up that it shares with tests/play.py."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.page import steps
from helpers.setup import ROOT


def test_tests():
    """CI runs the command of the page."""
    (command,) = steps("Tests")
    assert command == "python3 tests/run.py\n"
    assert 'exec python3 "$(dirname "$0")/../tests/run.py"\n' in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("broken", ["leads nowhere", "without pip"])
def test_a_broken_virtual_environment_is_made_again(project, broken):
    """It leads nowhere when its folder has moved, or its Python is gone.

    Beside a file of the reader's, which is neither run nor checked.
    """
    (project / "my_worker.py").write_text("import os, sys\n")
    venv = project / ".venv"
    venv.unlink()
    if broken == "leads nowhere":
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").symlink_to("/nowhere/python")
    else:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    ended = subprocess.run(
        [sys.executable, "tests/run.py", "--version"], cwd=project, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    printed = (ended.stdout + ended.stderr).splitlines()
    assert printed[0] == "Making .venv, a virtual environment ..."
    assert printed[-1].startswith("pytest ")
