"""What is promised of worker.py alone: it comes back, ends when told to, and hides no error."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LOST, NO_CONNECTION, WAITING, Run, changed
from shared.broker import Broker, free_port
from shared.console import until
from shared.relay import Relay
from shared.task_queue import channel, waiting

WORK = '    time.sleep(body.count(b"."))\n'


def let_in(broker: Broker) -> None:
    broker.ctl("change_password", "guest", "guest")


def keep_out(broker: Broker) -> None:
    broker.ctl("change_password", "guest", "5ecret")


@pytest.mark.parametrize(
    ("fault", "cure"),
    [(Broker.kill, Broker.start), (keep_out, let_in)],
    ids=["no broker", "refused login"],
)
def test_a_worker_gets_in_when_it_is_put_right(
    broker: Broker, console: Run, fault: Callable[[Broker], None], cure: Callable[[Broker], None]
) -> None:
    fault(broker)
    try:
        one = console("worker.py", AMQP_URL=broker.url)
        one.wait_for(NO_CONNECTION, 2)
        assert one.out == []
    finally:
        cure(broker)
    one.wait_for(WAITING)


def test_a_worker_without_the_permission_to_read_ends(broker: Broker, console: Run) -> None:
    broker.ctl("set_permissions", "guest", ".*", ".*", "")
    try:
        one = console("worker.py", AMQP_URL=broker.url)
        assert "access to queue" in one.traceback()
        assert (one.end(), one.out, one.err) == (1, [], [])
    finally:
        broker.ctl("set_permissions", "guest", ".*", ".*", ".*")


def test_a_worker_tries_each_address_of_a_name(
    broker: Broker, console: Run, send: Run, tmp_path: Path
) -> None:
    """Two addresses in the name service, and nothing at the first: as one node of a cluster."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def two(host, port, *rest, real=socket.getaddrinfo, **more):\n"
        "    hosts = ['127.0.0.2', '127.0.0.1'] if host == 'rabbit.example.com' else [host]\n"
        "    return [entry for one in hosts for entry in real(one, port, *rest, **more)]\n"
        "socket.getaddrinfo = two\n"
    )
    url = f"amqp://rabbit.example.com:{broker.port}"
    assert send(url, "found", PYTHONPATH=str(tmp_path)).out == [" [x] Sent 'found'"]
    one = console("worker.py", AMQP_URL=url, PYTHONPATH=str(tmp_path))
    one.wait_for(" [x] Received 'found'")
    assert one.err == []


def test_work_may_block_longer_than_rabbitmqs_own_heartbeat_timeout(
    broker: Broker, worker: Run, send: Run
) -> None:
    """The worker's number is the one that holds. RabbitMQ's would be a second here."""
    broker.ctl("eval", "application:set_env(rabbit, heartbeat, 1).")
    try:
        busy, idle = worker(broker.url), worker(broker.url)
        send(broker.url, "blocking..........")
        busy.wait_for(" [x] Done")
        until(lambda: waiting(broker.url) == 0)
    finally:
        broker.ctl("eval", "application:set_env(rabbit, heartbeat, 60).")
    assert busy.out == [WAITING, " [x] Received 'blocking..........'", " [x] Done"]
    assert idle.out == [WAITING]
    assert busy.err == idle.err == []


def test_workers_leave_a_frozen_broker_and_come_back(
    broker: Broker, worker: Run, send: Run, tmp_path: Path
) -> None:
    script = changed(tmp_path, ("heartbeat = 300", "heartbeat = 1"))
    busy, idle = (worker(f"{broker.url}?stack_timeout=2", script) for _ in range(2))
    send(broker.url, "in hand", "." * 8)
    busy.wait_for("Received")
    broker.signal(signal.SIGSTOP)
    for one in (busy, idle):
        assert "AMQPHeartbeatTimeout" in one.wait_for(LOST, limit=30)
    broker.signal(signal.SIGCONT)
    for one in (busy, idle):
        one.wait_for(WAITING, 2)


@pytest.mark.parametrize("task", ["", "in hand..."])
def test_a_worker_whose_queue_is_deleted_declares_it_anew(
    broker: Broker, worker: Run, send: Run, task: str
) -> None:
    one = worker(broker.url)
    if task:
        send(broker.url, task)
        one.wait_for("Received")
    with channel(broker.url) as ch:
        ch.queue_delete("task_queue")
    one.wait_for(WAITING, 2)
    send(broker.url, "next")
    one.wait_for(" [x] Received 'next'")
    one.wait_for(" [x] Done", 2 if task else 1)
    assert one.err == []
    # The old connection is closed, and holds nothing back.
    until(lambda: broker.ctl("list_connections", "state").count("running") == 1)


def test_an_overdue_task_of_a_quorum_queue_is_not_lost(
    broker: Broker, quorum: str, console: Run, send: Run
) -> None:
    """The worker ends with RabbitMQ's words; RabbitMQ 4.3 has none, and gives it the task again."""
    broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1000).")
    try:
        send(quorum, "too long...")
        one = console("worker.py", AMQP_URL=quorum)
        if broker.version() < (4, 3):
            assert "delivery acknowledgement" in one.traceback()
        else:
            one.wait_for("Received", 2)
    finally:
        broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
    if broker.version() < (4, 3):
        one = console("worker.py", AMQP_URL=quorum)
    until(lambda: waiting(quorum) == 0 and one.out[-1] == " [x] Done")
    assert one.err == []


@pytest.mark.parametrize("error", ["ConnectionResetError", "TimeoutError", "ValueError"])
def test_a_mistake_in_the_work_ends_the_worker_with_its_traceback(
    broker: Broker, worker: Run, send: Run, tmp_path: Path, error: str
) -> None:
    """Also one that looks like a fault of the network; the task goes to the next worker."""
    one = worker(broker.url, changed(tmp_path, (WORK, f"    raise {error}('my own')\n")))
    send(broker.url, "poison")
    assert one.traceback() == f"{error}: my own"
    assert (one.end(), one.err) == (1, [])
    until(lambda: waiting(broker.url) == 1)


def test_a_worker_ends_when_nobody_reads_it(broker: Broker, console: Run, send: Run) -> None:
    send(broker.url, "unread")
    one = console("worker.py", AMQP_URL=broker.url, read=False)
    assert one.traceback() == "BrokenPipeError: [Errno 32] Broken pipe"
    assert waiting(broker.url) == 1


MOMENTS = ["idle", "working", "frozen", "subscribing", "trying again"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -15)])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_ends_at_once_when_told_to(
    broker: Broker,
    console: Run,
    send: Run,
    relay: Callable[..., Relay],
    moment: str,
    number: int,
    status: int,
) -> None:
    """CTRL+C and SIGTERM, without a traceback, whatever the worker or RabbitMQ is at."""
    url, begun = broker.url, WAITING
    if moment == "trying again":
        url, begun = f"amqp://127.0.0.1:{free_port()}", NO_CONNECTION
    elif moment == "subscribing":
        broker.signal(signal.SIGSTOP)  # it takes the connection, and says nothing
        silent = relay(broker.port)
        url = silent.url
    one = console("worker.py", AMQP_URL=url)
    if moment == "subscribing":
        assert silent.connected.wait(20)
    else:
        one.wait_for(begun)
    if moment in ("working", "frozen"):
        send(broker.url, "long" + "." * 60)
        one.wait_for("Received")
    if moment == "frozen":
        broker.signal(signal.SIGSTOP)
    one.signal(number)
    assert one.end(limit=2) == status
    assert [line for line in one.err if not line.startswith(NO_CONNECTION)] == []
