"""What is promised of tests/play.py: it plays the tutorial, on a RabbitMQ of its own."""

from __future__ import annotations

import functools

import psutil
import pytest
from helpers.page import steps
from helpers.script import assert_quiet, wait_until


@pytest.fixture
def start_play(project, start_script, tmp_path):
    """Starts a copy's play.py: in the project's own folder, it might make .venv anew.

    From another folder, and what it and its RabbitMQ write goes to `temporary`.
    """
    python, play = project / ".venv" / "bin" / "python", project / "tests" / "play.py"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return functools.partial(
        start_script, play, python=python, directory=tmp_path, TMPDIR=str(temporary)
    )


def processes_in(folder):
    """The processes whose command lines name this folder."""
    running = psutil.process_iter(["cmdline"])
    return [process for process in running if str(folder) in str(process.info["cmdline"])]


def test_see_it_run(start_play, tmp_path):
    _in_docker, _python, command, picture = steps("See it run")  # in test_compose.py
    assert command == "python3 tests/play.py\n"
    play = start_play()
    assert play.wait() == 0
    assert_quiet(play)
    assert play.out[-2:] == picture.splitlines()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize("end", ["ctrl_c", "terminate"])
def test_play_leaves_nothing_when_it_is_stopped(start_play, tmp_path, end):
    play = start_play()
    play.wait_for(" [x] Received")
    getattr(play, end)()
    assert play.wait() == {"ctrl_c": 130, "terminate": 1}[end]
    assert_quiet(play)
    wait_until(lambda: processes_in(tmp_path) == [], "its RabbitMQ and its scripts have ended")
    assert list((tmp_path / "temporary").iterdir()) == []
