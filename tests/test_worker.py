"""What is promised of worker.py: one task at a time, none lost, and it comes back.

What the lessons of the page show is tested in test_page.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

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
    frozen,
    wait_until,
)
from helpers.setup import ROOT

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
    wait_until(lambda: broker.messages() == 0, "the last task is acknowledged")


def test_a_worker_acknowledges_by_hand_and_holds_one_task(broker, start_worker):
    start_worker(broker.url)
    columns = ("ack_required", "prefetch_count")
    consumers = broker.rabbitmqctl("list_consumers", "--no-table-headers", *columns)
    assert consumers.split() == ["true", "1"]


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


@pytest.mark.parametrize("moment", ["idle", "connecting", "retrying"])
def test_ctrl_c_ends_a_worker_without_a_traceback(broker, start_script, start_proxy, moment):
    proxy = start_proxy(broker, moment=HEADER, then="hold")
    url = {
        "idle": broker.url,
        "connecting": proxy.url,
        "retrying": f"amqp://127.0.0.1:{free_port()}",
    }[moment]
    worker = start_script("worker.py", AMQP_URL=url)
    if moment == "connecting":
        assert proxy.reached.wait(100)
    else:
        worker.wait_for({"idle": WAITING, "retrying": NO_CONNECTION}[moment])
    worker.ctrl_c()
    assert worker.wait() == 0
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
        assert worker.err[0].startswith(LOST)
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


@pytest.mark.parametrize("fault", ["nothing listens", "cut while it subscribes"])
def test_a_worker_tries_again_after_two_seconds(broker, start_script, start_proxy, fault, tmp_path):
    """No sooner, else it would fill a log. What the worker asks of time.sleep is looked at."""
    url = f"amqp://127.0.0.1:{free_port()}"
    if fault == "cut while it subscribes":
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
    worker.wait_for("2 seconds", 2)
    assert worker.out[:2] == ["2 seconds", "2 seconds"]


def test_the_address_and_the_heartbeat_of_a_worker():
    """Nothing connects: there may be a reader's RabbitMQ."""
    code = "from worker import parameters as p; print(p.host, p.port, p.heartbeat)"
    environment = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    ).stdout
    assert printed == b"127.0.0.1 5672 300\n"


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


@pytest.mark.parametrize("error", ["ConnectionResetError", "ValueError"])
def test_an_error_in_the_work_ends_the_worker_and_the_task_waits(
    broker, start_worker, changed_worker, send, error
):
    """Also an error that looks like a fault of the network."""
    failing = changed_worker((WORK, f"    raise {error}('my own')\n"))
    worker = start_worker(broker.url, failing)
    send(broker.url, "poison")
    assert_traceback(worker, f"{error}: my own")
    wait_until(lambda: messages_ready(broker.url) == 1, "the task is back in the queue")


@pytest.mark.parametrize("fault", ["nothing listens", "cut while it works"])
def test_an_error_of_the_works_own_connection_to_rabbitmq_ends_the_worker(
    broker, start_worker, start_proxy, changed_worker, send, fault
):
    """Else the worker would connect again, and its old connection would keep the task."""
    own, words = f"amqp://127.0.0.1:{free_port()}", "AMQPConnectionError"
    if fault == "cut while it works":
        own, words = start_proxy(broker, moment=DECLARE, then="cut").url, "StreamLostError"
    work = f"    own = pika.BlockingConnection(pika.URLParameters({own!r}))\n"
    work += "    own.channel().queue_declare('mine', passive=True)\n"
    worker = start_worker(broker.url, changed_worker((WORK, work)))
    send(broker.url, "poison")
    assert_traceback(worker, words)
    assert worker.out == [WAITING, " [x] Received 'poison'"]
    wait_until(lambda: messages_ready(broker.url) == 1, "the task is back in the queue")


def test_a_rejected_task_is_gone_and_the_worker_goes_on(broker, start_worker, changed_worker, send):
    """With the call that stands in the comment in callback."""
    reject = "ch.basic_reject(method.delivery_tag, requeue=False)"
    assert reject in (ROOT / "worker.py").read_text()
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
    """They run in an environment with nothing else in it, and as programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    import pika

    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site_packages / "pika").symlink_to(os.path.dirname(pika.__file__))
    path = f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin"
    environment = {"AMQP_URL": broker.url, "PYTHONDONTWRITEBYTECODE": "1", "PATH": path}
    subprocess.run([ROOT / "new_task.py", "alone"], env=environment, check=True)
    subprocess.run(["python", "-c", "import worker"], cwd=ROOT, env=environment, check=True)
    start_worker(broker.url).wait_for(" [x] Received 'alone'")
