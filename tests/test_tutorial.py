"""What the tutorial promises: tasks in turn, one at a time, none lost."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LOST, WAITING, Asleep, Run
from shared import readme
from shared.broker import Broker
from shared.console import Console, until
from shared.machine import ROOT
from shared.task_queue import channel, take, waiting


def test_five_tasks_reach_two_workers_in_turn(broker: Broker, worker: Run, send: Run) -> None:
    workers = [worker(broker.url), worker(broker.url)]
    tasks = [
        f"{word} message{'.' * dots}"
        for dots, word in enumerate(("First", "Second", "Third", "Fourth", "Fifth"), start=1)
    ]
    for task in tasks:
        sent = send(broker.url, *task.split())
        assert (sent.out, sent.err, sent.end()) == ([f" [x] Sent {task!r}"], [], 0)
    workers[0].wait_for(" [x] Done", 3)
    workers[1].wait_for(" [x] Done", 2)
    for one, its_tasks in zip(workers, (tasks[0::2], tasks[1::2])):
        assert one.out == [WAITING] + [
            line for task in its_tasks for line in (f" [x] Received {task!r}", " [x] Done")
        ]
        assert one.err == []
    assert waiting(broker.url) == 0


@pytest.mark.parametrize("words", [(), ("",)])
def test_without_words_the_message_is_hello_world(
    broker: Broker, send: Run, words: tuple[str, ...]
) -> None:
    assert send(broker.url, *words).out == [" [x] Sent 'Hello World!'"]
    assert take(broker.url) == b"Hello World!"


def test_every_argument_is_the_message(broker: Broker, send: Run) -> None:
    assert send(broker.url, "--help", "-x", "", "two  spaces").end() == 0
    assert take(broker.url) == b"--help -x  two  spaces"


def test_a_dot_is_a_second_of_work(broker: Broker, worker: Run, send: Run) -> None:
    one = worker(broker.url)
    send(broker.url, "a.b.c.")
    one.wait_for("Received")
    begun = time.monotonic()
    one.wait_for("Done")
    assert 2.5 < time.monotonic() - begun < 6


def test_lines_come_through_a_pipe_as_they_happen_with_u(
    broker: Broker, console: Run, send: Run
) -> None:
    one = console("-u", "worker.py", AMQP_URL=broker.url, PYTHONUNBUFFERED="")
    one.wait_for(WAITING)
    send(broker.url, "long", "." * 60)
    assert one.wait_for("Received") == f" [x] Received 'long {'.' * 60}'"
    assert " [x] Done" not in one.out


def test_lines_show_on_a_terminal_as_they_happen(broker: Broker) -> None:
    ours, theirs = pty.openpty()
    one = subprocess.Popen(
        [sys.executable, "worker.py"],
        cwd=ROOT,
        env={**os.environ, "AMQP_URL": broker.url, "PYTHONUNBUFFERED": ""},
        stdout=theirs,
    )
    os.close(theirs)
    try:
        with os.fdopen(ours) as terminal:
            assert terminal.readline().rstrip() == WAITING
    finally:
        one.kill()
        one.wait()


def test_a_busy_worker_is_passed_over(
    broker: Broker, worker: Run, send: Run, asleep: Asleep
) -> None:
    """Every odd task is heavy, and yet no worker gets both of them."""
    workers = [worker(broker.url), worker(broker.url)]
    with asleep(workers):
        for task in ("heavy....", "light 1", "heavy....", "light 2", "light 3"):
            send(broker.url, task)
    until(lambda: sum(one.out.count(" [x] Done") for one in workers) == 5)
    assert [sum("heavy" in line for line in one.out) for one in workers] == [1, 1]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_the_task_of_a_dead_worker_goes_to_another(
    broker: Broker, worker: Run, send: Run, number: int, status: int
) -> None:
    first, second = worker(broker.url), worker(broker.url)
    send(broker.url, "Survive me.....")
    first.wait_for("Received")
    first.signal(number)
    assert first.end(limit=2) == status
    assert first.err == []
    second.wait_for(" [x] Received 'Survive me.....'")
    second.wait_for(" [x] Done")
    assert first.out == [WAITING, " [x] Received 'Survive me.....'"]


def power_cut(broker: Broker) -> None:
    broker.settle()
    broker.kill()
    broker.start()


def close_connections(broker: Broker) -> None:
    broker.ctl("close_all_connections", "maintenance")


@pytest.mark.parametrize("fault", [power_cut, close_connections])
def test_sent_tasks_survive_and_workers_come_back(
    broker: Broker, worker: Run, send: Run, asleep: Asleep, fault: Callable[[Broker], None]
) -> None:
    workers = [worker(broker.url), worker(broker.url)]
    in_hand = [f"in hand 1{'.' * 9}", f"in hand 2{'.' * 9}"]
    with asleep(workers):
        for task in (*in_hand, *(f"waiting {n}" for n in range(8))):
            assert send(broker.url, task).out == [f" [x] Sent {task!r}"]
    for one, task in zip(workers, in_hand):
        one.wait_for(f" [x] Received {task!r}")
    fault(broker)
    for one in workers:
        one.wait_for("Received", 2, limit=40)
        assert one.err[0].startswith(f"{LOST}127.0.0.1:{broker.port}: ")
    assert [one.out[:4] for one in workers] == [
        [WAITING, f" [x] Received {task!r}", " [x] Done", WAITING] for task in in_hand
    ]
    assert {one.out[4] for one in workers} == {f" [x] Received {task!r}" for task in in_hand}
    assert waiting(broker.url) == 8


def test_queue_and_messages_are_durable_as_rabbitmq_sees_them(
    broker: Broker, send: Run, worker: Run
) -> None:
    send(broker.url, "kept")
    columns = ("name", "durable", "exclusive", "auto_delete", "arguments", "messages_persistent")
    listed = broker.ctl("list_queues", "--no-table-headers", *columns)
    name, durable, exclusive, auto_delete, arguments, persistent = listed.strip("\n").split("\t")
    assert (name, durable, exclusive, auto_delete) == ("task_queue", "true", "false", "false")
    assert arguments in ("", "[]") or arguments == '[{"x-queue-type","classic"}]'
    assert persistent == "1"
    worker(broker.url)
    consumers = broker.ctl("list_consumers", "--no-table-headers", "ack_required", "prefetch_count")
    assert consumers.split() == ["true", "1"]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("첫 번째 메시지", "'첫 번째 메시지'"),
        ("🐇", "'🐇'"),
        ("it's", '"it\'s"'),
        ("\x1b[31mred\x07\n\t", r"'\x1b[31mred\x07\n\t'"),
        ("\u202egnp", r"'\u202egnp'"),
    ],
)
def test_a_message_goes_through_byte_for_byte_and_is_shown_readably(
    broker: Broker, send: Run, worker: Run, word: str, shown: str
) -> None:
    assert send(broker.url, word).out == [f" [x] Sent {shown}"]
    assert take(broker.url) == word.encode()
    send(broker.url, word)
    one = worker(broker.url)
    one.wait_for("Done")
    assert one.out[1] == f" [x] Received {shown}"


def test_text_is_utf_8_whatever_the_locale_says(broker: Broker, tmp_path: Path) -> None:
    """In a Latin-1 locale, the terminal's one byte for é is two in the queue."""
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "latin1")]
    if not shutil.which("localedef") or subprocess.run(command, check=False).returncode:
        pytest.skip("no Latin-1 locale can be made here")
    locale = {"LOCPATH": str(tmp_path), "LC_ALL": "latin1", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "new_task.py", b"caf\xe9"],
        cwd=ROOT,
        env={**os.environ, **locale, "AMQP_URL": broker.url},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b" [x] Sent 'caf\xe9'\n"
    assert take(broker.url) == "café".encode()


