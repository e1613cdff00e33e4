"""What is promised of tasks.py, my_worker.py and failed_tasks.py: no task is lost or stops others.

What lesson 8 shows is tested in test_page.py, and what survives kills in test_kills.py.
"""

from __future__ import annotations

import time

import pytest
from helpers.amqp import delete_queue, messages_ready, open_channel, take_all
from helpers.broker import LIMIT
from helpers.proxy import HEADER, PUBLISH
from helpers.script import (
    CANCELLED,
    LOST,
    NO_CONNECTION,
    WAITING,
    assert_quiet,
    assert_silent,
    assert_traceback,
    frozen,
    printed,
    wait_until,
)

SHOW, RESEND = "python failed_tasks.py", "python failed_tasks.py resend"
WORK = "        time.sleep(seconds)\n"
GOOD, BAD = '{"id": 1, "seconds": 0}', '{"id": 2, "seconds": 0}'


def work(line):
    """The task BAD does this in place of its work."""
    return WORK, f"        if task['id'] == 2:\n            {line}\n{WORK}"


@pytest.fixture
def send(shell):
    """Sends tasks with tasks.py, and fails where that fails."""

    def send_tasks(url, *tasks):
        assert printed(shell(url, "python tasks.py", *tasks)) == [f" [x] Sent {t!r}" for t in tasks]

    return send_tasks


def wait_until_failed(url, count):
    """Wait until so many tasks are in failed_tasks."""
    wait_until(lambda: messages_ready(url, "failed_tasks") == count, f"{count} failed tasks")


# A task that fails


ENDINGS = {
    "an error": "raise OSError",
    "an error whose text raises": "raise type('Bad', (OSError,), {'__str__': lambda _: 1 / 0})",
    "half a letter": "raise OSError('\\ud83d')",
    "sys.exit": "sys.exit()",
    "CancelledError": "raise __import__('asyncio').CancelledError",
    "os._exit": "os._exit(1)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "no end": "time.sleep(1000)",
    "no end, in C": "__import__('re').match('(a*)*b', 'a' * 40)",
    "a child that lives on": "os._exit(1) if os.fork() else time.sleep(2) or os._exit(0)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_task_that_always_fails_is_moved_and_those_behind_it_are_done(
    broker, edited, start_my_worker, send, shell, tmp_path, ending
):
    edited("tasks.py", ('"x-delivery-limit": 10,', '"x-delivery-limit": 1,'))
    limit = [("LIMIT = 240", "LIMIT = 5")] if ending.startswith("no end") else []
    worker = start_my_worker(broker.url, *limit, work(ENDINGS[ending]), again=True)
    send(broker.url, BAD, GOOD)
    worker.wait_for(" [x] Done")
    wait_until_failed(broker.url, 1)
    assert (tmp_path / "reports" / "1.txt").read_text() == "This took 0.0 seconds.\n"
    assert printed(shell(broker.url, SHOW)) == [f"delivery_limit: {BAD!r}"]
    assert worker.out.count(f" [x] Received {BAD!r}") == 2


def test_a_task_is_delivered_eleven_times_and_no_more(broker, start_my_worker, send):
    worker = start_my_worker(broker.url, work("raise OSError"))
    send(broker.url, BAD)
    wait_until_failed(broker.url, 1)
    assert worker.out.count(f" [x] Received {BAD!r}") == worker.out.count(" [x] Failed") == 11


WRONG = ["", "[]", "1", "{}", '{"id": 1}', '{"id": "x", "seconds": 0}', '{"id": 1, "seconds": []}']


def test_a_hopeless_task_is_moved_at_once(broker, start_my_worker, send, shell):
    worker = start_my_worker(broker.url)
    send(broker.url, *WRONG, GOOD)
    worker.wait_for(" [x] Done")
    wait_until_failed(broker.url, len(WRONG))
    assert worker.out.count(" [x] Hopeless") == len(WRONG)
    assert printed(shell(broker.url, SHOW)) == [f"rejected: {body!r}" for body in WRONG]


