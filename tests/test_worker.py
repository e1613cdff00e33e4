"""What is promised of worker.py: one task at a time, none lost, and it comes back.

What the lessons of the page show is tested in test_page.py.
"""

from __future__ import annotations

import pytest
from helpers.amqp import delete_queue, messages_ready, open_channel
from helpers.broker import LIMIT, free_port
from helpers.machine import ROOT
from helpers.proxy import DECLARE, DELETE, HEADER
from helpers.script import (
    CANCELLED,
    LOST,
    NO_CONNECTION,
    WAITING,
    assert_quiet,
    assert_traceback,
    wait_until,
)

WORK = '    time.sleep(body.count(b"."))\n'


def test_any_message_is_worked(broker, start_worker):
    bodies = [b"", b"x" * 1_000_000, bytes(range(256)), b"\x1b[2J\x1b]0;title\x07", "첫".encode()]
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True)
        for body in [*bodies, b"last"]:
            channel.basic_publish("", "task_queue", body)
    worker = start_worker(broker.url)
    worker.wait_for(" [x] Received 'last'")
    worker.wait_for(" [x] Done", len(bodies) + 1)
    assert all(line.isprintable() for line in worker.out)
    assert " [x] Received '첫'" in worker.out
    assert f" [x] Received '{'x' * 1_000_000}'" in worker.out
    assert_quiet(worker)
    wait_until(lambda: broker.queue() == (0, 0), "the last task is acknowledged")


@pytest.mark.parametrize("death", ["ctrl_c", "terminate", "kill"])
def test_the_task_of_a_dead_worker_goes_to_another(broker, start_worker, send, death):
    first, second = start_worker(broker.url), start_worker(broker.url)
    task = "Survive me" + "." * 100
    send(broker.url, task)
    first.wait_for(" [x] Received")
    getattr(first, death)()
    second.wait_for(f" [x] Received {task!r}")
    assert first.wait() == {"ctrl_c": 0, "terminate": -15, "kill": -9}[death]
    assert first.out == [WAITING, f" [x] Received {task!r}"]
    assert_quiet(first, second)


@pytest.mark.parametrize("moment", ["connecting", "retrying"])
def test_ctrl_c_ends_a_worker_without_a_traceback(broker, start_script, start_proxy, moment):
    """Also while it has no connection. (With one: test_page.py.)"""
    proxy = start_proxy(broker, moment=HEADER, then="hold")
    url = proxy.url if moment == "connecting" else f"amqp://127.0.0.1:{free_port()}"
    worker = start_script("worker.py", AMQP_URL=url)
    if moment == "connecting":
        assert proxy.reached.wait(LIMIT)
    else:
        worker.wait_for(NO_CONNECTION)
    worker.ctrl_c()
    assert worker.wait() == 0
    assert [line for line in worker.err if not line.startswith(NO_CONNECTION)] == []


def test_workers_leave_a_frozen_broker_and_come_back(broker, start_worker, edited, send):
    impatient = edited("worker.py", ("heartbeat = 300", "heartbeat = 3"))
    busy, idle = (start_worker(f"{broker.url}?stack_timeout=2", impatient) for _ in range(2))
    send(broker.url, "in work", "." * 12)
    busy.wait_for(" [x] Received")
    broker.freeze()
    for worker in (busy, idle):
        assert "AMQPHeartbeatTimeout" in worker.wait_for(LOST)
    broker.thaw()
    for worker in (busy, idle):
        worker.wait_for(WAITING, 2)


FAULTS = ["nothing listens", "cut while it subscribes", "the queue is deleted"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_tries_again_after_two_seconds(broker, start_script, start_proxy, fault, tmp_path):
    """No sooner, else it would fill a log. What the worker asks of time.sleep is looked at."""
    url = broker.url
    if fault == "nothing listens":
        url = f"amqp://127.0.0.1:{free_port()}"
    elif fault == "cut while it subscribes":
        url = start_proxy(broker, moment=DECLARE, then="cut").url
    (tmp_path / "try_it.py").write_text(
        "import time, worker\n"
        "def sleep(seconds, real=time.sleep):\n"
        "    print(f'{seconds} seconds')\n"
        "    real(seconds)\n"
        "time.sleep = sleep\n"
        "worker.main()\n"
    )
    worker = start_script(tmp_path / "try_it.py", AMQP_URL=url, PYTHONPATH=str(ROOT))
    for count in (1, 2):
        if fault == "the queue is deleted":
            worker.wait_for(WAITING, count)
            delete_queue(url)
        worker.wait_for("2 seconds", count)
    assert [line for line in worker.out if line != WAITING] == ["2 seconds", "2 seconds"]


@pytest.mark.parametrize("task", ["", "in work..."])
def test_a_worker_whose_queue_is_deleted_says_so_and_creates_it_again(
    broker, start_worker, send, task
):
    worker = start_worker(broker.url)
    if task:
        send(broker.url, task)
        worker.wait_for(" [x] Received")
    delete_queue(broker.url)
    assert worker.wait_for(CANCELLED).startswith(f"{CANCELLED}127.0.0.1:{broker.port}: ")
    worker.wait_for(WAITING, 2)
    send(broker.url, "next")
    worker.wait_for(" [x] Received 'next'")
    wait_until(
        lambda: broker.rabbitmqctl("list_connections", "state").count("running") == 1,
        "the old connection is closed",
    )
    assert len(worker.err) == 1


OWN = "pika.BlockingConnection(pika.URLParameters({url!r})).channel().queue_delete('mine')"


@pytest.mark.parametrize(
    ("work", "last_line"),
    [
        ("raise ValueError('mine')", "ValueError: mine"),
        ("raise ConnectionResetError('mine')", "ConnectionResetError: mine"),
        (OWN.format(url="amqp://127.0.0.1:{free_port}"), "AMQPConnectionError"),
        (OWN.format(url="{proxy.url}"), "StreamLostError"),
    ],
)
def test_an_error_in_the_work_ends_the_worker_and_the_task_waits(
    broker, start_worker, edited, start_proxy, send, work, last_line
):
    """Also an error that looks like a lost connection, or is one, but not the worker's."""
    proxy = start_proxy(broker, moment=DELETE, then="cut")
    line = f"    {work.format(free_port=free_port(), proxy=proxy)}\n"
    worker = start_worker(broker.url, edited("worker.py", (WORK, line)))
    send(broker.url, "poison")
    assert_traceback(worker, last_line)
    assert not [line for line in worker.err if line.startswith(LOST)]
    wait_until(lambda: messages_ready(broker.url) == 1, "the task is back in the queue")


def test_a_rejected_task_is_gone_and_the_worker_goes_on(broker, start_worker, edited, send):
    """With the call that stands in the comment in callback."""
    reject = "ch.basic_reject(method.delivery_tag, requeue=False)"
    assert reject in (ROOT / "worker.py").read_text()
    rejecting = edited(
        "worker.py", (WORK, f"    if body == b'poison':\n        {reject}\n        return\n")
    )
    worker = start_worker(broker.url, rejecting)
    send(broker.url, "poison")
    send(broker.url, "good")
    worker.wait_for(" [x] Done")
    wait_until(lambda: broker.queue() == (0, 0), "no task is left")
    assert_quiet(worker)
