"""What is promised of worker.py alone: it comes back from any fault, and ends when told to."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import WAITING, Run
from shared.broker import Broker, free_port
from shared.console import until
from shared.machine import ROOT
from shared.relay import Relay
from shared.task_queue import channel, waiting

WORKER = (ROOT / "worker.py").read_text()
SLEEP = '    ch.connection.sleep(body.count(b"."))'


def let_in(broker: Broker) -> None:
    broker.ctl("change_password", "guest", "guest")


def keep_out(broker: Broker) -> None:
    broker.ctl("change_password", "guest", "5ecret")


def give_permission(broker: Broker) -> None:
    broker.ctl("set_permissions", "guest", ".*", ".*", ".*")


def take_permission(broker: Broker) -> None:
    broker.ctl("set_permissions", "guest", ".*", ".*", "")


def declare_transient(broker: Broker) -> None:
    with channel(broker.url) as ch:
        ch.queue_declare("task_queue", auto_delete=True)


def delete_queue(broker: Broker) -> None:
    with channel(broker.url) as ch:
        ch.queue_delete("task_queue")


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        (Broker.kill, Broker.start),
        (keep_out, let_in),
        (take_permission, give_permission),
        (declare_transient, delete_queue),
    ],
    ids=["no broker", "refused login", "missing permission", "queue with other settings"],
)
def test_a_worker_goes_on_when_it_is_put_right(
    broker: Broker, console: Run, fault: Callable[[Broker], None], cure: Callable[[Broker], None]
) -> None:
    fault(broker)
    try:
        one = console("worker.py", AMQP_URL=broker.url)
        one.wait_for(" [!] ", 2)
        assert one.out == []
    finally:
        cure(broker)
    one.wait_for(WAITING)


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


def test_workers_leave_a_frozen_broker_and_come_back(
    broker: Broker, worker: Run, send: Run
) -> None:
    busy, idle = (worker(f"{broker.url}?heartbeat=1&stack_timeout=2") for _ in range(2))
    send(broker.url, "in hand", "." * 20)
    busy.wait_for("Received")
    broker.signal(signal.SIGSTOP)
    for one in (busy, idle):
        one.wait_for("AMQPHeartbeatTimeout", limit=30)
    broker.signal(signal.SIGCONT)
    for one in (busy, idle):
        one.wait_for(WAITING, 2)
    assert " [x] Done" not in busy.out + idle.out


@pytest.mark.parametrize("task", ["", "in hand..."])
def test_a_worker_whose_queue_is_deleted_declares_it_anew(
    broker: Broker, worker: Run, send: Run, task: str
) -> None:
    one = worker(broker.url)
    if task:
        send(broker.url, task)
        one.wait_for("Received")
    delete_queue(broker)
    one.wait_for("ConsumerCancelled")
    one.wait_for(WAITING, 2)
    send(broker.url, "next")
    one.wait_for(" [x] Received 'next'")
    one.wait_for(" [x] Done", 2 if task else 1)
    assert len(one.err) == 1
    # The old connection is closed, and holds nothing back.
    until(lambda: broker.ctl("list_connections", "state").count("running") == 1)


def test_a_worker_outlives_the_acknowledgement_timeout(
    broker: Broker, quorum: str, worker: Run, send: Run
) -> None:
    broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1000).")
    try:
        one = worker(quorum)
        send(quorum, "too long...")
        one.wait_for("Received", 2)
    finally:
        broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
    assert one.err
    until(lambda: waiting(quorum) == 0 and one.out[-1] == " [x] Done")


def test_a_mistake_in_the_work_ends_the_worker_with_its_traceback(
    broker: Broker, console: Run, worker: Run, send: Run, tmp_path: Path
) -> None:
    """Also one that looks like a fault of the network; the task goes to the next worker."""
    assert WORKER.count(SLEEP) == 1
    broken = WORKER.replace(SLEEP, "    raise ConnectionResetError('my own')")
    (tmp_path / "worker.py").write_text(broken)
    one = worker(broker.url, str(tmp_path / "worker.py"))
    send(broker.url, "poison")
    assert one.end() == 1
    assert one.err[0] == "Traceback (most recent call last):"
    assert one.err[-1] == "ConnectionResetError: my own"
    one.err.clear()
    until(lambda: waiting(broker.url) == 1)


def test_a_worker_ends_when_nobody_reads_it(broker: Broker, console: Run, send: Run) -> None:
    send(broker.url, "unread")
    one = console("worker.py", AMQP_URL=broker.url, read=False)
    assert one.end() != 0
    assert "BrokenPipeError: [Errno 32] Broken pipe" in one.err
    assert not [line for line in one.err if line.startswith(" [!] ")]
    one.err.clear()
    assert waiting(broker.url) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["idle", "working", "frozen", "subscribing", "trying again"])
def test_a_worker_ends_at_once_when_told_to(
    broker: Broker, console: Run, send: Run, relay: Callable[..., Relay], moment: str, number: int
) -> None:
    url, begun = broker.url, WAITING
    if moment == "trying again":
        url, begun = f"amqp://127.0.0.1:{free_port()}", " [!] "
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
    assert one.end(limit=2) == 0
    assert not [line for line in one.err if not line.startswith(" [!] ")]