def test_a_failed_task_waits_before_its_next_try_and_its_worker_says_that_it_is_alive(
    broker, start_my_worker, send
):
    """With a heartbeat of two seconds, RabbitMQ would drop a silent worker."""
    pause, heartbeat = ("PAUSE = 0", "PAUSE = 20"), ("heartbeat = LIMIT + 60", "heartbeat = 2")
    worker = start_my_worker(broker.url, pause, heartbeat, work("raise OSError"))
    send(broker.url, BAD)
    worker.wait_for(" [x] Failed")
    assert_silent(worker, 7)
    worker.wait_for(" [x] Received", 2)
    assert not [line for line in worker.err if line.startswith(LOST)]


def test_a_worker_has_the_whole_limit_for_each_task(broker, start_my_worker, send):
    worker = start_my_worker(broker.url, ("LIMIT = 240", "LIMIT = 5"))
    send(broker.url, GOOD)
    worker.wait_for(" [x] Done")
    assert_silent(worker, 7)
    send(broker.url, GOOD)
    worker.wait_for(" [x] Done", 2)
    assert_quiet(worker)


def test_the_heartbeat_allows_for_the_longest_task(broker, shell):
    code = "import my_worker as w; print(w.parameters.heartbeat - w.LIMIT)"
    assert printed(shell(broker.url, f"python -c '{code}'")) == ["60"]


def test_nobody_sees_half_a_report(broker, start_my_worker, send, tmp_path):
    """Also when two workers do the same task at the same time, and both are killed."""
    stop = ("            file.write(", "            time.sleep(1000)\n            file.write(")
    workers = [start_my_worker(broker.url, stop) for _ in range(2)]
    send(broker.url, GOOD, GOOD)
    wait_until(lambda: len(list(tmp_path.glob("reports/draft-*/1.txt"))) == 2, "both write")
    for worker in workers:
        worker.kill()
    assert not (tmp_path / "reports" / "1.txt").exists()


def test_a_worker_whose_queue_is_deleted_creates_it_again(broker, start_my_worker, send):
    worker = start_my_worker(broker.url)
    delete_queue(broker.url, "tasks")
    worker.wait_for(CANCELLED)
    worker.wait_for(WAITING, 2)
    send(broker.url, GOOD)
    worker.wait_for(" [x] Done")


# A worker that is stopped


def test_sigterm_stops_a_worker_without_work_at_once(broker, start_my_worker, start_proxy):
    """Also one that has no connection, or whose RabbitMQ does not answer."""
    idle, frozen = start_my_worker(broker.url), start_my_worker(broker.url)
    url = start_proxy(broker, moment=HEADER, then="hold").url
    connecting = start_my_worker(f"{url}?stack_timeout=1", wait_for=NO_CONNECTION)
    idle.terminate()
    assert idle.wait() == 0
    broker.freeze()
    for worker in (connecting, frozen):
        worker.terminate()
        assert worker.wait() == 0
    assert_quiet(idle, frozen)


def test_sigterm_stops_a_pause_and_the_task_is_kept(broker, start_my_worker, send):
    worker = start_my_worker(broker.url, ("PAUSE = 0", "PAUSE = 1000"), work("raise OSError"))
    send(broker.url, BAD)
    worker.wait_for(" [x] Failed")
    worker.terminate()
    assert worker.wait() == 0
    wait_until(lambda: messages_ready(broker.url, "tasks") == 1, "the task is back")


@pytest.mark.parametrize("result", ["Done", "Failed", "Hopeless"])
def test_sigterm_lets_a_task_finish_and_no_other_task_is_counted(
    broker, start_my_worker, send, tmp_path, result
):
    lines = {"Done": "pass", "Failed": "raise OSError", "Hopeless": "raise Hopeless"}
    wait = "exec(\"while not os.path.exists('go on'): time.sleep(0.1)\")"
    pause = ("PAUSE = 0", "PAUSE = 1000")
    worker = start_my_worker(broker.url, pause, work(f"{wait}\n            {lines[result]}"))
    send(broker.url, BAD, GOOD)
    worker.wait_for(" [x] Received")
    worker.terminate()
    (tmp_path / "go on").touch()
    assert worker.wait() == 0
    assert worker.out == [WAITING, f" [x] Received {BAD!r}", f" [x] {result}"]
    assert not [line for line in worker.err if line.startswith(CANCELLED)]
    left = [GOOD.encode()] if result != "Failed" else [BAD.encode(), GOOD.encode()]
    wait_until(lambda: messages_ready(broker.url, "tasks") == len(left), "it has answered")
    with open_channel(broker.url) as channel:
        got = [channel.basic_get("tasks") for _ in left]
    assert [body for _, _, body in got] == left
    assert (got[-1][1].headers or {}).get("x-delivery-count", 0) == 0
    assert messages_ready(broker.url, "failed_tasks") == (result == "Hopeless")


