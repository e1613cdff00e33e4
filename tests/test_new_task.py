"""What is promised of new_task.py alone: Sent is true, and the last word."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from conftest import Run
from shared.broker import Broker
from shared.relay import ACK, CLOSE, Relay
from shared.task_queue import channel, waiting


def test_without_the_confirm_nothing_is_called_sent(
    broker: Broker, send: Run, relay: Callable[..., Relay]
) -> None:
    """The message has come, and nobody here can know."""
    one = send(relay(broker.port, to_script=lambda data: ACK not in data).url, "perhaps")
    assert (one.end(), one.out) == (1, [])
    assert one.err[0].startswith(" [!] Not confirmed by RabbitMQ at 127.0.0.1:")
    assert waiting(broker.url) == 1


@pytest.mark.parametrize("end", ["the broker dies", "CTRL+C to a frozen broker"])
def test_sent_is_the_last_word_whatever_becomes_of_the_goodbye(
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
    assert one.end() == 0
    assert (one.out, one.err) == ([" [x] Sent 'Hello World!'"], [])
    broker.signal(signal.SIGCONT)
    if not broker.runs():
        broker.start()
    assert waiting(broker.url) == 1


def test_a_task_that_nobody_reads_of_is_never_called_not_sent(broker: Broker, console: Run) -> None:
    one = console("new_task.py", AMQP_URL=broker.url, read=False)
    assert one.end() != 0
    assert "BrokenPipeError: [Errno 32] Broken pipe" in one.err
    assert not [line for line in one.err if line.startswith(" [!] ")]
    one.err.clear()
    assert waiting(broker.url) == 1
