"""What is promised of new_task.py alone: Sent is true."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from conftest import Run
from shared.broker import Broker
from shared.relay import ACK, CLOSE, Relay
from shared.task_queue import channel, waiting


def test_without_the_confirm_nothing_is_called_sent(
    broker: Broker, console: Run, relay: Callable[..., Relay]
) -> None:
    """The message has come, and nobody here can know."""
    one = console(
        "new_task.py",
        "perhaps",
        AMQP_URL=relay(broker.port, to_script=lambda data: ACK not in data).url,
    )
    assert one.traceback() == "pika.exceptions.StreamLostError: Transport indicated EOF"
    assert (one.end(), one.out) == (1, [])
    assert waiting(broker.url) == 1


@pytest.mark.parametrize("end", ["the broker dies", "CTRL+C to a frozen broker"])
def test_what_is_called_sent_is_there_whatever_becomes_of_the_goodbye(
    broker: Broker, console: Run, relay: Callable[..., Relay], end: str
) -> None:
    def at_goodbye(data: bytes) -> bool:
        if CLOSE in data:
            one.wait_for(" [x] Sent")
            if end == "the broker dies":
                broker.kill()
            else:
                broker.signal(signal.SIGSTOP)
                one.signal(signal.SIGINT)
        return True

    with channel(broker.url) as ch:
        ch.queue_declare("task_queue", durable=True)
    broker.settle()
    one = console("new_task.py", AMQP_URL=relay(broker.port, to_broker=at_goodbye).url)
    one.traceback()
    assert (one.out, one.err) == ([" [x] Sent 'Hello World!'"], [])
    broker.signal(signal.SIGCONT)
    if not broker.runs():
        broker.start()
    assert waiting(broker.url) == 1


def test_a_task_that_nobody_reads_of_is_sent(broker: Broker, console: Run) -> None:
    one = console("new_task.py", AMQP_URL=broker.url, read=False)
    assert one.traceback() == "BrokenPipeError: [Errno 32] Broken pipe"
    assert waiting(broker.url) == 1
