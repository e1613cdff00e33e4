"""Each row of the page's tables of errors: the error is made, and its words are seen.

The name of a test, with its parameters, holds the words of the row.
"""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
from helpers.amqp import delete_queue, messages_ready, open_channel
from helpers.broker import LIMIT, free_port
from helpers.machine import ROOT
from helpers.proxy import ACK, CONNECTION_OPEN, DECLARE, HEADER, PUBLISH, START_OK
from helpers.script import CANCELLED, LOST, NO_CONNECTION, WAITING, assert_traceback, wait_until


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
def assert_both_end(start_script):
    """Both scripts end with a traceback, before they say anything."""

    def check(url, words):
        for script in ("new_task.py", "worker.py"):
            ended = start_script(script, AMQP_URL=url)
            assert_traceback(ended, words)
            assert ended.out == []

    return check


# Both scripts


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("ConnectionRefusedError", "amqp://127.0.0.1:{free_port}"),
        ("gaierror", "amqp://nosuch.invalid"),
        ("Login was refused", "amqp://guest:5ecret@127.0.0.1:{port}"),
        ("NOT_ALLOWED", "amqp://127.0.0.1:{port}/nosuch"),
        ("WRONG_VERSION_NUMBER", "amqps://127.0.0.1:{port}"),
    ],
)
def test_refused(broker, assert_refused, words, url):
    assert_refused(url.format(port=broker.port, free_port=free_port()), words)


@pytest.mark.parametrize(
    ("words", "moment", "then"),
    [
        ("AMQPConnectorStackTimeout", HEADER, "hold"),
        ("IncompatibleProtocolError", HEADER, "cut"),
        ("ProbableAuthenticationError", START_OK, "cut"),
        ("ProbableAccessDeniedError", CONNECTION_OPEN, "cut"),
    ],
)
def test_refused_by_a_line_that_fails(broker, start_proxy, assert_refused, words, moment, then):
    proxy = start_proxy(broker, moment=moment, then=then)
    assert_refused(f"{proxy.url}?stack_timeout=2", words)


def test_incompatibleprotocolerror_of_the_management_port(start_broker, assert_refused):
    broker = start_broker()
    broker.rabbitmqctl("enable", "rabbitmq_management", tool="rabbitmq-plugins")
    port = broker.management_port
    listeners = functools.partial(broker.rabbitmqctl, "listeners", tool="rabbitmq-diagnostics")
    wait_until(lambda: f"port: {port}" in listeners(), "it listens")
    assert_refused(f"amqp://127.0.0.1:{port}", "IncompatibleProtocolError")


def test_not_allowed_by_a_limit(start_broker, assert_refused):
    broker = start_broker()
    broker.rabbitmqctl("set_vhost_limits", '{"max-connections":0}')
    assert_refused(broker.url, "NOT_ALLOWED")


def test_probableaccessdeniederror_of_a_heartbeat_above_65535(broker, start_script, edited):
    """pika sends what does not fit, and RabbitMQ closes the line: for ever."""
    worker = start_script(edited("worker.py", ("= 300", "= 65536")), AMQP_URL=broker.url)
    assert "ProbableAccessDeniedError" in worker.wait_for(NO_CONNECTION, 2)


def test_amqpconnectionerror_alone_and_unable_to_perform_an_operation_on_node(reader):
    """Of the page's own programs, and of rabbitmqctl, when RabbitMQ is not running."""
    reader.broker.kill()
    last_line = reader.error_of("echo lost | python tests/examples/tasks.py")
    assert last_line == "pika.exceptions.AMQPConnectionError\n"
    with pytest.raises(RuntimeError, match="unable to perform an operation on node"):
        reader.type_in("rabbitmqctl list_queues")


def test_requires_the_rabbit_app(reader):
    with pytest.raises(RuntimeError, match="requires the 'rabbit' app"):
        reader.type_in("rabbitmqctl stop_app; rabbitmqctl list_queues")


def test_no_module_named_pika_and_command_not_found():
    """In a console that knows neither .venv nor rabbitmqctl()."""
    words = subprocess.getoutput(f"'{sys.executable}' -I -S '{ROOT}/worker.py'")
    assert words.endswith("No module named 'pika'")
    for command in ("python", "rabbitmqctl"):
        words = subprocess.getoutput(f"PATH=/none /bin/bash -c {command}")
        assert words.endswith(f"{command}: command not found")


