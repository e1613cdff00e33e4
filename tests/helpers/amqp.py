"""What the tests themselves ask of a broker: its queues, as RabbitMQ sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pika


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
