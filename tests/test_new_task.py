"""What is promised of new_task.py: what it sends, and that ` [x] Sent` is true."""

from __future__ import annotations

import re

import pytest
from helpers.amqp import (
    get_message,
    messages_ready,
    open_channel,
    wait_until_queues_are_on_disk,
)
from helpers.proxy import ACK, CLOSE, PUBLISH
from helpers.script import (
    TRACEBACK,
    assert_quiet,
    assert_silent,
    assert_traceback,
    wait_until,
)
from helpers.setup import ROOT


@pytest.mark.parametrize("words", [(), ("",)])
def test_without_words_the_message_is_hello_world(broker, start_script, words):
    new_task = start_script("new_task.py", *words, AMQP_URL=broker.url)
    assert new_task.wait() == 0
    assert new_task.out == [" [x] Sent 'Hello World!'"]
    assert get_message(broker.url) == b"Hello World!"
    assert_quiet(new_task)


def test_every_argument_is_part_of_the_message(broker, send):
    send(broker.url, "--help", "-x", "", "two  spaces")
    assert get_message(broker.url) == b"--help -x  two  spaces"


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("첫 번째 메시지", "'첫 번째 메시지'"),
        ("🐇", "'🐇'"),
        ("it's", '"it\'s"'),
        ("\x1b[31mred\x07\n\t", r"'\x1b[31mred\x07\n\t'"),
        ("\u202egnp", r"'\u202egnp'"),
    ],
)
def test_any_text_is_sent_as_utf_8_and_printed_readably(broker, start_script, message, printed):
    new_task = start_script("new_task.py", message, AMQP_URL=broker.url)
    assert new_task.wait() == 0
    assert new_task.out == [f" [x] Sent {printed}"]
    assert get_message(broker.url) == message.encode()


def test_the_queue_is_durable_and_the_message_persistent(broker, send):
    send(broker.url, "kept")
    columns = ("name", "durable", "exclusive", "auto_delete", "messages_persistent")
    listed = broker.rabbitmqctl("list_queues", "--no-table-headers", *columns)
    assert listed.split() == ["task_queue", "true", "false", "false", "1"]


def test_nothing_is_called_sent_before_rabbitmq_confirms_it(broker, start_proxy, start_script):
    proxy = start_proxy(broker, moment=ACK, then="hold")
    new_task = start_script("new_task.py", "patience", AMQP_URL=proxy.url)
    assert proxy.reached.wait(100)
    assert_silent(new_task, seconds=2)
    assert new_task.out == []
    proxy.go_on()
    new_task.wait_for(" [x] Sent 'patience'")
    assert new_task.wait() == 0


def test_without_the_confirm_it_ends_with_an_error_although_the_task_has_arrived(
    broker, start_proxy, start_script
):
    proxy = start_proxy(broker, moment=ACK, then="cut")
    new_task = start_script("new_task.py", "perhaps", AMQP_URL=proxy.url)
    assert_traceback(new_task, "StreamLostError")
    assert new_task.out == []
    assert messages_ready(broker.url) == 1


def test_a_line_that_goes_silent_ends_it_with_an_error(broker, start_proxy, start_script):
    """With RabbitMQ's heartbeat of 60 seconds: after two to three minutes."""
    proxy = start_proxy(broker, moment=PUBLISH, then="hold")
    new_task = start_script("new_task.py", "unheard", AMQP_URL=f"{proxy.url}?heartbeat=2")
    assert_traceback(new_task, "AMQPHeartbeatTimeout")
    assert new_task.out == []


def test_what_is_called_sent_is_there_when_rabbitmq_dies_at_the_goodbye(
    broker, start_proxy, start_script
):
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True)
    wait_until_queues_are_on_disk(broker)
    proxy = start_proxy(broker, moment=CLOSE, then="hold")
    new_task = start_script("new_task.py", "kept", AMQP_URL=proxy.url)
    new_task.wait_for(" [x] Sent 'kept'")
    assert proxy.reached.wait(100)
    broker.kill()
    proxy.go_on()
    assert_traceback(new_task, "StreamLostError")
    broker.start()
    assert messages_ready(broker.url) == 1


def test_ctrl_c_ends_it_while_it_says_goodbye(broker, start_proxy, start_script):
    proxy = start_proxy(broker, moment=CLOSE, then="hold")
    new_task = start_script("new_task.py", "kept", AMQP_URL=proxy.url)
    assert proxy.reached.wait(100)
    new_task.ctrl_c()
    assert new_task.wait() != 0
    assert new_task.out == [" [x] Sent 'kept'"]
    assert TRACEBACK in new_task.err
    assert messages_ready(broker.url) == 1


def test_its_address_and_how_long_it_waits_for_a_rabbitmq_short_of_memory(broker, start_script):
    """Ten seconds. (That the error comes at all: test_errors.py.)"""
    code = "import runpy; p = runpy.run_path('new_task.py')['parameters']"
    code += "; print(p.blocked_connection_timeout)"
    new_task = start_script("-c", code, AMQP_URL=broker.url)
    assert new_task.wait() == 0
    assert new_task.out[-1] == "10"
    line = 'parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))\n'
    assert line in (ROOT / "new_task.py").read_text()


@pytest.mark.parametrize(
    ("password", "written"),
    [
        ("p@5ecret/word", "p%405ecret%2Fword"),
        ("5ecret:#?%", "5ecret%3A%23%3F%25"),
    ],
)
def test_a_login_and_a_virtual_host(start_broker, send, start_worker, password, written):
    broker = start_broker()
    broker.rabbitmqctl("add_user", "kim", password)
    broker.rabbitmqctl("add_vhost", "a/b")
    broker.rabbitmqctl("set_permissions", "-p", "a/b", "kim", ".*", ".*", ".*")
    url = f"amqp://kim:{written}@127.0.0.1:{broker.port}/a%2Fb"
    send(url, "elsewhere")
    start_worker(url).wait_for(" [x] Received 'elsewhere'")
    assert "task_queue" not in broker.rabbitmqctl("list_queues", "name")


def test_it_says_goodbye_to_rabbitmq(start_broker, start_script):
    """RabbitMQ's log would else have a warning for each task."""
    broker = start_broker()
    new_task = start_script("new_task.py", AMQP_URL=broker.url)
    assert new_task.wait() == 0
    (log,) = (broker.home / "log").glob(f"{broker.node}.log")
    end = re.compile(r"closing AMQP connection .*user: 'guest'[^)]*\)(.*)")
    wait_until(lambda: end.search(log.read_text()), "RabbitMQ has logged the end")
    assert end.findall(log.read_text()) == [""]  # else: ": client unexpectedly closed..."
