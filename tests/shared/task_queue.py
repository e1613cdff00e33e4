"""What the tests themselves ask of a broker: its task_queue as RabbitMQ sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pika


@contextlib.contextmanager
def channel(url: str) -> Iterator[Any]:
    """An open channel to the broker at this address, closed at the end with its connection."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


def waiting(url: str) -> int:
    """How many tasks wait in task_queue. Raises ChannelClosedByBroker where there is none."""
    with channel(url) as ch:
        return int(ch.queue_declare("task_queue", passive=True).method.message_count)


def take(url: str) -> bytes:
    """The next task in task_queue, as RabbitMQ has it. It is taken out."""
    with channel(url) as ch:
        return bytes(ch.basic_get("task_queue", auto_ack=True)[2])
