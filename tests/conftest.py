"""The fixtures: brokers to break, scripts to run, networks to cut. Each ends what it started.

A test is named after what is promised. Its name holds the title of the section that promises it,
or the first words of the row in a table of errors, in small letters: `test_page.py` finds it there.

| file | what is promised |
| --- | --- |
| test_page.py | README.md: its lessons, in their order, and that each section and row has a test |
| test_answers.py | tests/examples/README.md: the answers, and the programs that they show |
| test_errors.py | the rows of both pages' tables of errors |
| test_new_task.py, test_worker.py, test_tls.py | the two scripts |
| test_my_worker.py | tests/examples: tasks.py, my_worker.py, failed_tasks.py |
| test_kills.py | no task is lost, whatever is killed |
| test_three_machines.py | the same, on a cluster |
| test_compose.py | what is done with Docker |
| test_play.py, test_run.py | the commands play.py and run.py |
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("helpers")

from helpers.amqp import delete_queue
from helpers.broker import Broker, epmd
from helpers.machine import ROOT
from helpers.page import EXAMPLES, Reader
from helpers.proxy import Proxy
from helpers.script import WAITING, Script

# CTRL+C is ignored in whatever a job in the background starts, unless somebody undoes it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# SIGTERM, and SIGHUP when the terminal is closed, end pytest as CTRL+C does: with its brokers.
signal.signal(signal.SIGTERM, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.default_int_handler)


def pytest_xdist_auto_num_workers():
    """Three processes for each core, since most of what they do is to wait; each has a node."""
    return min(3 * len(os.sched_getaffinity(0)), 12)


@pytest.fixture
def project(tmp_path):
    """A copy of the project, whose virtual environment is the one that the tests run in."""
    folder = tmp_path / "work-queue"
    ignored = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=ignored)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="session")
def epmd_port():
    with epmd() as port:
        yield port


@pytest.fixture(scope="session")
def shared_broker(epmd_port, tmp_path_factory):
    """The node of this test process: one for many of its tests, since a start takes long.

    It takes messages of a megabyte, and no larger ones.
    """
    home = tmp_path_factory.mktemp("broker") / "shared"
    broker = Broker(home, epmd_port, config="max_message_size = 1000000\n")
    yield broker
    broker.kill()


@pytest.fixture
def broker(shared_broker):
    """A broker that runs, without our queues. A test may stop, kill or freeze it.

    A test that changes settings, users or virtual hosts takes start_broker instead.
    """
    if not shared_broker.takes_connections():  # it is not started yet, or a test has stopped it
        shared_broker.kill()
        shared_broker.start()
    delete_queue(shared_broker.url, "task_queue", "tasks", "failed_tasks")
    yield shared_broker
    shared_broker.thaw()


@pytest.fixture
def start_broker(epmd_port, tmp_path, request):
    """Starts a broker of the test's own, with these lines in its rabbitmq.conf."""
    names = (f"node{number}" for number in itertools.count())

    def start(config=""):
        broker = Broker(tmp_path / next(names), epmd_port, config)
        request.addfinalizer(broker.kill)
        broker.start()
        return broker

    return start


@pytest.fixture
def start_proxy(request):
    """Starts a network that fails: start_proxy(broker, moment=PUBLISH, then="cut")."""

    def start(*brokers, **fault):
        proxy = Proxy(*brokers, **fault)
        request.addfinalizer(proxy.close)
        return proxy

    return start


@pytest.fixture
def start_script(request):
    """Starts a script: start_script("worker.py", AMQP_URL=...)."""

    def start(*command, **more):
        script = Script(*command, **more)
        request.addfinalizer(script.kill)
        return script

    return start


@pytest.fixture
def start_worker(start_script):
    """Starts a worker, and waits until it waits for messages."""

    def start(url, script="worker.py", **environment):
        worker = start_script(script, AMQP_URL=url, **environment)
        worker.wait_for(WAITING)
        return worker

    return start


@pytest.fixture
def send(start_script):
    """Sends a task with new_task.py, and fails where that fails."""

    def send_task(url, *words):
        new_task = start_script("new_task.py", *words, AMQP_URL=url)
        assert new_task.wait() == 0, str(new_task)
        assert new_task.out == [f" [x] Sent {' '.join(words)!r}"]

    return send_task


@pytest.fixture
def reader(broker, start_script, tmp_path_factory):
    """Somebody who follows the page, with the broker of many tests."""
    return Reader(broker, tmp_path_factory.mktemp("reader"), start_script)


@pytest.fixture
def reader_with_own_broker(start_broker, start_script, tmp_path_factory):
    """Somebody who changes settings of RabbitMQ, with a broker of the test's own."""
    return Reader(start_broker(), tmp_path_factory.mktemp("reader"), start_script)


@pytest.fixture
def edited(tmp_path):
    """Copies a program, ours or an example, and replaces each first text by its second."""

    def edit(name, *replacements):
        folder = ROOT if (ROOT / name).exists() else EXAMPLES
        text = (folder / name).read_text()
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return edit


@pytest.fixture
def shell(start_script, edited, tmp_path):
    """Starts a line for the shell beside copies of the examples, with tasks as its input.

    shell(url, "python tasks.py", '{"id": 1, "seconds": 2}')
    """
    (tmp_path / "reports").mkdir()
    for example in EXAMPLES.glob("*.py"):
        edited(example.name)

    def start(url, line, *tasks):
        line = f"printf '%s\\n' {shlex.join(tasks)} | {line}" if tasks else line
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return start_script("-c", line, python="sh", directory=tmp_path, AMQP_URL=url, PATH=path)

    return start


@pytest.fixture
def start_my_worker(shell, edited):
    """Starts my_worker.py, edited and without its pause, and waits until it prints `wait_for`.

    With `again`, it is started again whenever it ends, as Docker does.
    """

    def start(url, *replacements, again=False, wait_for=WAITING):
        edited("my_worker.py", ("PAUSE = 10", "PAUSE = 0"), *replacements)
        line = "exec python my_worker.py"
        if again:
            line = "while kill -0 $PPID; do python my_worker.py; sleep 0.1; done"  # while we live
        worker = shell(url, line)
        worker.wait_for(wait_for)
        return worker

    return start
