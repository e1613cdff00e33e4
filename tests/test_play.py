"""What is promised of tests/play.py: it plays the tutorial, on a RabbitMQ of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.amqp import get_message, messages_ready, open_channel
from helpers.page import orders, steps
from helpers.script import Script, assert_quiet, wait_until


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


def test_play_does_not_show_the_password_of_amqp_url(start_play):
    play = start_play(AMQP_URL="amqp://guest:a/5ecret@host")
    assert play.wait() == 1
    assert play.err == [" [!] AMQP_URL is no address such as amqp://guest:guest@127.0.0.1:5672"]


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
