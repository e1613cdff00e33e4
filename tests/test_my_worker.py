"""What is promised of my_worker.py, in Your own work: no task is lost, whatever fails."""

from __future__ import annotations

import contextlib
import json
import re
import uuid

import pika
import pytest
from helpers import page
from helpers.amqp import messages_ready, open_channel, wait_until_queues_are_on_disk
from helpers.page import steps
from helpers.proxy import ACK, HEADER, PUBLISH
from helpers.script import (
    LOST,
    NO_CONNECTION,
    WAITING,
    Script,
    assert_quiet,
    assert_traceback,
    wait_until,
)
from pika.exceptions import AMQPError

MOVED = " [x] Moved to failed_tasks"


@pytest.fixture(params=["classic", "quorum"])
def jobs(broker, request):
    """The address of a virtual host whose queues are of this kind."""
    name = f"{request.param}-{uuid.uuid4()}"
    return broker.add_vhost(name, "--default-queue-type", request.param)


@pytest.fixture
def my_worker(tmp_path):
    """Makes my_worker.py, with other numbers, or with other work: `work="raise OSError"`."""

    def make(waits="[0, 600]", limit=240, work=""):
        text = page.file("my_worker.py")
        text = re.sub(r"^WAITS = .*$", f"WAITS = {waits}", text, flags=re.MULTILINE)
        text = re.sub(r"^LIMIT = \d+", f"LIMIT = {limit}", text, flags=re.MULTILINE)
        if work:
            text = text.replace('    time.sleep(task["seconds"])\n', f"    {work}\n")
        (tmp_path / "my_worker.py").write_text(text)
        (tmp_path / "reports").mkdir(exist_ok=True)
        return tmp_path / "my_worker.py"

    return make


@pytest.fixture
def start_my_worker(tmp_path):
    """Starts my_worker.py in its own folder."""
    started = []

    def start(script, url, wait_for=WAITING):
        started.append(Script(script, directory=tmp_path, AMQP_URL=url))
        started[-1].wait_for(wait_for)
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


def publish(url, *bodies):
    """Send tasks, each confirmed."""
    with open_channel(url) as channel:
        channel.queue_declare("task_queue", durable=True)
        channel.confirm_delivery()
        persistent = pika.BasicProperties(delivery_mode=2)
        for body in bodies:
            channel.basic_publish("", "task_queue", body, persistent)


def take_all(url, queue):
    """The messages that wait in a queue, taken out: [(body, headers), ...]."""
    with open_channel(url) as channel:
        channel.queue_declare(queue, durable=True)
        got = iter(lambda: channel.basic_get(queue, auto_ack=True), (None, None, None))
        return [(body, properties.headers) for _, properties, body in got]


def kept(url, folder):
    """The ids of the tasks that are done, in task_queue, or in failed_tasks."""
    wait_until(lambda: answers(url), "the queues answer")
    waiting = take_all(url, "task_queue") + take_all(url, "failed_tasks")
    done = {int(report.stem) for report in (folder / "reports").glob("*.txt")}
    return done | {json.loads(body)["id"] for body, _ in waiting}


def wait_until_on_disk(broker, url):
    """Wait until both queues of this virtual host are on disk."""
    vhost = url.rpartition("/")[2]
    names = (f"{vhost}_task_queue", f"{vhost}_failed_tasks")
    wait_until_queues_are_on_disk(broker, *names if vhost.startswith("quorum") else ())


def answers(url):
    """Whether both queues have come back after a start: a quorum queue takes a moment longer."""
    with contextlib.suppress(AMQPError), open_channel(url) as channel:
        for queue in ("task_queue", "failed_tasks"):
            channel.basic_get(queue)
        return True


def test_your_own_work(reader):
    my_worker, task, mkdir, cat, report, oops, shown = steps("Your own work")
    reader.save("my_worker.py")
    worker = reader.start(my_worker)
    reader.type_in(task)
    worker.wait_for(" [x] Failed: FileNotFoundError")
    reader.type_in(mkdir)
    worker.wait_for(" [x] Done")
    assert reader.type_in(cat) == report
    reader.type_in(oops)
    worker.wait_for(MOVED)
    assert worker.out[-3:] == shown.splitlines()
    wait_until(lambda: reader.broker.messages() == 0, "the tasks are acknowledged")
    assert_quiet(worker)


def test_look_at_the_failed_tasks_and_send_them_again(reader):
    look, shown, resend, purge = steps("Look at the failed tasks, and send them again")
    reader.save("my_worker.py")
    reader.save("failed_tasks.py")
    worker = reader.start("python my_worker.py")
    publish(reader.broker.url, b"oops")
    worker.wait_for(MOVED)
    assert reader.type_in(look) == shown
    assert reader.type_in(resend) == shown
    worker.wait_for(MOVED, 2)
    wait_until(lambda: reader.broker.messages() == 0, "it is acknowledged")
    reader.type_in(purge)
    assert reader.type_in(look) == "Tasks: 0\n"


