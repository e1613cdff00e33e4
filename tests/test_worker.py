"""What is promised of worker.py: one task at a time, none lost, and it comes back."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest
from helpers.amqp import delete_queue, messages_ready, open_channel, wait_until_queues_are_on_disk
from helpers.broker import free_port
from helpers.proxy import DECLARE, HEADER
from helpers.script import (
    LOST,
    NO_CONNECTION,
    WAITING,
    assert_quiet,
    assert_traceback,
    done,
    frozen,
    wait_until,
)
from helpers.setup import ROOT

WORK = '    time.sleep(body.count(b"."))\n'


def test_a_dot_is_a_second_of_work(broker, start_worker, send):
    worker = start_worker(broker.url)
    before = time.monotonic()
    send(broker.url, "a.b.c.")
    worker.wait_for(" [x] Done")
    assert time.monotonic() - before >= 3
    assert worker.out == [WAITING, " [x] Received 'a.b.c.'", " [x] Done"]
    assert_quiet(worker)


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
    wait_until(lambda: broker.messages() == 0, "the last task is acknowledged")


def test_lines_show_on_a_terminal_as_they_happen(broker):
    ours, theirs = pty.openpty()
    worker = subprocess.Popen(
        [sys.executable, "worker.py"],
        cwd=ROOT,
        env={**os.environ, "AMQP_URL": broker.url, "PYTHONUNBUFFERED": ""},
        stdout=theirs,
    )
    os.close(theirs)
    try:
        with open(ours) as terminal:
            assert terminal.readline().rstrip() == WAITING
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_acknowledges_by_hand_and_holds_one_task(broker, start_worker):
    start_worker(broker.url)
    columns = ("ack_required", "prefetch_count")
    consumers = broker.rabbitmqctl("list_consumers", "--no-table-headers", *columns)
    assert consumers.split() == ["true", "1"]


def test_tasks_go_to_the_workers_in_turn(broker, start_worker, send):
    workers = [start_worker(broker.url) for _ in range(3)]
    with frozen(*workers):
        for number in range(6):
            send(broker.url, f"task {number}.")
    for number, worker in enumerate(workers):
        worker.wait_for(" [x] Done", 2)
        assert f" [x] Received 'task {number}.'" == worker.out[1]
    assert_quiet(*workers)


def test_a_busy_worker_is_passed_over(broker, start_worker, send):
    """Every other task is heavy, and yet no worker gets two of these."""
    workers = [start_worker(broker.url), start_worker(broker.url)]
    with frozen(*workers):
        for task in ("heavy 1........", "light 1", "heavy 2........", "light 2", "light 3"):
            send(broker.url, task)
    wait_until(lambda: len(done(*workers)) == 5, "all five tasks are done")
    assert [sum("heavy" in line for line in worker.out) for worker in workers] == [1, 1]


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


@pytest.mark.parametrize("moment", ["idle", "working", "broker frozen", "connecting", "retrying"])
@pytest.mark.parametrize("signal", ["ctrl_c", "terminate"])
def test_a_worker_ends_when_told_to(broker, start_script, start_proxy, send, moment, signal):
    """Without a traceback, whatever the worker or RabbitMQ is doing."""
    url = broker.url
    if moment == "connecting":
        proxy = start_proxy(broker, moment=HEADER, then="hold")
        url = proxy.url
    if moment == "retrying":
        url = f"amqp://127.0.0.1:{free_port()}"
    worker = start_script("worker.py", AMQP_URL=url)
    if moment == "connecting":
        assert proxy.reached.wait(60)
    elif moment == "retrying":
        worker.wait_for(NO_CONNECTION)
    else:
        worker.wait_for(WAITING)
    if moment in ("working", "broker frozen"):
        send(broker.url, "long" + "." * 200)
        worker.wait_for(" [x] Received")
    if moment == "broker frozen":
        broker.freeze()
    getattr(worker, signal)()
    assert worker.wait() == {"ctrl_c": 0, "terminate": -15}[signal]
    assert [line for line in worker.err if not line.startswith(NO_CONNECTION)] == []


@pytest.mark.parametrize("fault", ["rabbitmq killed", "connections closed"])
def test_tasks_survive_and_workers_come_back(broker, start_worker, send, fault):
    workers = [start_worker(broker.url), start_worker(broker.url)]
    in_work = [f"in work {n}{'.' * 20}" for n in (1, 2)]
    with frozen(*workers):
        for task in [*in_work, *(f"waiting {n}" for n in range(8))]:
            send(broker.url, task)
        wait_until_queues_are_on_disk(broker)
    for worker, task in zip(workers, in_work):
        worker.wait_for(f" [x] Received {task!r}")
    if fault == "rabbitmq killed":
        broker.kill()
        broker.start()
    else:
        broker.rabbitmqctl("close_all_connections", "maintenance")
    for worker, task in zip(workers, in_work):
        worker.wait_for(" [x] Received", 2)
        assert worker.out[:4] == [WAITING, f" [x] Received {task!r}", " [x] Done", WAITING]
        assert worker.err[0].startswith(f"{LOST}127.0.0.1:{broker.port}: ")
    assert {worker.out[4] for worker in workers} == {f" [x] Received {t!r}" for t in in_work}
    assert messages_ready(broker.url) == 8


def test_work_may_block_longer_than_rabbitmqs_own_heartbeat(start_broker, start_worker, send):
    """The worker's number holds: with RabbitMQ's, the task would be done again and again."""
    broker = start_broker("heartbeat = 1\n")
    busy, idle = start_worker(broker.url), start_worker(broker.url)
    send(broker.url, "blocking..........")
    busy.wait_for(" [x] Done")
    wait_until(lambda: broker.messages() == 0, "the task is acknowledged")
    assert busy.out == [WAITING, " [x] Received 'blocking..........'", " [x] Done"]
    assert idle.out == [WAITING]
    assert_quiet(busy, idle)


def test_workers_leave_a_frozen_broker_and_come_back(broker, start_worker, changed_worker, send):
    impatient = changed_worker(("heartbeat = 300", "heartbeat = 3"))
    busy, idle = (start_worker(f"{broker.url}?stack_timeout=2", impatient) for _ in range(2))
    send(broker.url, "in work", "." * 12)
    busy.wait_for(" [x] Received")
    broker.freeze()
    for worker in (busy, idle):
        assert "AMQPHeartbeatTimeout" in worker.wait_for(LOST)
    broker.thaw()
    for worker in (busy, idle):
        worker.wait_for(WAITING, 2)


@pytest.mark.parametrize("url", ["nothing listens", "cut while it subscribes"])
def test_a_worker_waits_before_it_tries_again(broker, start_script, start_proxy, url):
    """Two seconds: else it would fill a log."""
    before = time.monotonic()
    if url == "nothing listens":
        worker = start_script("worker.py", AMQP_URL=f"amqp://127.0.0.1:{free_port()}")
        line = NO_CONNECTION
    else:
        proxy = start_proxy(broker, moment=DECLARE, then="cut")
        worker = start_script("worker.py", AMQP_URL=proxy.url)
        line = LOST
    worker.wait_for(line, 3)
    assert time.monotonic() - before >= 4


def test_a_worker_waits_for_rabbitmq_to_start(broker, start_script):
    broker.kill()
    worker = start_script("worker.py", AMQP_URL=broker.url)
    worker.wait_for(NO_CONNECTION, 2)
    broker.start()
    worker.wait_for(WAITING)


def test_a_worker_gets_in_when_its_password_is_put_right(start_broker, start_script):
    broker = start_broker()
    broker.rabbitmqctl("change_password", "guest", "5ecret")
    worker = start_script("worker.py", AMQP_URL=broker.url)
    worker.wait_for(NO_CONNECTION, 2)
    assert worker.out == []
    broker.rabbitmqctl("change_password", "guest", "guest")
    worker.wait_for(WAITING)


def test_a_worker_tries_each_address_of_a_host(broker, start_script, send, tmp_path):
    """Two addresses in the name service, and nothing listens at the first."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def two(host, port, *rest, real=socket.getaddrinfo, **more):\n"
        "    hosts = ['127.0.0.2', '127.0.0.1'] if host == 'rabbit.example.com' else [host]\n"
        "    return [entry for one in hosts for entry in real(one, port, *rest, **more)]\n"
        "socket.getaddrinfo = two\n"
    )
    url = f"amqp://rabbit.example.com:{broker.port}"
    send(broker.url, "found")
    worker = start_script("worker.py", AMQP_URL=url, PYTHONPATH=str(tmp_path))
    worker.wait_for(" [x] Received 'found'")
    assert_quiet(worker)


