"""What is promised of my_worker.py, in Your own work: no task is lost, whatever fails."""

from __future__ import annotations

import contextlib
import json
import uuid

import pika
import pytest
from helpers import page
from helpers.amqp import messages_ready, open_channel, wait_until_queues_are_on_disk
from helpers.page import steps
from helpers.proxy import ACK, HEADER, PUBLISH
from helpers.script import LOST, NO_CONNECTION, WAITING, assert_traceback, wait_until
from pika.exceptions import AMQPError

MOVED = " [x] Moved to failed_tasks"
FAILS, HANGS = b'{"id": 1, "seconds": -1}', b'{"id": 1, "seconds": 1000}'
WORKS = b'{"id": 2, "seconds": 0}'


@pytest.fixture
def start_my_worker(start_script, change, tmp_path):
    """Starts a changed my_worker.py, and waits until it prints `wait_for`."""
    (tmp_path / "reports").mkdir()

    def start(url, *changes, wait_for=WAITING):
        script = change(page.file("my_worker.py"), *changes)
        worker = start_script(script, directory=tmp_path, AMQP_URL=url)
        worker.wait_for(wait_for)
        return worker

    return start


def waits(*seconds):
    return "[0, 10, 10, 10, 10]", repr([0, *seconds])


def work(line):
    return 'time.sleep(task["seconds"])', line


@pytest.fixture(params=["classic", "quorum"])
def jobs(broker, request):
    """The address of a virtual host whose queues are of this kind."""
    name = f"{request.param}-{uuid.uuid4()}"
    return broker.add_vhost(name, "--default-queue-type", request.param)


def publish(url, *bodies):
    """Send tasks, and wait until they are stored."""
    with open_channel(url) as channel:
        channel.queue_declare("task_queue", durable=True)
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", "task_queue", body, pika.BasicProperties(delivery_mode=2))


def wait_until_on_disk(broker, url):
    """Wait until the queues of this virtual host are on disk."""
    vhost = url.rpartition("/")[2]
    names = (f"{vhost}_task_queue", f"{vhost}_failed_tasks")
    wait_until_queues_are_on_disk(broker, *names if vhost.startswith("quorum") else ())


def take_all(url, queue):
    """The messages that wait in a queue, taken out: [(body, headers), ...]."""
    with open_channel(url) as channel:
        channel.queue_declare(queue, durable=True)
        got = iter(lambda: channel.basic_get(queue, auto_ack=True), (None, None, None))
        return [(body, properties.headers) for _, properties, body in got]


def kept(url, folder):
    """The ids of the tasks that are done, in task_queue, or in failed_tasks."""

    def answers():
        with contextlib.suppress(AMQPError), open_channel(url) as channel:
            channel.basic_get("task_queue")
            return channel.basic_get("failed_tasks")

    wait_until(answers, "RabbitMQ has its queues again: quorum queues take a moment longer")
    waiting = take_all(url, "task_queue") + take_all(url, "failed_tasks")
    done = {int(report.stem) for report in (folder / "reports").glob("[0-9]*.txt")}
    return done | {json.loads(body)["id"] for body, _ in waiting}


def test_your_own_work(reader):
    my_worker, task, mkdir, cat, oops, shown = steps("Your own work")
    reader.save("my_worker.py")
    worker = reader.start(my_worker)
    reader.type_in(task)
    worker.wait_for(" [x] Failed: FileNotFoundError")
    reader.type_in(mkdir)
    worker.wait_for(" [x] Done")
    report = reader.type_in(cat).strip()
    assert f"the report says `{report}`" in page.sections()["Your own work"]
    reader.type_in(oops)
    worker.wait_for(MOVED)
    assert worker.out[-3:] == shown.splitlines()
    assert worker.err[-1].endswith(shown.splitlines()[1].split("Failed: ")[1])  # a traceback
    wait_until(lambda: reader.broker.messages() == 0, "the tasks are acknowledged")


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
    reader.type_in(purge)
    assert reader.type_in(look) == "Tasks: 0\n"