def test_access_to_queue(start_broker, assert_both_end):
    broker = start_broker()
    broker.rabbitmqctl("set_permissions", "guest", "", "", "")
    assert_both_end(broker.url, "access to queue")


def test_inequivalent_arg(broker, assert_both_end):
    """As after the RabbitMQ team's own scripts."""
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
    assert_both_end(broker.url, "inequivalent arg")


def test_has_no_attribute_and_is_not_a_package_of_another_pika(start_script, edited):
    """As where a file pika.py lies beside the script."""
    new_task, worker = edited("new_task.py"), edited("worker.py")
    (new_task.parent / "pika.py").touch()
    assert_traceback(start_script(new_task), "has no attribute")
    assert_traceback(start_script(worker), "is not a package")


def test_resource_locked(broker, assert_both_end):
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", exclusive=True)
        assert_both_end(broker.url, "RESOURCE_LOCKED")


def test_internal_error_of_a_queue_that_is_not_durable(start_broker, start_script, edited):
    """RabbitMQ 4 can refuse such queues; 3.10 does not know this setting."""
    refuse = "deprecated_features.permit.transient_nonexcl_queues = false\n"
    broker = start_broker()
    new_task = edited("new_task.py", ("durable=True", "durable=False"))
    if broker.version() < (4, 0):
        assert start_script(new_task, AMQP_URL=broker.url).wait() == 0
    else:
        refusing = start_broker(refuse)
        assert_traceback(start_script(new_task, AMQP_URL=refusing.url), "INTERNAL_ERROR")


def test_in_exclusive_use(broker, start_script):
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True)
        channel.basic_consume("task_queue", lambda *_: None, exclusive=True)
        assert_traceback(start_script("worker.py", AMQP_URL=broker.url), "in exclusive use")


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("IndexError", "rabbit.example.com"),
        ("ValueError", "amqp://guest:a/b@127.0.0.1:{free_port}"),
        ("ValueError", "amqp://guest:a#b@127.0.0.1:{free_port}"),
        ("ValueError", "amqp://guest:a?b@127.0.0.1:{free_port}"),
    ],
)
def test_an_address_that_is_none(assert_both_end, words, url):
    assert_both_end(url.format(free_port=free_port()), words)


def test_streamlosterror(broker, start_proxy, start_script, assert_not_sent):
    """When only the confirm is lost, the task has arrived."""
    for moment, arrived in ((PUBLISH, 0), (ACK, 1), (DECLARE, 1)):
        assert_not_sent(start_proxy(broker, moment=moment, then="cut").url, "StreamLostError")
        assert messages_ready(broker.url) == arrived
    proxy = start_proxy(broker, moment=DECLARE, then="cut")
    assert "StreamLostError" in start_script("worker.py", AMQP_URL=proxy.url).wait_for(LOST, 2)


def test_amqpheartbeattimeout(broker, start_proxy, start_script, edited, assert_not_sent):
    """Without `heartbeat=2`, new_task.py ends after two to three minutes."""
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    assert_not_sent(f"{proxy.url}?heartbeat=2", "AMQPHeartbeatTimeout")
    proxy = start_proxy(broker, moment=DECLARE, then="hold")
    script = edited("worker.py", ("heartbeat = 300", "heartbeat = 2"))
    worker = start_script(script, AMQP_URL=proxy.url)
    assert "AMQPHeartbeatTimeout" in worker.wait_for(LOST)


def test_connection_forced_and_lost_the_connection(broker, start_worker, start_proxy, start_script):
    """Lost the connection, which an administrator has closed."""
    worker = start_worker(broker.url)
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    new_task = start_script("new_task.py", AMQP_URL=proxy.url)
    assert proxy.reached.wait(LIMIT)
    broker.rabbitmqctl("close_all_connections", "maintenance")
    proxy.go_on()
    assert_traceback(new_task, "CONNECTION_FORCED")
    assert "CONNECTION_FORCED" in worker.wait_for(LOST)
    worker.wait_for(WAITING, 2)


# new_task.py


def test_unroutableerror_of_a_queue_that_was_deleted(broker, start_proxy, start_script):
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    new_task = start_script("new_task.py", AMQP_URL=proxy.url)
    assert proxy.reached.wait(LIMIT)
    delete_queue(broker.url)
    proxy.go_on()
    assert_traceback(new_task, "UnroutableError")
    assert new_task.out == []


