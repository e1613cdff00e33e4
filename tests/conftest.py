"""The brokers and consoles of the tests: each test ends what it started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from broker import Broker, epmd
from console import Console
from readme import explains

Run = Callable[..., Console]


@pytest.fixture(scope="session")
def epmd_port() -> Iterator[int]:
    with epmd() as port:
        yield port


@pytest.fixture(scope="session")
def shared(epmd_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    home = tmp_path_factory.mktemp("shared") / "node"
    broker = Broker(home, epmd_port, name="shared", config="max_message_size = 1000000\n")
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def broker(shared: Broker) -> Broker:
    """A broker without a task_queue, for tests that leave it as it is."""
    with channel(shared.url) as open_channel:
        open_channel.queue_delete("task_queue")
    return shared


@pytest.fixture
def node(epmd_port: int, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers of the test's own, to be broken."""
    started: list[Broker] = []

    def start(config: str = "", wait: bool = True, **options: Any) -> Broker:
        name = options.pop("name", f"node{len(started)}")
        started.append(Broker(tmp_path / name, epmd_port, config=config, name=name, **options))
        started[-1].start(wait)
        return started[-1]

    yield start
    for one in started:
        one.kill()


class channel:
    """`with channel(url) as ch:` for what a test itself asks of a broker."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))

    def __enter__(self) -> Any:
        return self.connection.channel()

    def __exit__(self, *error: object) -> None:
        if self.connection.is_open:
            self.connection.close()


def waiting(url: str) -> int:
    """How many tasks wait in task_queue."""
    with channel(url) as ch:
        return int(ch.queue_declare("task_queue", passive=True).method.message_count)


def quorum_vhost(broker: Broker) -> str:
    """The address of a virtual host there whose queues are quorum queues."""
    broker.ctl("add_vhost", "quorum", "--default-queue-type", "quorum")
    broker.ctl("set_permissions", "-p", "quorum", "guest", ".*", ".*", ".*")
    return f"{broker.url}/quorum"


@pytest.fixture
def console() -> Iterator[Run]:
    """Runs one of the scripts: console("worker.py", AMQP_URL=...). Its stderr must be in order."""
    started: list[Console] = []

    def run(*command: str, **environment: str) -> Console:
        started.append(Console(*command, **environment))  # type: ignore[arg-type]
        return started[-1]

    yield run
    for one in started:
        one.kill()
    for one in started:
        for line in one.err:
            assert explains(line), f"the README does not explain {line!r}"


@pytest.fixture
def worker(console: Run) -> Run:
    """A worker that is subscribed."""

    def run(url: str, **environment: str) -> Console:
        started = console("worker.py", AMQP_URL=url, **environment)
        started.wait_for(" [*] Waiting for messages. To exit press CTRL+C")
        return started

    return run


@pytest.fixture
def send(console: Run) -> Run:
    """A new_task.py that has ended."""

    def run(url: str, *words: str, **environment: str) -> Console:
        started = console("new_task.py", *words, AMQP_URL=url, **environment)
        started.end(limit=35)
        return started

    return run