def test_looking_at_a_failed_task_neither_loses_nor_changes_it(reader_of_own):
    """Also after 25 looks at a quorum queue, with a foreign user_id, and letters that fake."""
    reader = reader_of_own
    url = reader.broker.add_vhost("quorum", "--default-queue-type", "quorum")
    limit = '{"delivery-limit":20}'  # as RabbitMQ 4 has it without a policy
    reader.broker.rabbitmqctl("set_policy", "-p", "quorum", "limit", ".*", limit)
    reader.broker.rabbitmqctl("add_user", "kim", "secret")
    reader.broker.rabbitmqctl("set_permissions", "-p", "quorum", "kim", ".*", ".*", ".*")
    reader.save("failed_tasks.py")
    with open_channel(url.replace("//", "//kim:secret@")) as channel:
        channel.queue_declare("failed_tasks", durable=True)
        foreign = pika.BasicProperties(user_id="kim", headers={"error": "\x1b[2J"})
        channel.basic_publish("", "failed_tasks", b"\xff\nTasks: 0", foreign)
    look = f"AMQP_URL={url} python failed_tasks.py"
    printed = {reader.type_in(look) for _ in range(25)}
    assert printed == {"Tasks: 1\n'\ufffd\\nTasks: 0': '\\x1b[2J'\n"}
    publish(url)
    reader.type_in(f"{look} resend")
    assert [body for body, _ in take_all(url, "task_queue")] == [b"\xff\nTasks: 0"]


def test_a_wrong_task_is_moved_at_once(broker, start_my_worker):
    """And the worker goes on, also after an error with more letters than a header may have."""
    wrong = [b"", b"[]", b"1", b"{}", b'{"id": 1}', b'{"id": "x", "seconds": 0}', b"\xff"]
    wrong.append(b'{"seconds": "long"}')
    long = "time.sleep({}['x' * 900_000] if task['seconds'] == 'long' else task['seconds'])"
    worker = start_my_worker(broker.url, work(long))
    publish(broker.url, *wrong, WORKS)
    worker.wait_for(" [x] Done")
    wait_until(lambda: broker.messages() == 0, "all are acknowledged")
    moved = take_all(broker.url, "failed_tasks")
    assert [body for body, _ in moved] == wrong
    assert all("Error: " in headers["error"] for _, headers in moved)


def test_a_failed_task_is_tried_again_and_then_moved_with_its_error(broker, start_my_worker):
    """Its worker says meanwhile that it is alive, or RabbitMQ would give the task to another."""
    impatient = ("heartbeat = 300", "heartbeat = 2")
    worker = start_my_worker(broker.url, impatient, waits(10, 0), work("raise OSError('mine')"))
    publish(broker.url, FAILS)
    worker.wait_for(MOVED)
    assert worker.out[2:] == [" [x] Failed: OSError: mine"] * 3 + [MOVED]
    assert not [line for line in worker.err if line.startswith(LOST)]
    assert take_all(broker.url, "failed_tasks") == [(FAILS, {"error": "OSError: mine"})]


@pytest.mark.parametrize("error", ["SystemExit('mine')", "OSError('half a letter: \\ud83d')"])
def test_no_error_of_the_work_ends_the_worker(broker, start_my_worker, error):
    worker = start_my_worker(broker.url, waits(0), work(f"raise {error}"))
    publish(broker.url, FAILS, FAILS)
    worker.wait_for(MOVED, 2)
    assert [body for body, _ in take_all(broker.url, "failed_tasks")] == [FAILS, FAILS]


def test_a_task_that_never_ends_is_interrupted(broker, start_my_worker):
    worker = start_my_worker(broker.url, waits(0), ("LIMIT = 240", "LIMIT = 1"))
    publish(broker.url, HANGS, WORKS)
    worker.wait_for(" [x] Done")
    error = "TimeoutError: more than 1 seconds"
    assert worker.out.count(f" [x] Failed: {error}") == 2
    assert take_all(broker.url, "failed_tasks") == [(HANGS, {"error": error})]


def test_nobody_sees_half_a_report(broker, start_my_worker, tmp_path):
    """Also when two workers do the same task at the same time, and both are killed."""
    stop = (
        "        file.write(",
        "        file.flush()\n        time.sleep(1000)\n        file.write(",
    )
    workers = [start_my_worker(broker.url, stop) for _ in range(2)]
    publish(broker.url, WORKS, WORKS)
    wait_until(lambda: len(list(tmp_path.glob("reports/draft-*"))) == 2, "both write")
    for worker in workers:
        worker.kill()
    assert not (tmp_path / "reports" / "2.txt").exists()


