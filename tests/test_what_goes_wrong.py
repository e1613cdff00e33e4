"""What goes wrong, and what the scripts say of it: each fault is made, and its words are seen."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable

import pytest
from conftest import LOST, NO_CONNECTION, WAITING, Run
from shared import readme
from shared.broker import Broker, free_port
from shared.relay import CONNECTION_OPEN, DECLARE, HEADER, PUBLISH, START_OK, Relay
from shared.task_queue import channel, waiting


@dataclasses.dataclass
class Place:
    """Where a fault is made. What its methods return is what a script has said of the fault."""

    broker: Broker
    console: Run
    relay: Callable[..., Relay]

    def refused(self, url: str, **environment: str) -> list[str]:
        """Nobody gets in there: the producer ends, the worker tries again."""
        producer = self.console("new_task.py", AMQP_URL=url, **environment)
        assert (producer.end(limit=40), producer.out, len(producer.err)) == (1, [], 1)
        worker = self.console("worker.py", AMQP_URL=url, **environment)
        worker.wait_for(NO_CONNECTION, 2, limit=40)
        assert (worker.stop(), worker.out) == (0, [])
        lines = producer.err + worker.err
        assert all(line.startswith(NO_CONNECTION) for line in lines)
        return lines

    def sends_nothing(self, url: str, *words: str, **environment: str) -> list[str]:
        """The producer ends with a traceback."""
        one = self.console("new_task.py", *words, AMQP_URL=url, **environment)
        last = one.traceback(limit=40)
        assert (one.end(), one.out, one.err) == (1, [], [])
        return [last]

    def works_nothing(self, url: str) -> list[str]:
        """The worker ends with a traceback."""
        one = self.console("worker.py", AMQP_URL=url)
        last = one.traceback()
        assert (one.end(), one.out, one.err) == (1, [], [])
        return [last]

    def dropped(self, url: str) -> list[str]:
        """The connection is lost before the worker waits: it tries again."""
        one = self.console("worker.py", AMQP_URL=url)
        one.wait_for(LOST, 2)
        assert (one.stop(), one.out) == (0, [])
        return one.err

    def lost(self, cut: Callable[[], object], script: str = "worker.py") -> list[str]:
        """The connection is lost while the worker waits: it comes back."""
        one = self.console(script, AMQP_URL=self.broker.url)
        one.wait_for(WAITING)
        cut()
        line = one.wait_for(LOST, limit=40)
        self.broker.signal(signal.SIGCONT)
        one.wait_for(WAITING, 2)
        return [line]

    def cut_at(self, moment: bytes) -> str:
        """The address of a network that is cut at this moment."""
        return self.relay(self.broker.port, to_broker=lambda data: moment not in data).url


FAULTS: dict[str, Callable[[Place], list[str]]] = {}
ELSEWHERE = {"CERTIFICATE_VERIFY_FAILED", "AMQPHeartbeatTimeout"}  # made in other files


def makes(words: str) -> Callable[[Callable[[Place], list[str]]], Callable[[Place], list[str]]]:
    """Marks a function that makes a fault. Each line that it returns must hold the words."""

    def keep(fault: Callable[[Place], list[str]]) -> Callable[[Place], list[str]]:
        FAULTS[words] = fault
        return fault

    return keep


@makes("ConnectionRefusedError")
def nothing_listens(at: Place) -> list[str]:
    return at.refused(f"amqp://127.0.0.1:{free_port()}")


@makes("gaierror")
def unknown_host(at: Place) -> list[str]:
    return at.refused("amqp://nosuch.invalid")


@makes("AMQPConnectorStackTimeout")
def mute(at: Place) -> list[str]:
    at.broker.signal(signal.SIGSTOP)
    return at.refused(f"{at.broker.url}?stack_timeout=2")


@makes("IncompatibleProtocolError")
def cut_at_the_header(at: Place) -> list[str]:
    return at.refused(at.cut_at(HEADER))


@makes("ProbableAuthenticationError")
def cut_at_the_login(at: Place) -> list[str]:
    return at.refused(at.cut_at(START_OK))


@makes("ProbableAccessDeniedError")
def cut_at_the_virtual_host(at: Place) -> list[str]:
    return at.refused(at.cut_at(CONNECTION_OPEN))


@makes("Login was refused")
def wrong_password(at: Place) -> list[str]:
    return at.refused(f"amqp://guest:5ecret@127.0.0.1:{at.broker.port}")


@makes("NOT_ALLOWED")
def unknown_virtual_host(at: Place) -> list[str]:
    return at.refused(f"{at.broker.url}/nosuch")


@makes("WRONG_VERSION_NUMBER")
def no_tls_there(at: Place) -> list[str]:
    return at.refused(f"amqps://127.0.0.1:{at.broker.port}")


@makes("CONNECTION_FORCED")
def connection_closed(at: Place) -> list[str]:
    return at.lost(lambda: at.broker.ctl("close_all_connections", "maintenance"))


@makes("StreamLostError")
def line_cut(at: Place) -> list[str]:
    def reset_it(data: bytes) -> bool:
        return DECLARE not in data or reset.reset()

    reset: Relay = at.relay(at.broker.port, to_broker=reset_it)
    lines = at.dropped(at.cut_at(DECLARE)) + at.dropped(reset.url)
    for moment in (DECLARE, PUBLISH):
        lines += at.sends_nothing(at.cut_at(moment))
    return lines + at.sends_nothing(reset.url)


@makes("access to queue")
def no_permission(at: Place) -> list[str]:
    at.broker.ctl("set_permissions", "guest", "", "", "")
    try:
        return at.sends_nothing(at.broker.url) + at.works_nothing(at.broker.url)
    finally:
        at.broker.ctl("set_permissions", "guest", ".*", ".*", ".*")


@makes("inequivalent arg")
def declared_by_the_rabbitmq_teams_pair(at: Place) -> list[str]:
    with channel(at.broker.url) as ch:
        ch.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
    return at.sends_nothing(at.broker.url) + at.works_nothing(at.broker.url)


@makes("delivery acknowledgement")
def acknowledged_too_late(at: Place) -> list[str]:
    if at.broker.version() >= (4, 3):
        pytest.skip("RabbitMQ 4.3 cancels the consumer instead, and of quorum queues only")
    at.broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1000).")
    try:
        assert at.console("new_task.py", "...", AMQP_URL=at.broker.url).end() == 0
        one = at.console("worker.py", AMQP_URL=at.broker.url)
        last = one.traceback()
    finally:
        at.broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
    assert (one.end(), one.err) == (1, [])
    assert waiting(at.broker.url) == 1
    return [last]


@makes("NackError")
def queue_full(at: Place) -> list[str]:
    full = '{"max-length":1,"overflow":"reject-publish"}'
    at.broker.ctl("set_policy", "full", "task_queue", full)
    try:
        assert at.console("new_task.py", "first", AMQP_URL=at.broker.url).end() == 0
        lines = at.sends_nothing(at.broker.url, "second")
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

    url = at.relay(at.broker.port, to_broker=delete_the_queue_first).url
    return at.sends_nothing(url, "nowhere")


@makes("message size")
def too_large(at: Place) -> list[str]:
    lines = at.sends_nothing(at.broker.url, *["x" * 120_000] * 9)
    assert waiting(at.broker.url) == 0
    return lines


@makes("ConnectionBlockedTimeout")
def out_of_memory(at: Place) -> list[str]:
    at.broker.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        return at.sends_nothing(at.broker.url, "blocked")
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
    last = one.traceback(limit=5)
    assert one.out == []
    return [last]


@makes("UnicodeEncodeError")
def no_text(at: Place) -> list[str]:
    """An argument that is no text, and a console that lacks a letter."""
    lines = at.sends_nothing(at.broker.url, "bad \udcff\udc80 bytes", PYTHONUTF8="1")
    assert at.console("new_task.py", "첫", AMQP_URL=at.broker.url).end() == 0
    one = at.console("worker.py", AMQP_URL=at.broker.url, LC_ALL="C", PYTHONIOENCODING="ascii")
    lines.append(one.traceback())
    cured = at.console("worker.py", AMQP_URL=at.broker.url, LC_ALL="C", PYTHONUTF8="1")
    cured.wait_for(" [x] Received '첫'")
    return lines


@makes("IndexError")
def no_scheme(at: Place) -> list[str]:
    return at.sends_nothing("rabbit.example.com") + at.works_nothing("rabbit.example.com")


@makes("ValueError")
def no_port(at: Place) -> list[str]:
    return at.sends_nothing("amqp://guest:a/b@127.0.0.1") + at.works_nothing("amqp://127.0.0.1:a")


@pytest.mark.parametrize("words", sorted(FAULTS))
def test_a_fault_is_said_in_these_words(
    broker: Broker, console: Run, relay: Callable[..., Relay], words: str
) -> None:
    lines = FAULTS[words](Place(broker, console, relay))
    assert lines
    for line in lines:
        assert words in line


def test_each_fault_on_the_page_is_made_here() -> None:
    assert readme.FAULTS
    assert set(readme.FAULTS) <= FAULTS.keys() | ELSEWHERE


@pytest.mark.parametrize("line", [NO_CONNECTION, LOST])
def test_a_worker_waits_before_it_tries_again(
    broker: Broker, console: Run, relay: Callable[..., Relay], line: str
) -> None:
    """Else it would fill a log."""
    url = f"amqp://127.0.0.1:{free_port()}"
    if line == LOST:
        url = Place(broker, console, relay).cut_at(DECLARE)
    one = console("worker.py", AMQP_URL=url)
    one.wait_for(line, 2)
    with pytest.raises(AssertionError):
        one.wait_for(line, 3, limit=1)