def test_message_size(broker, assert_not_sent):
    assert_not_sent(broker.url, "message size", *["x" * 120_000] * 9)
    assert messages_ready(broker.url) == 0


def test_connectionblockedtimeout_of_a_rabbitmq_short_of_memory(
    start_broker, assert_not_sent, send
):
    """The task may arrive all the same, when there is memory again."""
    broker = start_broker("vm_memory_high_watermark.absolute = 1MB\n")
    assert_not_sent(broker.url, "ConnectionBlockedTimeout", "blocked")
    assert messages_ready(broker.url) == 0
    broker.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "8GB")
    send(broker.url, "again")
    assert messages_ready(broker.url) in (1, 2)


def test_keyboardinterrupt_before_the_confirm(broker, start_proxy, start_script):
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    new_task = start_script("new_task.py", "interrupted", AMQP_URL=proxy.url)
    assert proxy.reached.wait(LIMIT)
    new_task.ctrl_c()
    assert new_task.wait() != 0
    assert new_task.out == []
    assert new_task.err[-1] == "KeyboardInterrupt"


def test_unicodeencodeerror_of_an_argument_that_is_not_text(broker, start_script):
    """Nothing is sent."""
    new_task = start_script("new_task.py", "\udcff", AMQP_URL=broker.url, PYTHONUTF8="1")
    assert_traceback(new_task, "UnicodeEncodeError")
    assert "message.encode()" in str(new_task.err)
    assert messages_ready(broker.url) == 0


def test_unicodeencodeerror_of_a_console_that_cannot_show_a_letter(broker, start_script):
    """The task of new_task.py is stored, and the one of the worker comes again."""
    plain = {"AMQP_URL": broker.url, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    new_task = start_script("new_task.py", "첫", **plain)
    assert_traceback(new_task, "UnicodeEncodeError")
    assert "print(" in str(new_task.err)
    assert messages_ready(broker.url) == 1
    assert_traceback(start_script("worker.py", **plain), "UnicodeEncodeError")
    worker = start_script("worker.py", AMQP_URL=broker.url, LC_ALL="C", PYTHONUTF8="1")
    worker.wait_for(" [x] Received '첫'")


# worker.py


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_delivery_acknowledgement_that_comes_too_late_and_cancelled_by_rabbitmq(
    start_broker, start_worker, send, kind
):
    """RabbitMQ 4.3 has no such limit for classic queues."""
    broker = start_broker("consumer_timeout = 1000\n")
    url = broker.add_vhost("late", "--default-queue-type", kind)
    worker = start_worker(url)
    send(url, ".....")
    if broker.version() < (4, 3):
        assert_traceback(worker, "delivery acknowledgement")
        wait_until(lambda: messages_ready(url) == 1, "the task is back")
    elif kind == "classic":
        worker.wait_for(" [x] Done")
        wait_until(lambda: broker.queue(vhost="late") == (0, 0), "the task is acknowledged")
    else:
        worker.wait_for(CANCELLED)
        worker.wait_for(" [x] Received", 2)


@pytest.mark.parametrize(
    "acks",
    [
        ("    ch.basic_ack(", "    ch.basic_ack(method.delivery_tag)\n    ch.basic_ack("),
        ("on_message_callback=callback", "on_message_callback=callback, auto_ack=True"),
    ],
    ids=["twice", "with auto_ack"],
)
def test_unknown_delivery_tag(broker, start_worker, edited, send, acks):
    worker = start_worker(broker.url, edited("worker.py", acks))
    send(broker.url, "once")
    send(broker.url, "twice")  # the second ack of the first task may come after it is received
    assert_traceback(worker, "unknown delivery tag")


def test_channelwrongstateerror_of_a_closed_channel(broker, start_worker, edited, send):
    worker = start_worker(
        broker.url, edited("worker.py", ("    time.sleep(b", "    ch.close(); (b"))
    )
    send(broker.url, "once")
    assert_traceback(worker, "ChannelWrongStateError")


def test_connectionwrongstateerror_of_a_closed_connection(broker, start_worker, edited, send):
    """It looks like a lost connection, because it is one."""
    work = "    ch.connection.close()\n    ch.connection.channel(); (b"
    worker = start_worker(broker.url, edited("worker.py", ("    time.sleep(b", work)))
    send(broker.url, "once")
    assert "ConnectionWrongStateError" in worker.wait_for(LOST)
