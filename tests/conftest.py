"""The fixtures: a broker to break, consoles, a network. Each test ends and mends what it used."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared.broker import Broker, epmd
from shared.console import Console
from shared.machine import ROOT
from shared.relay import Relay
from shared.task_queue import channel

WAITING = " [*] Waiting for messages. To exit press CTRL+C"
NO_CONNECTION = " [!] No connection to RabbitMQ at "
LOST = " [!] Lost the connection to RabbitMQ at "
SAID = re.compile(f"({re.escape(NO_CONNECTION)}|{re.escape(LOST)})\\S+:\\d+: .+")

# CTRL+C is ignored in whatever a job in the background starts, unless somebody undoes it.
signal.signal(signal.SIGINT, signal.default_int_handler)

Run = Callable[..., Console]
Asleep = Callable[[list[Console]], contextlib.AbstractContextManager[None]]


def changed(folder: Path, *changes: tuple[str, str]) -> str:
    """The path of a copy of worker.py in `folder`, with each first text replaced by its second."""
    script = (ROOT / "worker.py").read_text()
    for old, new in changes:
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    (folder / "worker.py").write_text(script)
    return str(folder / "worker.py")


@pytest.fixture(scope="session")
def epmd_port() -> Iterator[int]:
    with epmd() as port:
        yield port


@pytest.fixture(scope="session")
def own_node(epmd_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The node of this test process: one for all of its tests, since a start takes long."""
    home = tmp_path_factory.mktemp("own") / "node"
    node = Broker(home, epmd_port, name="own", config="max_message_size = 1000000\n")
    yield node
    node.kill()


@pytest.fixture
def broker(own_node: Broker) -> Iterator[Broker]:
    """A broker of the test's own, to be stopped, killed or frozen; it has no task_queue yet."""
    if not own_node.runs():
        own_node.start()
    with channel(own_node.url) as ch:
        ch.queue_delete("task_queue")
    yield own_node
    own_node.signal(signal.SIGCONT)


@pytest.fixture
def quorum(broker: Broker) -> str:
    """The address of a virtual host there whose queues are quorum queues."""
    url = broker.quorum_vhost()
    with channel(url) as ch:
        ch.queue_delete("task_queue")
    return url


@pytest.fixture
def node(epmd_port: int, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers with settings of the test's own."""
    started: list[Broker] = []

    def start(config: str = "", wait: bool = True) -> Broker:
        name = f"node{len(started)}"
        started.append(Broker(tmp_path / name, epmd_port, config=config, name=name))
        started[-1].start(wait)
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def relay() -> Iterator[Callable[..., Relay]]:
    """Networks that the test cuts."""
    made: list[Relay] = []

    def make(*arguments: Any, **options: Any) -> Relay:
        made.append(Relay(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def console() -> Iterator[Run]:
    """Runs one of the scripts: console("worker.py", AMQP_URL=...).

    What it says on stderr has one of the two forms, but for tracebacks that the test has taken
    out, and holds no password.
    """
    started: list[Console] = []

    def run(*command: str, **environment: Any) -> Console:
        started.append(Console(*command, **environment))
        return started[-1]

    yield run
    for one in started:
        one.kill()
    for one in started:
        for line in one.err:
            assert SAID.fullmatch(line)
            assert line.isprintable()
        assert "5ecret" not in str(one.out + one.err)  # part of every password in these tests


@pytest.fixture
def worker(console: Run) -> Run:
    """A worker that is subscribed."""

    def run(url: str, script: str = "worker.py", **environment: str) -> Console:
        started = console(script, AMQP_URL=url, **environment)
        started.wait_for(WAITING)
        return started

    return run


@pytest.fixture
def send(console: Run) -> Run:
    """A new_task.py that has ended."""

    def run(url: str, *words: str, **environment: str) -> Console:
        started = console("new_task.py", *words, AMQP_URL=url, **environment)
        started.end(limit=40)
        return started

    return run


@pytest.fixture
def asleep() -> Asleep:
    """Freezes workers while tasks are sent, so that it does not matter how long that takes."""

    @contextlib.contextmanager
    def freeze(workers: list[Console]) -> Iterator[None]:
        for one in workers:
            one.signal(signal.SIGSTOP)
        yield
        for one in workers:
            one.signal(signal.SIGCONT)

    return freeze
