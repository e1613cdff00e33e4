"""What is promised of tests/run.py, and of the set-up that it shares with tests/play.py."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.script import assert_quiet
from helpers.setup import ROOT


@pytest.fixture
def set_up(project, start_script):
    """Runs these lines of Python with the set-up's functions, until they end."""

    def run(*lines, **environment):
        script = project / "tests" / "try_it.py"
        script.write_text("\n".join(["import os, sys", "from helpers.setup import *", *lines]))
        tried = start_script(script, **environment)
        tried.wait()
        return tried

    return run


def tool(folder, name, *lines):
    """A program in this folder, for a PATH with nothing else in it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["#!/bin/sh", *lines]))
    (folder / name).chmod(0o755)
    return str(folder)


def test_run_runs_in_the_readers_console_beside_the_readers_files(project):
    """In an environment that is activated, and has nothing in it yet."""
    (project / "my_worker.py").write_text("import os, sys\n")
    subprocess.run([sys.executable, "-m", "venv", project / ".venv"], check=True)
    ended = subprocess.run(
        [project / ".venv/bin/python", "tests/run.py", "--version"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (ended.stdout + ended.stderr).splitlines()[-1].startswith("pytest ")


def test_ci_runs_the_command_of_the_page():
    assert "tests/run.py" in (ROOT / ".ci" / "run").read_text()
    assert "python3 tests/run.py\n" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("broken", ["missing", "leads nowhere", "without pip"])
def test_a_broken_virtual_environment_is_made_again(project, set_up, broken):
    """It leads nowhere when its folder has moved, or its Python is gone."""
    if broken == "leads nowhere":
        (project / ".venv" / "bin").mkdir(parents=True)
        (project / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    if broken == "without pip":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"])
    tried = set_up('enter_venv("requirements.txt")', "import pika", "print(pika.__file__)")
    assert_quiet(tried)
    assert tried.out[0] == "Making .venv, a virtual environment ..."
    assert tried.out[-1].startswith(str(project / ".venv"))


def test_an_old_python_is_named(set_up):
    tried = set_up("sys.version_info = (3, 8, 20)", "enter_venv()")
    (line,) = tried.err
    assert line.startswith(" [!] This is Python 3.")
    assert line.endswith(". Run it with Python 3.9 or newer.")


def test_a_virtual_environment_that_cannot_be_made_is_named(project, set_up):
    (project / ".venv").touch()
    (line,) = set_up("enter_venv()").err
    assert line.startswith(" [!] Making .venv failed: ")
    assert line.endswith(" Is the folder writable?")


def test_a_package_index_out_of_reach_is_named(set_up):
    tried = set_up('enter_venv("requirements.txt")', PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    (line,) = tried.err
    assert line.startswith(" [!] pip install failed: ")
    assert line.endswith(" Can this machine reach PyPI?")


def test_a_machine_without_apt_gets_the_advice(set_up, tmp_path):
    tried = set_up('need_rabbitmq("/nowhere", "Advice.")', PATH=str(tmp_path))
    assert tried.err == [
        " [!] rabbitmq-server is missing, and there is no apt-get to install it with. Advice."
    ]


def test_a_user_without_sudo_gets_the_advice(set_up, tmp_path):
    path = tool(tmp_path / "bin", "apt-get")
    tried = set_up("os.geteuid = lambda: 1000", 'need_rabbitmq("/nowhere", "Advice.")', PATH=path)
    assert tried.err == [" [!] rabbitmq-server is missing, and only root may install it. Advice."]


def test_an_installation_that_fails_is_named(set_up, tmp_path):
    """sudo stands in for root: nothing of this machine is touched."""
    path = tool(tmp_path / "bin", "apt-get")
    tool(tmp_path / "bin", "sudo", "echo E: no such package", "exit 100")
    tried = set_up("os.geteuid = lambda: 1000", 'need_rabbitmq("/nowhere", "Advice.")', PATH=path)
    assert tried.out == ["Installing rabbitmq-server ..."]
    assert tried.err == [" [!] Installing rabbitmq-server failed: E: no such package Advice."]


def test_a_server_that_is_not_there_is_named(set_up):
    tried = set_up('need_rabbitmq("/nowhere", "Advice.")', RABBITMQ_SERVER="/nowhere")
    assert tried.err == [" [!] There is no /nowhere. Set RABBITMQ_SERVER to where it is."]