@pytest.mark.parametrize("task", ["", "in work..."])
def test_a_worker_whose_queue_is_deleted_creates_it_again(broker, start_worker, send, task):
    worker = start_worker(broker.url)
    if task:
        send(broker.url, task)
        worker.wait_for(" [x] Received")
    delete_queue(broker.url)
    worker.wait_for(WAITING, 2)
    send(broker.url, "next")
    worker.wait_for(" [x] Received 'next'")
    wait_until(
        lambda: broker.rabbitmqctl("list_connections", "state").count("running") == 1,
        "the old connection is closed",
    )
    assert_quiet(worker)


@pytest.mark.parametrize("error", ["ConnectionResetError", "TimeoutError", "ValueError"])
def test_an_error_in_the_work_ends_the_worker_and_the_task_waits(
    broker, start_worker, changed_worker, send, error
):
    """Also an error that looks like a fault of the network."""
    failing = changed_worker((WORK, f"    raise {error}('my own')\n"))
    worker = start_worker(broker.url, failing)
    send(broker.url, "poison")
    assert_traceback(worker, f"{error}: my own")
    wait_until(lambda: messages_ready(broker.url) == 1, "the task is back in the queue")


def test_a_rejected_task_is_gone_and_the_worker_goes_on(broker, start_worker, changed_worker, send):
    """As the comment in callback says."""
    reject = "ch.basic_reject(delivery_tag=method.delivery_tag, requeue=False)"
    rejecting = changed_worker(
        (WORK, f"    if body == b'poison':\n        {reject}\n        return\n")
    )
    worker = start_worker(broker.url, rejecting)
    send(broker.url, "poison")
    send(broker.url, "good")
    worker.wait_for(" [x] Done")
    wait_until(lambda: broker.messages() == 0, "no task is left")
    assert_quiet(worker)


def test_the_scripts_need_nothing_but_pika(broker, send, start_worker, tmp_path):
    """They run in an environment with nothing else in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    import pika

    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site_packages / "pika").symlink_to(os.path.dirname(pika.__file__))
    command = [tmp_path / "venv" / "bin" / "python", "new_task.py", "alone"]
    environment = {"AMQP_URL": broker.url, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    command = [tmp_path / "venv" / "bin" / "python", "-c", "import worker"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    start_worker(broker.url).wait_for(" [x] Received 'alone'")
