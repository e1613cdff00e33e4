"""Each row of the page's table of errors: the error is made, and its words are seen."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys

import pytest
from helpers.amqp import delete_queue, messages_ready, open_channel
from helpers.broker import free_port
from helpers.page import documented
from helpers.proxy import CONNECTION_OPEN, DECLARE, HEADER, PUBLISH, START_OK
from helpers.script import LOST, NO_CONNECTION, WAITING, assert_silent, assert_traceback, wait_until
from helpers.setup import ROOT

ACK_LINE = "    ch.basic_ack(delivery_tag=method.delivery_tag)\n"


@pytest.fixture
def assert_refused(start_script):
    """Nobody gets in at this address: new_task.py ends, the worker tries again."""

    def check(url, words):
        new_task = start_script("new_task.py", AMQP_URL=url)
        assert new_task.wait() == 1
        assert new_task.out == []
        (line,) = new_task.err
        assert line.startswith(NO_CONNECTION)
        assert words in line
        worker = start_script("worker.py", AMQP_URL=url)
        assert words in worker.wait_for(NO_CONNECTION, 2)
        assert worker.out == []
        assert "5ecret" not in str(new_task.err + worker.err)

    return check


@pytest.fixture
def assert_not_sent(start_script):
    """new_task.py ends with a traceback, and calls nothing sent."""

    def check(url, words, *message):
        new_task = start_script("new_task.py", *message, AMQP_URL=url)
        assert_traceback(new_task, words)
        assert new_task.out == []

    return check


@pytest.fixture
def assert_not_waiting(start_script):
    """The worker ends with a traceback, before it waits for messages."""

    def check(url, words):
        worker = start_script("worker.py", AMQP_URL=url)
        assert_traceback(worker, words)
        assert worker.out == []

    return check


def test_nothing_listens(assert_refused):
    assert_refused(f"amqp://127.0.0.1:{free_port()}", documented("ConnectionRefusedError"))


def test_unknown_host(assert_refused):
    assert_refused("amqp://nosuch.invalid", documented("gaierror"))


def test_something_listens_and_says_nothing(broker, start_proxy, assert_refused):
    proxy = start_proxy(broker, moment=HEADER, then="hold")
    assert_refused(f"{proxy.url}?stack_timeout=2", documented("AMQPConnectorStackTimeout"))


def test_what_listens_there_does_not_speak_amqp(broker, start_proxy, assert_refused):
    proxy = start_proxy(broker, moment=HEADER, then="cut")
    assert_refused(proxy.url, documented("IncompatibleProtocolError"))


def test_the_management_port(start_broker, assert_refused):
    broker = start_broker()
    broker.rabbitmqctl("enable", "rabbitmq_management", tool="rabbitmq-plugins")
    port = broker.management_port
    wait_until(lambda: is_listening(port), "the management page is there")
    assert_refused(f"amqp://127.0.0.1:{port}", documented("IncompatibleProtocolError"))


def is_listening(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True


def test_wrong_password(broker, assert_refused):
    url = f"amqp://guest:5ecret@127.0.0.1:{broker.port}"
    assert_refused(url, documented("Login was refused"))


def test_the_line_is_cut_at_the_login(broker, start_proxy, assert_refused):
    proxy = start_proxy(broker, moment=START_OK, then="cut")
    assert_refused(proxy.url, documented("ProbableAuthenticationError"))


def test_unknown_virtual_host(broker, assert_refused):
    assert_refused(f"{broker.url}/nosuch", documented("NOT_ALLOWED"))


def test_the_line_is_cut_at_the_virtual_host(broker, start_proxy, assert_refused):
    proxy = start_proxy(broker, moment=CONNECTION_OPEN, then="cut")
    assert_refused(proxy.url, documented("ProbableAccessDeniedError"))


def test_a_heartbeat_above_65535(broker, start_script, changed_worker):
    """pika sends what does not fit, and RabbitMQ closes the line: for ever."""
    worker = start_script(changed_worker(("= 300", "= 65536")), AMQP_URL=broker.url)
    line = worker.wait_for(NO_CONNECTION, 2)
    assert documented("ProbableAccessDeniedError") in line


def test_amqps_to_a_port_without_tls(broker, assert_refused):
    assert_refused(f"amqps://127.0.0.1:{broker.port}", documented("WRONG_VERSION_NUMBER"))


def test_the_line_is_cut(broker, start_proxy, start_script, assert_not_sent):
    words = documented("StreamLostError")
    for moment in (DECLARE, PUBLISH):
        assert_not_sent(start_proxy(broker, moment=moment, then="cut").url, words)
    proxy = start_proxy(broker, moment=DECLARE, then="cut")
    assert words in start_script("worker.py", AMQP_URL=proxy.url).wait_for(LOST, 2)


def test_the_line_is_reset(broker, start_proxy, start_script, assert_not_sent):
    proxy = start_proxy(broker, moment=DECLARE, then="reset")
    worker = start_script("worker.py", AMQP_URL=proxy.url)
    for count in (1, 2):
        assert "ConnectionResetError" in worker.wait_for(LOST, count)
    assert_not_sent(proxy.url, documented("StreamLostError"))


def test_the_line_goes_silent(broker, start_proxy, start_script, changed_worker):
    proxy = start_proxy(broker, moment=DECLARE, then="hold")
    script = changed_worker(("heartbeat = 300", "heartbeat = 2"))
    worker = start_script(script, AMQP_URL=proxy.url)
    assert documented("AMQPHeartbeatTimeout") in worker.wait_for(LOST)


def test_an_administrator_closes_the_connection(broker, start_worker):
    worker = start_worker(broker.url)
    broker.rabbitmqctl("close_all_connections", "maintenance")
    assert documented("CONNECTION_FORCED") in worker.wait_for(LOST)
    worker.wait_for(WAITING, 2)


def test_no_permission(start_broker, assert_not_sent, assert_not_waiting):
    broker = start_broker()
    for permissions in (("", "", ""), (".*", ".*", "")):
        broker.rabbitmqctl("set_permissions", "guest", *permissions)
        assert_not_waiting(broker.url, documented("access to queue"))
    broker.rabbitmqctl("set_permissions", "guest", "", "", "")
    assert_not_sent(broker.url, documented("access to queue"))


def test_a_queue_with_other_settings(broker, assert_not_sent, assert_not_waiting):
    """As the RabbitMQ team's own scripts make it."""
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
    assert_not_sent(broker.url, documented("inequivalent arg"))
    assert_not_waiting(broker.url, documented("inequivalent arg"))


