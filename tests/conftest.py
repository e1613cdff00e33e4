"""The fixtures: brokers to break, scripts to run, networks to cut. Each ends what it started."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from pika.exceptions import AMQPError

pytest.register_assert_rewrite("helpers")

from helpers.amqp import delete_queue
from helpers.broker import Broker, epmd
from helpers.page import Reader
from helpers.proxy import Proxy
from helpers.script import WAITING, Script
from helpers.setup import ROOT

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
    queues = ("task_queue", "failed_tasks")
    try:
        delete_queue(shared_broker.url, *queues)
    except AMQPError:  # it does not run yet, or a test has left it in the middle of something
        shared_broker.kill()
        shared_broker.start()
        delete_queue(shared_broker.url, *queues)
    yield shared_broker
    shared_broker.thaw()


@pytest.fixture
def start_broker(epmd_port, tmp_path):
    """Starts a broker of the test's own, with these lines in its rabbitmq.conf."""
    started: list[Broker] = []

    def start(config=""):
        started.append(Broker(tmp_path / f"node{len(started)}", epmd_port, config))
        started[-1].start()
        return started[-1]

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def start_proxy():
    """Starts a network that fails: start_proxy(broker, moment=PUBLISH, then="cut")."""
    started = []

    def start(broker, **fault):
        started.append(Proxy(broker, **fault))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


@pytest.fixture
def start_script():
    """Starts a script: start_script("worker.py", AMQP_URL=...)."""
    started = []

    def start(*command, **more):
        started.append(Script(*command, **more))
        return started[-1]

    yield start
    for script in started:
        script.kill()


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
def reader(broker, tmp_path_factory):
    """Somebody who follows the page, with the broker of many tests."""
    reader = Reader(broker, tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


@pytest.fixture
def reader_of_own(start_broker, tmp_path_factory):
    """Somebody who changes settings of RabbitMQ, with a broker of the test's own."""
    reader = Reader(start_broker(), tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


@pytest.fixture
def change(tmp_path):
    """Makes a script from a text, in which each first text is replaced by its second."""

    def make(text, *changes) -> Path:
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "changed.py").write_text(text)
        return tmp_path / "changed.py"

    return make


@pytest.fixture
def changed_worker(change):
    """Makes a changed copy of worker.py."""
    return functools.partial(change, (ROOT / "worker.py").read_text())