def test_any_message_is_worked(broker: Broker, worker: Run) -> None:
    bodies = [b"", b"x" * 1_000_000, bytes(range(256)), b"\x1b[2J\x1b]0;title\x07", "첫".encode()]
    with channel(broker.url) as ch:
        ch.queue_declare("task_queue", durable=True)
        for body in [*bodies, b"last"]:
            ch.basic_publish("", "task_queue", body)
    one = worker(broker.url)
    one.wait_for(" [x] Received 'last'", limit=60)
    one.wait_for(" [x] Done", len(bodies) + 1, limit=60)
    assert all(line.isprintable() for line in one.out)
    assert " [x] Received '첫'" in one.out
    assert f" [x] Received '{'x' * 1_000_000}'" in one.out
    assert one.err == []
    one.stop()
    assert waiting(broker.url) == 0


def test_amqp_url_names_port_login_and_virtual_host(broker: Broker, send: Run, worker: Run) -> None:
    broker.ctl("add_user", "kim", "p@5ecret/word")
    broker.ctl("add_vhost", "a/b")
    broker.ctl("set_permissions", "-p", "a/b", "kim", ".*", ".*", ".*")
    url = f"amqp://kim:p%405ecret%2Fword@127.0.0.1:{broker.port}/a%2Fb"
    assert send(url, "elsewhere").out == [" [x] Sent 'elsewhere'"]
    worker(url).wait_for(" [x] Received 'elsewhere'")
    assert "task_queue" not in broker.ctl("list_queues", "name")


