"""What the tests themselves ask of a broker: its queues, as RabbitMQ sees them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pika

from helpers.broker import Broker
from helpers.script import wait_until


@contextlib.contextmanager
def open_channel(url: str) -> Iterator[Any]:
    """A channel to the broker at this address, closed at the end with its connection."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


def messages_ready(url: str, queue: str = "task_queue") -> int:
    """How many messages wait in a queue. Raises ChannelClosedByBroker where there is none."""
    with open_channel(url) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def take_all(url: str, queue: str = "task_queue") -> list[bytes]:
    """Take all messages that wait out of a queue, in their order."""
    with open_channel(url) as channel:
        return list(iter(lambda: channel.basic_get(queue, auto_ack=True)[2], None))


def delete_queue(url: str, *names: str) -> None:
    """Delete task_queue, or the queues of these names, where they are there."""
    with open_channel(url) as channel:
        for name in names or ("task_queue",):
            channel.queue_delete(name)


def wait_until_queues_are_on_disk(broker: Broker, *quorum_queues: str) -> None:
    """Wait until each queue that RabbitMQ has declared is on disk: it answers a moment before.

    RabbitMQ writes queues and exchanges down in the order of their declaration. So this declares
    an exchange, and looks for its name in the files of the node. (Not a queue: its deletion is
    answered a moment too early, too, and a test would find the queue after the next kill.) A
    quorum queue, named here as `VHOST_QUEUE`, stands in one more file, which is written later.
    """
    name = f"last-{uuid.uuid4()}"

    def stands(words: str, *files: str) -> bool:
        return any(
            words.encode() in file.read_bytes()
            for file in (broker.home / "data").rglob("*")
            if file.name.endswith(files) and file.is_file()
        )

    with open_channel(broker.url) as channel:
        channel.exchange_declare(name, durable=True)
        logs = ("LATEST.LOG", ".DCL", ".DCD", ".wal")  # of Mnesia, and of Khepri
        wait_until(lambda: stands(name, *logs), "the new exchange is on disk")
        channel.exchange_delete(name)
    for queue in quorum_queues:
        wait_until(lambda: stands(queue, "names.dets"), f"{queue} is on disk")  # noqa: B023