@pytest.mark.parametrize(("why", "words"), [("full", "NackError"), ("gone", "UnroutableError")])
def test_a_task_that_failed_tasks_does_not_take_is_kept(start_broker, start_my_worker, why, words):
    broker = start_broker()
    worker = start_my_worker(broker.url)
    if why == "full":
        full = '{"max-length":0,"overflow":"reject-publish"}'
        broker.rabbitmqctl("set_policy", "full", "failed_tasks", full)
    else:
        broker.rabbitmqctl("delete_queue", "failed_tasks")
    publish(broker.url, FAILS)
    assert_traceback(worker, words)
    assert MOVED not in worker.out
    wait_until(lambda: messages_ready(broker.url) == 1, "it is back in task_queue")


# WORKS is done before, so that the ack of the task that FAILS is the only frame with this tag.
MOMENTS = {
    "before the copy is sent": PUBLISH,
    "between confirm and ack": ACK + (2).to_bytes(8, "big"),
}


@pytest.mark.parametrize("victim", ["worker", "rabbitmq", "line"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_no_task_is_lost_on_its_way_to_failed_tasks(
    broker, jobs, start_proxy, start_my_worker, tmp_path, moment, victim
):
    start_my_worker(jobs).kill()  # it has made the queues
    publish(jobs, WORKS, FAILS)
    wait_until_on_disk(broker, jobs)
    proxy = start_proxy(broker, moment=MOMENTS[moment], then="cut" if victim == "line" else "hold")
    worker = start_my_worker(jobs.replace(broker.url, proxy.url))
    assert proxy.reached.wait(100)
    if victim == "rabbitmq":
        broker.kill()
        broker.start()
    worker.kill()
    proxy.close()
    assert kept(jobs, tmp_path) == {1, 2}


@pytest.mark.parametrize("victim", ["worker", "rabbitmq"])
def test_no_task_is_lost_while_its_worker_waits(broker, jobs, start_my_worker, tmp_path, victim):
    worker = start_my_worker(jobs, waits(600), work("raise OSError"))
    publish(jobs, FAILS)
    wait_until_on_disk(broker, jobs)
    worker.wait_for(" [x] Failed")
    if victim == "rabbitmq":
        broker.kill()
        worker.wait_for(LOST)
        broker.start()
    worker.kill()
    assert kept(jobs, tmp_path) == {1}


def test_no_task_is_lost_while_hundreds_fail_and_everything_is_killed(
    broker, jobs, start_my_worker, tmp_path
):
    def start():
        return start_my_worker(jobs, waits(0.1), work("if task['id'] % 3: raise OSError"))

    workers = [start() for _ in range(4)]
    publish(jobs, *(f'{{"id": {number}, "seconds": 0}}'.encode() for number in range(300)))
    wait_until_on_disk(broker, jobs)
    for count in range(20, 160, 20):
        wait_until(
            lambda: sum(worker.out.count(MOVED) for worker in workers) >= count,  # noqa: B023
            f"{count} tasks are moved",
        )
        if count % 60:
            workers[-4].kill()
        else:
            broker.kill()
            broker.start()
        # As Docker does. (One may have ended: a quorum queue without a leader sends a nack.)
        workers += [start() for worker in workers[-4:] if not worker.is_running()]
    wait_until(lambda: messages_ready(jobs) == 0, "no task waits")
    for worker in workers:
        worker.terminate()
        worker.wait()
    assert kept(jobs, tmp_path) == set(range(300))


@pytest.mark.parametrize("moment", ["idle", "at work", "waiting", "connecting", "twice"])
def test_sigterm_ends_it_at_once_and_its_task_is_kept(broker, start_proxy, start_my_worker, moment):
    url, line = broker.url, " [x] Received"
    publish(url, *{"idle": [], "connecting": [], "waiting": [FAILS]}.get(moment, [HANGS]))
    tasks = messages_ready(url)
    if moment == "connecting":
        url = f"{start_proxy(broker, moment=HEADER, then='hold').url}?stack_timeout=1"
    line = {"idle": WAITING, "connecting": NO_CONNECTION, "waiting": " [x] Failed"}.get(
        moment, line
    )
    worker = start_my_worker(url, ("ValueError)", ")"), wait_for=line)
    worker.terminate()
    if moment == "twice":
        worker.terminate()
    assert worker.wait() == 0 or moment == "twice"
    wait_until(lambda: messages_ready(broker.url) == tasks, "the task is back in the queue")
