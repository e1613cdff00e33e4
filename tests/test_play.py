"""What is promised of tests/play.py: it plays the tutorial, on a RabbitMQ of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import page
from helpers.amqp import get_message, messages_ready, open_channel
from helpers.docker import PYTHON_IMAGE, docker, need_images
from helpers.page import orders
from helpers.script import assert_quiet, wait_until
from helpers.setup import ROOT

PLAY = ROOT / "tests" / "play.py"


def picture_of_the_page():
    (picture,) = page.blocks("text", page.section("See it run"))
    return picture


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


def test_play_plays_the_tutorial_from_any_folder(start_script, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "temporary").mkdir()
    play = start_script(PLAY, directory=tmp_path / "folder", TMPDIR=str(tmp_path / "temporary"))
    assert play.wait() == 0
    assert_quiet(play)
    assert orders("\n".join(play.out)) == orders(picture_of_the_page())
    assert "\x1b" not in str(play.out)
    assert list(tmp_path.rglob("folder/*")) == list(tmp_path.rglob("temporary/*")) == []
    assert processes_in(tmp_path / "temporary") == []


@pytest.mark.parametrize("end", ["ctrl_c", "terminate"])
def test_play_leaves_nothing_when_it_is_stopped(start_script, tmp_path, end):
    play = start_script(PLAY, TMPDIR=str(tmp_path))
    play.wait_for(" [x] Received")
    assert processes_in(tmp_path)
    getattr(play, end)()
    assert play.wait() == {"ctrl_c": 130, "terminate": 1}[end]
    assert_quiet(play)
    wait_until(lambda: processes_in(tmp_path) == [], "its RabbitMQ has ended")
    assert list(tmp_path.iterdir()) == []


def test_play_uses_the_rabbitmq_of_amqp_url(broker, start_script):
    play = start_script(PLAY, AMQP_URL=broker.url)
    assert play.wait() == 0
    assert orders("\n".join(play.out)) == orders(picture_of_the_page())
    assert not any("Starting" in line for line in play.out)
    assert sum("Received" in line for line in play.out) == 5
    assert broker.is_running()
    assert messages_ready(broker.url) == 0


@pytest.mark.parametrize("end", ["ctrl_c", "terminate"])
def test_play_takes_its_tasks_back_when_it_is_stopped(broker, start_script, send, end):
    """And no others."""
    play = start_script(PLAY, AMQP_URL=broker.url)
    play.wait_for(" [x] Sent 'Fifth message.....'")
    send(broker.url, "somebody's work")
    getattr(play, end)()
    assert play.wait() == {"ctrl_c": 130, "terminate": 1}[end]
    assert_quiet(play)
    wait_until(lambda: messages_ready(broker.url) == 1, "only the other task is left")
    assert get_message(broker.url) == b"somebody's work"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rabbit.example.com", "AMQP_URL is no address such as amqp://guest:guest@127.0.0.1:5672"),
        ("amqp://guest:a/5ecret@host", "AMQP_URL is no address such as"),
        ("amqp://127.0.0.1:1", "The RabbitMQ of AMQP_URL cannot be used: "),
    ],
)
def test_play_says_what_is_wrong_with_amqp_url(start_script, url, says):
    play = start_script(PLAY, AMQP_URL=url)
    assert play.wait() == 1
    (line,) = play.err
    assert line.startswith(f" [!] {says}")
    assert "5ecret" not in line


def test_play_leaves_tasks_alone_that_are_not_its_own(broker, start_script, send):
    send(broker.url, "somebody's work")
    play = start_script(PLAY, AMQP_URL=broker.url)
    assert play.wait() == 1
    (line,) = play.err
    assert line.startswith(" [!] The task_queue of AMQP_URL is in use (tasks: 1, workers: 0).")
    assert messages_ready(broker.url) == 1


def test_play_says_that_the_queue_has_other_settings(broker, start_script):
    """As after the RabbitMQ team's own scripts."""
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
    play = start_script(PLAY, AMQP_URL=broker.url)
    assert play.wait() == 1
    (line,) = play.err
    assert "inequivalent arg" in line


@pytest.mark.parametrize("no_color", ["", "1"])
def test_play_colours_the_names_on_a_terminal(broker, no_color):
    ours, theirs = pty.openpty()
    play = subprocess.Popen(
        [sys.executable, PLAY],
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


def test_play_installs_what_it_needs_on_a_bare_machine(tmp_path):
    need_images(PYTHON_IMAGE)
    copy = "mkdir /copy && cd /project && cp -r *.py requirements.txt tests /copy"
    command = f"{copy} && python3 /copy/tests/play.py && python3 /copy/tests/play.py"
    run = ("run", "--rm", "--init", "--volume", f"{ROOT}:/project:ro", PYTHON_IMAGE)
    played = docker(*run, "sh", "-c", command)
    assert played.returncode == 0, played.stderr
    assert played.stderr == ""
    assert played.stdout.count("Installing rabbitmq-server ...") == 1
    assert played.stdout.count("Making .venv, a virtual environment ...") == 1
    assert orders(played.stdout) == orders(picture_of_the_page())