def test_the_scripts_need_nothing_but_pika() -> None:
    assert (ROOT / "requirements.txt").read_text().split(">")[0] == "pika"


def order(line: str) -> str:
    """A line of play's picture without its seconds: `worker 1 | 135`."""
    name, drawn = line.split(" | ")
    return f"{name} | " + re.sub(r"(\d)\1+", r"\1", drawn.replace(" ", ""))


def test_play_shows_the_tutorial_from_any_directory(broker: Broker, tmp_path: Path) -> None:
    command = str(ROOT / "tests" / "play.py")
    play = Console(command, AMQP_URL=broker.url, directory=str(tmp_path))
    try:
        assert play.end(limit=60) == 0
        received = [line for line in play.out if "Received" in line]
        assert [line.split()[1] for line in sorted(received, key=len)] == ["1", "2", "1", "2", "1"]
        assert f"Using the RabbitMQ at 127.0.0.1:{broker.port}." in play.out
        assert "\x1b" not in str(play.out)
        (picture,) = readme.blocks("text", readme.FIRST_SCREEN)[1:]
        assert [order(line) for line in play.out[-2:]] == [
            order(line) for line in picture.splitlines()
        ]
        assert broker.runs()
        assert list(tmp_path.iterdir()) == []
    finally:
        play.kill()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_play_colours_the_names_on_a_terminal(broker: Broker, no_color: str) -> None:
    ours, theirs = pty.openpty()
    play = subprocess.Popen(
        [sys.executable, "tests/play.py"],
        cwd=ROOT,
        env={**os.environ, "AMQP_URL": broker.url, "NO_COLOR": no_color},
        stdout=theirs,
    )
    os.close(theirs)
    try:
        with os.fdopen(ours, errors="replace") as terminal:
            line = next(line for line in terminal if "Waiting" in line)
        assert line.startswith("worker 1 |" if no_color else "\x1b[36mworker 1 \x1b[0m|")
    finally:
        play.terminate()
        play.wait()


def test_play_leaves_tasks_alone_that_are_not_its_own(broker: Broker, send: Run) -> None:
    send(broker.url, "somebody's work")
    play = Console("tests/play.py", AMQP_URL=broker.url)
    assert play.end() == 1
    assert play.err == [
        f" [!] task_queue at 127.0.0.1:{broker.port} is in use: stop its workers, then empty it."
    ]
    assert waiting(broker.url) == 1