def test_an_ack_that_comes_too_late(start_broker, start_worker, send):
    """RabbitMQ 4.3 has no such limit for classic queues."""
    broker = start_broker("consumer_timeout = 1000\n")
    worker = start_worker(broker.url)
    send(broker.url, ".....")
    if broker.version() < (4, 3):
        assert_traceback(worker, documented("delivery acknowledgement"))
        assert messages_ready(broker.url) == 1
    else:
        worker.wait_for(" [x] Done")


@pytest.mark.parametrize(
    "acks",
    [
        (ACK_LINE, ACK_LINE + ACK_LINE),
        ("on_message_callback=callback", "on_message_callback=callback, auto_ack=True"),
    ],
    ids=["twice", "with auto_ack"],
)
def test_an_ack_too_many(broker, start_worker, changed_worker, send, acks):
    worker = start_worker(broker.url, changed_worker(acks))
    send(broker.url, "once")
    send(broker.url, "twice")  # the second ack of the first task may come after it is received
    assert_traceback(worker, documented("unknown delivery tag"))


def test_an_ack_on_another_channel(broker, start_worker, changed_worker, send):
    """Only RabbitMQ's log has the words. The worker stands still."""
    elsewhere = changed_worker((ACK_LINE, ACK_LINE.replace("ch.", "ch.connection.channel().")))
    worker = start_worker(broker.url, elsewhere)
    send(broker.url, "once")
    send(broker.url, "twice")
    worker.wait_for(" [x] Done")
    logs = broker.home / "log"
    wait_until(
        lambda: any(
            documented("unknown delivery tag") in log.read_text() for log in logs.glob("*.log")
        ),
        "RabbitMQ has logged the error",
    )
    assert_silent(worker, seconds=1)


