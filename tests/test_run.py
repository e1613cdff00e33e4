"""What is promised of tests/run.py, and that the workflow runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from helpers.machine import ROOT
from helpers.page import steps


def test_tests():
    """The workflow types what the page says, and what is in docker-compose.yml apart."""
    (command,) = steps("Tests")
    assert command == "python3 tests/run.py\n"
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    typed = re.findall(r"- run: (.*tests/run.py.*)", workflow)
    assert sorted(typed) == [command.strip(), f"{command.strip()} tests/test_compose.py"]
    assert "tests/run.py" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("import os", "E402"),
        ("number: int = 'text'", "would be reformatted"),
        ('number: int = "text"', "Incompatible types in assignment"),
    ],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_mistakes_in_the_code_are_found_before_the_tests_begin(project, mistake, words):
    with (project / "worker.py").open("a") as worker:
        worker.write(f"{mistake}\n")
    only_collect = {**os.environ, "PYTEST_ADDOPTS": "--collect-only"}  # if it comes to that
    ended = subprocess.run(
        [sys.executable, "tests/run.py"],
        cwd=project,
        env=only_collect,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert words in ended.stdout
    assert "test session starts" not in ended.stdout