def test_a_second_sigterm_stops_a_task_which_is_kept(broker, start_my_worker, send):
    worker = start_my_worker(broker.url, work("print('at work', flush=True); time.sleep(1000)"))
    send(broker.url, BAD)
    worker.wait_for("at work")
    worker.terminate()
    assert_silent(worker, 2)
    worker.terminate()
    assert worker.wait() == 0
    wait_until(lambda: messages_ready(broker.url, "tasks") == 1, "the task is back")


def test_sigterm_during_work_stops_a_worker_that_loses_its_connection(
    broker, start_my_worker, send, tmp_path
):
    wait = "exec(\"while not os.path.exists('go on'): time.sleep(0.1)\")"
    worker = start_my_worker(broker.url, work(wait))
    send(broker.url, BAD)
    worker.wait_for(" [x] Received")
    worker.terminate()
    broker.rabbitmqctl("close_all_connections", "maintenance")
    (tmp_path / "go on").touch()
    assert worker.wait() == 0
    assert worker.out.count(WAITING) == 1


def test_processes_of_the_work_end_as_they_should(broker, start_my_worker, send):
    """Once they run: a signal at the moment of the fork is lost in Python itself."""
    fork = "__import__('multiprocessing').get_context('fork')"
    line = f"a, b = {fork}.Pipe(); p = {fork}.Process(target=lambda: b.send(0) or time.sleep(1000))"
    worker = start_my_worker(
        broker.url, work(f"{line}; p.start(); a.recv(); p.terminate(); p.join()")
    )
    send(broker.url, BAD)
    worker.wait_for(" [x] Done")
    assert_quiet(worker)


# Tasks that are sent, or sent again

both = pytest.mark.parametrize("command", ["python tasks.py", RESEND])


def fail(url, *bodies):
    """Put tasks into failed_tasks, as RabbitMQ does; the queue must be there."""
    with open_channel(url) as channel:
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", "failed_tasks", body.encode())


@pytest.fixture
def make_ready(shell):
    """Makes the queues, and a failed task `oops` where one is sent again."""

    def make(url, command):
        shell(url, SHOW).wait()
        if command == RESEND:
            fail(url, "oops")

    return make


@both
def test_a_task_that_is_sent_survives_a_crash(start_broker, make_ready, shell, command):
    broker = start_broker()
    make_ready(broker.url, command)
    broker.restart()
    assert printed(shell(broker.url, command, "oops")) != []
    broker.kill()
    broker.start()
    wait_until(lambda: messages_ready(broker.url, "tasks") == 1, "the task is there")
    with open_channel(broker.url) as channel:
        _, properties, body = channel.basic_get("tasks")
    assert (body, properties.delivery_mode) == (b"oops", 2)


@both
def test_a_task_whose_queue_was_deleted_is_not_called_sent(
    broker, start_proxy, make_ready, shell, command
):
    make_ready(broker.url, command)
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    sender = shell(proxy.url, command, "oops")
    assert proxy.reached.wait(LIMIT)
    delete_queue(broker.url, "tasks")
    proxy.go_on()
    assert_traceback(sender, "UnroutableError")
    assert sender.out == []
    wait_until_failed(broker.url, 1 if command == RESEND else 0)


@both
def test_a_rabbitmq_short_of_memory_is_an_error_and_loses_nothing(
    start_broker, make_ready, shell, command
):
    """The task may arrive later; so a failed task may then be there twice."""
    broker = start_broker()
    make_ready(broker.url, command)
    broker.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
    sender = shell(broker.url, command, "oops")
    assert_traceback(sender, "ConnectionBlockedTimeout")
    assert sender.out == []
    broker.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "8GB")
    wait_until_failed(broker.url, 1 if command == RESEND else 0)