def test_looking_at_a_failed_task_neither_loses_nor_changes_it(reader_of_own):
    """Also after 25 looks at a quorum queue, with a foreign user_id, and letters that fake."""
    reader = reader_of_own
    url = reader.broker.add_vhost("quorum", "--default-queue-type", "quorum")
    reader.broker.rabbitmqctl("add_user", "kim", "secret")
    reader.broker.rabbitmqctl("set_permissions", "-p", "quorum", "kim", ".*", ".*", ".*")
    reader.save("failed_tasks.py")
    with open_channel(url.replace("127", "kim:secret@127")) as channel:
        channel.queue_declare("failed_tasks", durable=True)
        foreign = pika.BasicProperties(user_id="kim", headers={"error": "\x1b[2J"})
        channel.basic_publish("", "failed_tasks", b"\xff\nTasks: 0", foreign)
    look = f"AMQP_URL={url} python failed_tasks.py"
    printed = {reader.type_in(look) for _ in range(25)}
    assert printed == {"Tasks: 1\n'\ufffd\\nTasks: 0': '\\x1b[2J'\n"}
    publish(url)
    reader.type_in(f"{look} resend")
    assert [body for body, _ in take_all(url, "task_queue")] == [b"\xff\nTasks: 0"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"{}", b'{"id": 1}', b'{"id": "x", "seconds": 0}', b"\xff" * 900_000],
    ids=lambda body: repr(body[:20]),
)
def test_a_wrong_task_is_moved_at_once(broker, start_my_worker, my_worker, body):
    """And the worker goes on. (The error of the last one holds all its letters.)"""
    worker = start_my_worker(my_worker(), broker.url)
    publish(broker.url, body, b'{"id": 2, "seconds": 0}')
    worker.wait_for(" [x] Done")
    assert sum(" [x] Failed" in line for line in worker.out) == 1
    wait_until(lambda: broker.messages() == 0, "both are acknowledged")
    ((moved, headers),) = take_all(broker.url, "failed_tasks")
    assert moved == body
    assert "Error(" in headers["error"]
    assert_quiet(worker)


def test_a_failed_task_is_tried_as_often_as_waits_says(broker, start_my_worker, my_worker):
    script = my_worker("[0, 1, 1]", work="raise OSError('my own')")
    worker = start_my_worker(script, broker.url)
    publish(broker.url, b'{"id": 1}')
    worker.wait_for(MOVED)
    assert worker.out[2:] == [" [x] Failed: OSError('my own')"] * 3 + [MOVED]
    assert take_all(broker.url, "failed_tasks") == [(b'{"id": 1}', {"error": "OSError('my own')"})]


def test_a_worker_that_waits_says_that_it_is_alive(broker, start_my_worker, my_worker):
    """Else RabbitMQ would give its task to another worker, which it does after the heartbeat."""
    script = my_worker("[0, 10, 0]", work="raise OSError")
    script.write_text(script.read_text().replace("heartbeat = 300", "heartbeat = 2"))
    worker = start_my_worker(script, broker.url)
    publish(broker.url, b'{"id": 1}')
    worker.wait_for(MOVED)
    assert_quiet(worker)


def test_a_task_that_never_ends_is_interrupted(broker, start_my_worker, my_worker):
    worker = start_my_worker(my_worker("[0, 0]", limit=1), broker.url)
    publish(broker.url, b'{"id": 1, "seconds": 1000}', b'{"id": 2, "seconds": 0}')
    worker.wait_for(" [x] Done")
    assert worker.out.count(" [x] Failed: TimeoutError('more than 1 seconds')") == 2
    ((_, headers),) = take_all(broker.url, "failed_tasks")
    assert headers == {"error": "TimeoutError('more than 1 seconds')"}


@pytest.mark.parametrize("why", ["full", "deleted"])
def test_a_task_that_failed_tasks_does_not_take_is_kept(
    start_broker, start_my_worker, my_worker, why
):
    broker = start_broker()
    worker = start_my_worker(my_worker(), broker.url)
    if why == "full":
        full = '{"max-length":0,"overflow":"reject-publish"}'
        broker.rabbitmqctl("set_policy", "full", "failed_tasks", full)
    else:
        with open_channel(broker.url) as channel:
            channel.queue_delete("failed_tasks")
    publish(broker.url, b"oops")
    assert_traceback(worker, {"full": "NackError", "deleted": "UnroutableError"}[why])
    assert MOVED not in worker.out
    wait_until(lambda: messages_ready(broker.url) == 1, "it is back in task_queue")


# The moments at which a worker or RabbitMQ is killed, or the line is cut. The first task is done,
# so that the ack of the second, which fails, is the only frame with delivery tag 2.
MOMENTS = {
    "before the copy is sent": PUBLISH,
    "between confirm and ack": ACK + (2).to_bytes(8, "big"),
}