def test_the_queue_is_full(start_broker, send, assert_not_sent):
    broker = start_broker()
    full = '{"max-length":1,"overflow":"reject-publish"}'
    broker.rabbitmqctl("set_policy", "full", "task_queue", full)
    send(broker.url, "first")
    assert_not_sent(broker.url, documented("NackError"), "second")
    assert messages_ready(broker.url) == 1


def test_the_queue_is_deleted_before_the_message_arrives(broker, start_proxy, start_script):
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    new_task = start_script("new_task.py", AMQP_URL=proxy.url)
    assert proxy.reached.wait(60)
    delete_queue(broker.url)
    proxy.go_on()
    assert_traceback(new_task, documented("UnroutableError"))
    assert new_task.out == []


def test_the_message_is_larger_than_rabbitmq_takes(broker, assert_not_sent):
    assert_not_sent(broker.url, documented("message size"), *["x" * 120_000] * 9)
    assert messages_ready(broker.url) == 0


def test_an_argument_is_longer_than_the_system_takes():
    """The system says it, before Python starts. An argument may have 128 KiB on Linux."""
    with pytest.raises(OSError) as error:
        subprocess.run([sys.executable, "new_task.py", "x" * 131_072], cwd=ROOT, check=True)
    assert os.strerror(errno.E2BIG) == documented("Argument list too long")
    assert error.value.errno == errno.E2BIG


def test_rabbitmq_is_short_of_memory(start_broker, assert_not_sent):
    """The task arrives all the same, when there is memory again."""
    broker = start_broker("vm_memory_high_watermark.absolute = 1MB\n")
    assert_not_sent(broker.url, documented("ConnectionBlockedTimeout"), "blocked")
    assert messages_ready(broker.url) == 0
    broker.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "8GB")
    wait_until(lambda: messages_ready(broker.url) == 1, "the task has arrived")


def test_ctrl_c_before_the_confirm(broker, start_proxy, start_script):
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    new_task = start_script("new_task.py", "interrupted", AMQP_URL=proxy.url)
    assert proxy.reached.wait(60)
    new_task.ctrl_c()
    assert new_task.wait() != 0
    assert new_task.out == []
    assert new_task.err[-1] == documented("KeyboardInterrupt")


def test_an_argument_that_is_not_text(broker, start_script):
    new_task = start_script("new_task.py", "\udcff", AMQP_URL=broker.url, PYTHONUTF8="1")
    assert_traceback(new_task, documented("UnicodeEncodeError"))


def test_a_console_that_cannot_show_a_letter(broker, start_script, send):
    send(broker.url, "첫")
    worker = start_script("worker.py", AMQP_URL=broker.url, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert_traceback(worker, documented("UnicodeEncodeError"))
    worker = start_script("worker.py", AMQP_URL=broker.url, LC_ALL="C", PYTHONUTF8="1")
    worker.wait_for(" [x] Received '첫'")


def test_an_address_without_amqp(assert_not_sent, assert_not_waiting):
    assert_not_sent("rabbit.example.com", documented("IndexError"))
    assert_not_waiting("rabbit.example.com", documented("IndexError"))


@pytest.mark.parametrize("password", ["a/b", "a#b", "a?b"])
def test_a_password_with_a_character_of_an_address(password, assert_not_sent, assert_not_waiting):
    url = f"amqp://guest:{password}@127.0.0.1"
    assert_not_sent(url, documented("ValueError"))
    assert_not_waiting(url, documented("ValueError"))


def test_the_node_of_a_classic_queue_is_down(start_cluster, start_worker):
    """Each worker ends, also those that are connected to another node."""
    one, other = start_cluster(2)
    start_worker(one.url).kill()
    worker = start_worker(other.url)
    one.kill()
    assert_traceback(worker, documented("NOT_FOUND"))