def test_a_rabbitmq_that_hangs_is_an_error(broker, start_proxy, shell):
    """Within half a minute; RabbitMQ's own heartbeat takes two."""
    url = start_proxy(broker, moment=PUBLISH, then="hold").url
    sender = shell(url, "python tasks.py", "unheard")
    started = time.monotonic()
    assert_traceback(sender, "AMQPHeartbeatTimeout")
    assert time.monotonic() - started < 100


def test_after_an_error_the_lines_say_what_is_stored(start_broker, shell):
    broker = start_broker()
    full = '{"max-length":7,"overflow":"reject-publish"}'
    broker.rabbitmqctl("set_policy", "full", "^tasks$", full)
    sent = shell(broker.url, "python tasks.py", *map(str, range(1000)))
    assert_traceback(sent, "NackError")
    assert 0 < len(sent.out) < 1000
    wait_until(lambda: messages_ready(broker.url, "tasks") == len(sent.out), "they are stored")


def test_many_threads_send_whatever_bytes_and_nothing_else(broker, shell, tmp_path):
    """As a web application does."""
    (tmp_path / "threads.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor; import pika, tasks\n"
        "def send(bodies):\n"
        "    try:\n"
        "        tasks.send(bodies)\n"
        "    except pika.exceptions.NackError:  # not stored: the queue has no leader yet\n"
        "        send(bodies)\n"
        "list(ThreadPoolExecutor(20).map(send, [[b'\\xff']] * 20))\n"
        "tasks.send('text')"
    )
    assert_traceback(shell(broker.url, "exec python threads.py"), "AttributeError")
    assert take_all(broker.url, "tasks") == [b"\xff"] * 20


# Failed tasks


def test_failed_tasks_are_chosen_by_a_part_of_them(broker, shell):
    shell(broker.url, SHOW).wait()
    fail(broker.url, "red 1", "red 2", "blue 1", "blue 2")
    shell(broker.url, f"{RESEND} red").wait()
    assert take_all(broker.url, "tasks") == [b"red 1", b"red 2"]
    dropped = printed(shell(broker.url, f"{SHOW} drop 1"))
    assert dropped == [" [x] Dropped None: 'blue 1'"]
    for mistake in ("drop", "resent"):
        assert shell(broker.url, f"{SHOW} {mistake}").wait() == 2
    assert take_all(broker.url, "failed_tasks") == [b"blue 2"]


def test_looking_at_failed_tasks_does_not_change_them(broker, shell):
    """Not even 50 times: RabbitMQ 4 drops what comes back 21 times, unless told otherwise."""
    shell(broker.url, SHOW).wait()
    fail(broker.url, "one\x1b[2J", "two")
    looks = [printed(shell(broker.url, SHOW)) for _ in range(50)]
    assert looks == [["None: 'one\\x1b[2J'", "None: 'two'"]] * 50


def test_resend_takes_what_is_there_and_no_more(broker, start_my_worker, send, shell):
    worker = start_my_worker(broker.url)
    send(broker.url, *["oops"] * 30)
    wait_until_failed(broker.url, 30)
    assert len(printed(shell(broker.url, RESEND))) == 30
    worker.wait_for(" [x] Hopeless", 60)


@pytest.mark.parametrize("why", ["full", "gone"])
def test_a_failed_task_waits_for_its_queue(start_broker, start_my_worker, send, shell, why):
    """RabbitMQ tries again each three minutes; the tests' brokers each five seconds."""
    broker = start_broker()
    worker = start_my_worker(broker.url)
    with frozen(worker):
        send(broker.url, *["oops"] * 9)
        if why == "gone":
            delete_queue(broker.url, "failed_tasks")
        else:
            full = '{"max-length":1,"overflow":"reject-publish"}'
            broker.rabbitmqctl("set_policy", "full", "failed_tasks", full)
    worker.wait_for(" [x] Hopeless", 9)
    wait_until(lambda: broker.queue("tasks") == (0, 0), "the worker has answered")
    if why == "gone":
        shell(broker.url, SHOW).wait()
    else:
        broker.rabbitmqctl("clear_policy", "full")
        if broker.version() < (4, 0):  # which tries again only after a restart
            broker.restart()
    wait_until_failed(broker.url, 9)