@pytest.mark.parametrize("victim", ["worker", "rabbitmq", "line"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_no_task_is_lost_on_its_way_to_failed_tasks(
    broker, jobs, start_proxy, start_my_worker, my_worker, tmp_path, moment, victim
):
    start_my_worker(my_worker(), jobs).kill()  # it has made the queues
    publish(jobs, b'{"id": 1, "seconds": 0}', b'{"id": 2, "seconds": -1}')
    wait_until_on_disk(broker, jobs)
    proxy = start_proxy(broker, moment=MOMENTS[moment], then="cut" if victim == "line" else "hold")
    worker = start_my_worker(my_worker(), jobs.replace(broker.url, proxy.url))
    assert proxy.reached.wait(100)
    if victim == "rabbitmq":
        broker.kill()
        broker.start()
    worker.kill()
    proxy.close()
    assert kept(jobs, tmp_path) == {1, 2}


@pytest.mark.parametrize("victim", ["worker", "rabbitmq"])
def test_no_task_is_lost_while_its_worker_waits(
    broker, jobs, start_my_worker, my_worker, tmp_path, victim
):
    script = my_worker("[0, 600]", work="raise OSError")
    worker = start_my_worker(script, jobs)
    publish(jobs, b'{"id": 1}')
    wait_until_on_disk(broker, jobs)
    worker.wait_for(" [x] Failed")
    if victim == "rabbitmq":
        broker.kill()
        worker.wait_for(LOST)
        broker.start()
    worker.kill()
    assert kept(jobs, tmp_path) == {1}


def test_no_task_is_lost_while_hundreds_fail_and_everything_is_killed(
    broker, jobs, start_my_worker, my_worker, tmp_path
):
    script = my_worker("[0, 0.1]", work="if task['id'] % 3: raise OSError")
    started = [start_my_worker(script, jobs) for _ in range(4)]
    alive = list(started)
    publish(jobs, *(f'{{"id": {number}, "seconds": 0}}'.encode() for number in range(300)))
    wait_until_on_disk(broker, jobs)

    def replace(worker):
        worker.kill()
        alive.remove(worker)
        alive.append(start_my_worker(script, jobs))
        started.append(alive[-1])

    def moved():
        return sum(line == MOVED for worker in started for line in worker.out)

    for number in range(20, 160, 20):
        wait_until(lambda: moved() >= number, f"{number} tasks are moved")  # noqa: B023
        if number % 60 == 0:
            broker.kill()
            broker.start()
        else:
            replace(alive[0])
        for worker in [worker for worker in alive if not worker.is_running()]:
            replace(worker)  # as systemd does: a quorum queue that has no leader yet sends a nack
    wait_until(lambda: messages_ready(jobs) == 0, "no task waits")
    for worker in alive:
        worker.terminate()
        worker.wait()
    assert kept(jobs, tmp_path) == set(range(300))


@pytest.mark.parametrize("moment", ["idle", "at work", "waiting", "connecting", "twice"])
def test_sigterm_ends_it_at_once_and_keeps_the_task(
    broker, start_proxy, start_my_worker, my_worker, moment
):
    script = my_worker(work="time.sleep(1000 if task['id'] else 1e400)")
    proxy = start_proxy(broker, moment=HEADER, then="hold")
    if moment == "connecting":
        worker = start_my_worker(script, f"{proxy.url}?stack_timeout=1", wait_for=NO_CONNECTION)
    else:
        worker = start_my_worker(script, broker.url)
    if moment in ("at work", "twice"):
        publish(broker.url, b'{"id": 1}')
        worker.wait_for(" [x] Received")
    if moment == "waiting":
        publish(broker.url, b'{"id": 0}')
        worker.wait_for(" [x] Failed")
    worker.terminate()
    if moment == "twice":
        worker.terminate()
    assert worker.wait() in ((0, 1, -15) if moment == "twice" else (0,))
    if moment in ("at work", "waiting", "twice"):
        wait_until(lambda: messages_ready(broker.url) == 1, "the task is back in the queue")


def test_send_a_follow_up_task_when_a_task_is_done(broker, start_my_worker, my_worker, start_proxy):
    """As the page changes my_worker.py. Killed before its confirm, both tasks are there again."""
    declare, follow_up = page.blocks(
        "python", page.sections()["Send a follow-up task when a task is done"]
    )
    script = my_worker()
    text = script.read_text()
    second = '    channel.queue_declare(queue="failed_tasks", durable=True)\n'
    text = text.replace(second, second + declare)
    text = text.replace("    if error is not None:\n", f"{follow_up}\n    if error is not None:\n")
    assert text.count("next_queue") == 2
    script.write_text(text)
    publish(broker.url, b'{"id": 1, "seconds": 0}')
    proxy = start_proxy(broker, moment=PUBLISH, then="cut")
    start_my_worker(script, proxy.url, wait_for=LOST).kill()
    wait_until(lambda: messages_ready(broker.url) == 1, "the task is back in the queue")
    start_my_worker(script, broker.url).wait_for(" [x] Done")
    wait_until(lambda: broker.messages() == 0, "the task is acknowledged")
    assert take_all(broker.url, "next_queue") == [(b'{"id": 1, "seconds": 0}', None)]
