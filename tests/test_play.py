"""What is promised of tests/play.py: it plays the tutorial, on a RabbitMQ of its own."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from helpers.amqp import get_message, messages_ready, open_channel
from helpers.docker import PYTHON_IMAGE, docker, need_images
from helpers.page import orders, steps
from helpers.script import Script, assert_quiet, wait_until
from helpers.setup import ROOT


@pytest.fixture
def start_play(project, tmp_path):
    """Starts a copy's play.py: in the project's own folder, it might make .venv anew."""
    started = []
    (tmp_path / "elsewhere").mkdir()

    def start(**environment):
        python, play = project / ".venv" / "bin" / "python", project / "tests" / "play.py"
        started.append(Script(play, python=python, directory=tmp_path / "elsewhere", **environment))
        return started[-1]

    yield start
    for play in started:
        play.kill()


def processes_in(folder):
    """The command lines of the processes that name this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(folder) in command:
            found.append(command)
    return found


def test_see_it_run(start_play, tmp_path):
    """From any folder, and it leaves nothing."""
    command, _in_docker, picture = steps("See it run")  # in test_compose.py
    assert command == "python3 tests/play.py\n"
    (tmp_path / "temporary").mkdir()
    play = start_play(TMPDIR=str(tmp_path / "temporary"))
    assert play.wait() == 0
    assert_quiet(play)
    assert orders("\n".join(play.out)) == orders(picture)
    assert "\x1b" not in str(play.out)
    assert list(tmp_path.rglob("elsewhere/*")) == list(tmp_path.rglob("temporary/*")) == []
    assert processes_in(tmp_path / "temporary") == []


@pytest.mark.parametrize("end", ["ctrl_c", "terminate"])
def test_play_leaves_nothing_when_it_is_stopped(start_play, tmp_path, end):
    (tmp_path / "temporary").mkdir()
    play = start_play(TMPDIR=str(tmp_path / "temporary"))
    play.wait_for(" [x] Received")
    assert processes_in(tmp_path / "temporary")
    getattr(play, end)()
    assert play.wait() == {"ctrl_c": 130, "terminate": 1}[end]
    assert_quiet(play)
    wait_until(lambda: processes_in(tmp_path / "temporary") == [], "its RabbitMQ has ended")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("end", ["ctrl_c", "terminate"])
def test_play_takes_its_tasks_back_when_it_is_stopped(broker, start_play, send, end):
    """From the RabbitMQ of AMQP_URL, and no others."""
    play = start_play(AMQP_URL=broker.url)
    play.wait_for(" [x] Sent 'Fifth message.....'")
    assert not any("Starting" in line for line in play.out)
    send(broker.url, "somebody's work")
    getattr(play, end)()
    assert play.wait() == {"ctrl_c": 130, "terminate": 1}[end]
    assert_quiet(play)
    wait_until(lambda: messages_ready(broker.url) == 1, "only the other task is left")
    assert get_message(broker.url) == b"somebody's work"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://guest:a/5ecret@host", "AMQP_URL is no address such as amqp://guest:guest@127"),
        ("amqp://127.0.0.1:1", "The RabbitMQ of AMQP_URL cannot be used: "),
    ],
)
def test_play_says_what_is_wrong_with_amqp_url(start_play, url, says):
    play = start_play(AMQP_URL=url)
    assert play.wait() == 1
    (line,) = play.err
    assert line.startswith(f" [!] {says}")
    assert "5ecret" not in line


@pytest.mark.parametrize("settings", [{}, {"x-queue-type": "quorum"}])
def test_play_leaves_a_queue_alone_that_is_not_its_own(broker, start_play, settings):
    """One with a task in it, or with other settings, as after the RabbitMQ team's own scripts."""
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True, arguments=settings)
        channel.basic_publish("", "task_queue", b"somebody's work")
    play = start_play(AMQP_URL=broker.url)
    assert play.wait() == 1
    (line,) = play.err
    assert line.startswith(" [!] The ")
    assert ("inequivalent arg" if settings else "is in use (tasks: 1, workers: 0)") in line
    assert messages_ready(broker.url) == 1


@pytest.mark.parametrize("no_color", ["", "1"])
def test_play_colours_the_names_on_a_terminal(broker, project, no_color):
    ours, theirs = pty.openpty()
    play = subprocess.Popen(
        [project / ".venv" / "bin" / "python", project / "tests" / "play.py"],
        env={**os.environ, "AMQP_URL": broker.url, "NO_COLOR": no_color},
        stdout=theirs,
    )
    os.close(theirs)
    try:
        with open(ours, errors="replace") as terminal:
            line = next(line for line in terminal if "Waiting" in line)
    finally:
        play.terminate()
        play.wait()
    assert line.startswith("worker 1 |" if no_color else "\x1b[36mworker 1 \x1b[0m|")


def test_play_installs_what_it_needs_on_a_bare_machine():
    need_images(PYTHON_IMAGE)
    *_, picture = steps("See it run")
    copy = "mkdir /copy && cd /project && cp -r *.py requirements.txt tests /copy"
    command = f"{copy} && python3 /copy/tests/play.py && python3 /copy/tests/play.py"
    run = ("run", "--rm", "--init", "--volume", f"{ROOT}:/project:ro", PYTHON_IMAGE)
    played = docker(*run, "sh", "-c", command)
    assert played.returncode == 0, played.stderr
    assert played.stderr == ""
    assert played.stdout.count("Installing rabbitmq-server ...") == 1
    assert played.stdout.count("Making .venv, a virtual environment ...") == 1
    assert orders(played.stdout) == orders(picture)
