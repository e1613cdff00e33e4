"""Each row of the README's table of faults: the fault is made, and its words are seen."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable

import pytest
from conftest import MALFORMED, WAITING, Run
from shared import readme
from shared.broker import Broker, free_port
from shared.relay import CONNECTION_OPEN, DECLARE, HEADER, PUBLISH, START_OK, Relay
from shared.task_queue import channel, waiting


@dataclasses.dataclass
class Place:
    """Where a fault is made. `seen` makes it for both scripts, `sent` for the producer."""

    broker: Broker
    console: Run
    relay: Callable[..., Relay]

    def sent(self, url: str, *words: str, **environment: str) -> list[str]:
        """What a producer says that cannot send. Its status is 1, and it prints nothing else."""
        one = self.console("new_task.py", *words, AMQP_URL=url, **environment)
        assert (one.end(limit=40), one.out) == (1, [])
        (line,) = one.err
        return [line]

    def worked(self, url: str, **environment: str) -> list[str]:
        """What a worker says that cannot subscribe. It does not end."""
        one = self.console("worker.py", AMQP_URL=url, **environment)
        line = one.wait_for(" [!] ", limit=40)
        assert one.out == []
        assert one.stop() == 0
        return [line]

    def seen(self, url: str, **environment: str) -> list[str]:
        return self.sent(url, **environment) + self.worked(url, **environment)

    def lost(self, cut: Callable[[], object], options: str = "") -> list[str]:
        """What a worker says whose connection is lost. It comes back."""
        one = self.console("worker.py", AMQP_URL=self.broker.url + options)
        one.wait_for(WAITING)
        cut()
        line = one.wait_for(" [!] ", limit=40)
        self.broker.signal(signal.SIGCONT)
        one.wait_for(WAITING, 2)
        return [line]

    def cut_at(self, moment: bytes) -> Relay:
        return self.relay(self.broker.port, to_broker=lambda data: moment not in data)


LISTED = {words for words, _ in readme.FAULTS}
ELSEWHERE = {"CERTIFICATE_VERIFY_FAILED"}  # made in test_beyond_one_machine.py
FAULTS: dict[str, Callable[[Place], list[str]]] = {}


def makes(words: str) -> Callable[[Callable[[Place], list[str]]], Callable[[Place], list[str]]]:
    def keep(fault: Callable[[Place], list[str]]) -> Callable[[Place], list[str]]:
        FAULTS[words] = fault
        return fault

    return keep


@makes("ConnectionRefusedError")
def nothing_listens(at: Place) -> list[str]:
    return at.seen(f"amqp://127.0.0.1:{free_port()}")


@makes("gaierror")
def unknown_host(at: Place) -> list[str]:
    return at.seen("amqp://nosuch.invalid")


@makes("AMQPConnectorStackTimeout")
def mute(at: Place) -> list[str]:
    at.broker.signal(signal.SIGSTOP)
    return at.seen(f"{at.broker.url}?stack_timeout=2")


@makes("IncompatibleProtocolError")
def cut_at_the_header(at: Place) -> list[str]:
    return at.seen(at.cut_at(HEADER).url)


@makes("ProbableAuthenticationError")
def cut_at_the_login(at: Place) -> list[str]:
    return at.seen(at.cut_at(START_OK).url)


@makes("ProbableAccessDeniedError")
def cut_at_the_virtual_host(at: Place) -> list[str]:
    return at.seen(at.cut_at(CONNECTION_OPEN).url)


@makes("Login was refused")
def wrong_password(at: Place) -> list[str]:
    return at.seen(f"amqp://guest:5ecret@127.0.0.1:{at.broker.port}")


@makes("NOT_ALLOWED")
def unknown_virtual_host(at: Place) -> list[str]:
    return at.seen(f"{at.broker.url}/nosuch")


@makes("access to queue")
def no_permission(at: Place) -> list[str]:
    at.broker.ctl("set_permissions", "guest", "", "", "")
    try:
        return at.seen(at.broker.url)
    finally:
        at.broker.ctl("set_permissions", "guest", ".*", ".*", ".*")


@makes("inequivalent arg")
def declared_by_the_rabbitmq_teams_pair(at: Place) -> list[str]:
    with channel(at.broker.url) as ch:
        ch.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
    return at.seen(at.broker.url)


@makes("WRONG_VERSION_NUMBER")
def no_tls_there(at: Place) -> list[str]:
    return at.seen(f"amqps://127.0.0.1:{at.broker.port}")


@makes("CONNECTION_FORCED")
def connection_closed(at: Place) -> list[str]:
    return at.lost(lambda: at.broker.ctl("close_all_connections", "maintenance"))


@makes("StreamLostError")
def line_cut(at: Place) -> list[str]:
    def reset_it(data: bytes) -> bool:
        return DECLARE not in data or reset.reset()

    reset: Relay = at.relay(at.broker.port, to_broker=reset_it)
    closed = at.seen(at.cut_at(DECLARE).url) + at.sent(at.cut_at(PUBLISH).url)
    return closed + at.seen(reset.url)


@makes("AMQPHeartbeatTimeout")
def frozen(at: Place) -> list[str]:
    return at.lost(lambda: at.broker.signal(signal.SIGSTOP), "?heartbeat=1")


@makes("ConsumerCancelled")
def queue_deleted(at: Place) -> list[str]:
    def delete() -> None:
        with channel(at.broker.url) as ch:
            ch.queue_delete("task_queue")

    return at.lost(delete)


@makes("delivery acknowledgement")
def acknowledged_too_late(at: Place) -> list[str]:
    if at.broker.version() >= (4, 3):
        pytest.skip("RabbitMQ 4.3 cancels the consumer instead, and of quorum queues only")
    at.broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1000).")
    try:
        assert at.console("new_task.py", "...", AMQP_URL=at.broker.url).end() == 0
        one = at.console("worker.py", AMQP_URL=at.broker.url)
        line = one.wait_for(" [!] ")
    finally:
        at.broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
    one.wait_for("Received", 2)
    assert one.out[:2] == [WAITING, " [x] Received '...'"]
    assert one.out[2] == WAITING  # not Done: another worker may have the task
    one.wait_for(" [x] Done")
    return [line]


@makes("NackError")
def queue_full(at: Place) -> list[str]:
    full = '{"max-length":1,"overflow":"reject-publish"}'
    at.broker.ctl("set_policy", "full", "task_queue", full)
    try:
        assert at.console("new_task.py", "first", AMQP_URL=at.broker.url).end() == 0
        lines = at.sent(at.broker.url, "second")
    finally:
        at.broker.ctl("clear_policy", "full")
    assert waiting(at.broker.url) == 1
    return lines


@makes("UnroutableError")
def deleted_before_the_message_came(at: Place) -> list[str]:
    def delete_the_queue_first(data: bytes) -> bool:
        if PUBLISH in data:
            with channel(at.broker.url) as ch:
                ch.queue_delete("task_queue")
        return True

    return at.sent(at.relay(at.broker.port, to_broker=delete_the_queue_first).url, "nowhere")


@makes("message size")
def too_large(at: Place) -> list[str]:
    lines = at.sent(at.broker.url, *["x" * 120_000] * 9)
    assert waiting(at.broker.url) == 0
    return lines


@makes("ConnectionBlockedTimeout")
def out_of_memory(at: Place) -> list[str]:
    at.broker.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        return at.sent(at.broker.url, "blocked")
    finally:
        at.broker.ctl("set_vm_memory_high_watermark", "0.4")


@makes("KeyboardInterrupt")
def interrupted(at: Place) -> list[str]:
    """CTRL+C before the confirm; the broker is frozen in the middle."""

    def freeze(data: bytes) -> bool:
        if PUBLISH in data:
            at.broker.signal(signal.SIGSTOP)
            one.signal(signal.SIGINT)
        return True

    url = at.relay(at.broker.port, to_broker=freeze).url
    one = at.console("new_task.py", "interrupted", AMQP_URL=url)
    assert (one.end(limit=5), one.out) == (1, [])
    return one.err


@makes("UnicodeEncodeError")
def no_text(at: Place) -> list[str]:
    return at.sent(at.broker.url, "bad \udcff\udc80 bytes", PYTHONUTF8="1")


@makes("AMQP_URL is malformed")
def malformed(at: Place) -> list[str]:
    lines = []
    for script in ("new_task.py", "worker.py"):
        one = at.console(script, AMQP_URL="rabbit.example.com")
        assert (one.end(), one.out) == (1, [])
        lines += one.err
    return lines


@pytest.mark.parametrize("words", sorted(LISTED - ELSEWHERE))
def test_a_row_of_the_table_says_what_is_seen(
    broker: Broker, console: Run, relay: Callable[..., Relay], words: str
) -> None:
    for line in FAULTS[words](Place(broker, console, relay)):
        assert words in line


def test_the_table_has_a_row_for_each_fault() -> None:
    assert FAULTS.keys() | ELSEWHERE == LISTED


@pytest.mark.parametrize("script", ["new_task.py", "worker.py"])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "rabbit.example.com",
        "http://rabbit.example.com",
        "amqp://guest:5ec/5ecret@127.0.0.1",
        "amqp://127.0.0.1:5ecret",
        "amqp://nopassword@127.0.0.1",
        "amqp://guest:5ecret@127.0.0.1?heartbeat=often",
        "amqp://guest:5ecret@127.0.0.1?nosuch=1",
        "amqps://guest:5ecret@127.0.0.1?ssl_options={'certfile':'/nosuch'}",
    ],
)
def test_a_malformed_address_is_said_without_its_password(
    console: Run, script: str, url: str
) -> None:
    one = console(script, AMQP_URL=url)
    assert (one.end(), one.out, one.err) == (1, [], [MALFORMED])
