"""What the tutorial promises, on a broker with default settings."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import Broker
from conftest import Run, channel, waiting
from console import Console, until
from machine import ROOT

WAITING = " [*] Waiting for messages. To exit press CTRL+C"


def body(broker: Broker) -> bytes:
    """The one task in the queue, as RabbitMQ has it; takes it out."""
    with channel(broker.url) as ch:
        return bytes(ch.basic_get("task_queue", auto_ack=True)[2])


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


@pytest.mark.parametrize("words", [(), ("",), ("", "")])
def test_without_words_the_message_is_hello_world(
    broker: Broker, send: Run, words: tuple[str, ...]
) -> None:
    assert send(broker.url, *words).out == [" [x] Sent 'Hello World!'"]
    assert body(broker) == b"Hello World!"


def test_every_argument_is_the_message(broker: Broker, send: Run) -> None:
    assert send(broker.url, "--help", "-x", "", "two  spaces").end() == 0
    assert body(broker) == b"--help -x  two  spaces"


def test_a_dot_is_a_second_of_work(broker: Broker, worker: Run, send: Run) -> None:
    one = worker(broker.url)
    send(broker.url, "a.b.c.")
    one.wait_for("Received")
    begun = time.monotonic()
    one.wait_for("Done")
    assert 2.5 < time.monotonic() - begun < 5.5


def test_lines_come_through_a_pipe_as_they_happen(broker: Broker, worker: Run, send: Run) -> None:
    one = worker(broker.url)
    send(broker.url, "long", "." * 60)
    assert one.wait_for("Received") == f" [x] Received 'long {'.' * 60}'"
    assert " [x] Done" not in one.out


def test_a_busy_worker_is_passed_over(broker: Broker, worker: Run, send: Run) -> None:
    """Two heavy tasks among four light ones take two workers as long as one heavy one."""
    workers = [worker(broker.url), worker(broker.url)]
    begun = time.monotonic()
    for task in ("heavy......", "light", "heavy......", "light", "light", "light"):
        send(broker.url, task)
    until(lambda: sum(one.out.count(" [x] Done") for one in workers) == 6)
    assert time.monotonic() - begun < 11
    assert sum("heavy" in line for line in workers[0].out) == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)]
)
def test_the_task_of_a_dead_worker_goes_to_another(
    broker: Broker, worker: Run, send: Run, number: int, status: int
) -> None:
    first = worker(broker.url)
    send(broker.url, "Survive me..")
    first.wait_for("Received")
    second = worker(broker.url)
    first.signal(number)
    assert first.end(limit=2) == status
    assert first.err == []
    second.wait_for(" [x] Received 'Survive me..'")
    second.wait_for(" [x] Done")
    assert first.out == [WAITING, " [x] Received 'Survive me..'"]


@pytest.mark.parametrize("end", [Broker.stop, Broker.kill], ids=["stopped", "power cut"])
def test_a_broker_that_ends_keeps_what_was_sent(
    node: Callable[..., Broker], send: Run, worker: Run, end: Callable[[Broker], None]
) -> None:
    broker = node()
    tasks = [f" [x] Sent 'task {number}'" for number in range(8)]
    assert [send(broker.url, "task", str(number)).out[0] for number in range(8)] == tasks
    end(broker)
    broker.start()
    assert waiting(broker.url) == len(tasks)
    one = worker(broker.url)
    one.wait_for("Done", len(tasks))
    assert [line.replace("Received", "Sent") for line in one.out if "Received" in line] == tasks


def test_a_task_may_take_longer_than_the_heartbeats(
    node: Callable[..., Broker], worker: Run, send: Run
) -> None:
    broker = node("heartbeat = 1\n")
    busy, idle = worker(broker.url), worker(broker.url)
    send(broker.url, "long........")
    busy.wait_for(" [x] Done")
    until(lambda: waiting(broker.url) == 0)
    assert busy.out == [WAITING, " [x] Received 'long........'", " [x] Done"]
    assert idle.out == [WAITING]
    assert busy.err == idle.err == []


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
        ("bad \udcff\udc80 bytes", r"'bad \udcff\udc80 bytes'"),
    ],
)
def test_a_message_goes_through_byte_for_byte_and_is_shown_readably(
    broker: Broker, send: Run, worker: Run, word: str, shown: str
) -> None:
    assert send(broker.url, word).out == [f" [x] Sent {shown}"]
    assert body(broker) == word.encode(errors="surrogateescape")
    send(broker.url, word)
    one = worker(broker.url)
    one.wait_for("Done")
    assert one.out[1] == f" [x] Received {shown}"


def test_amqp_url_names_port_login_and_virtual_host(broker: Broker, send: Run, worker: Run) -> None:
    broker.ctl("add_user", "kim", "p@ss/word")
    broker.ctl("add_vhost", "a/b")
    broker.ctl("set_permissions", "-p", "a/b", "kim", ".*", ".*", ".*")
    url = f"amqp://kim:p%40ss%2Fword@127.0.0.1:{broker.port}/a%2Fb?heartbeat=30"
    assert send(url, "elsewhere").out == [" [x] Sent 'elsewhere'"]
    worker(url).wait_for(" [x] Received 'elsewhere'")
    assert "task_queue" not in broker.ctl("list_queues", "name")


def test_play_shows_the_tutorial_from_any_directory(broker: Broker, tmp_path: Path) -> None:
    command = str(ROOT / "tests" / "play.py")
    play = Console(command, AMQP_URL=broker.url, directory=str(tmp_path))
    try:
        play.wait_for("[x] Done", 5, limit=60)
        assert play.end() == 0
        received = [line for line in play.out if "Received" in line]
        assert [line.split()[1] for line in sorted(received, key=len)] == ["1", "2", "1", "2", "1"]
        assert f"Using the RabbitMQ at 127.0.0.1:{broker.port}." in play.out
        assert broker.process and broker.process.poll() is None
        assert list(tmp_path.iterdir()) == []
    finally:
        play.kill()


def test_play_leaves_tasks_alone_that_are_not_its_own(broker: Broker, send: Run) -> None:
    send(broker.url, "somebody's work")
    play = Console("tests/play.py", AMQP_URL=broker.url)
    assert play.end() == 1
    assert play.err == [
        f" [!] task_queue at 127.0.0.1:{broker.port} is in use: stop its workers, then empty it."
    ]
    assert waiting(broker.url) == 1


def test_the_scripts_need_nothing_but_pika() -> None:
    assert (ROOT / "requirements.txt").read_text().split(">")[0] == "pika"
    assert sys.version_info >= (3, 9)
