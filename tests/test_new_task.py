"""What is promised of new_task.py: what it sends, and that ` [x] Sent` is true."""

from __future__ import annotations

import pytest
from helpers.amqp import messages_ready, open_channel, take_all
from helpers.broker import LIMIT
from helpers.machine import ROOT
from helpers.proxy import ACK, CLOSE
from helpers.script import TRACEBACK, assert_silent


@pytest.mark.parametrize(
    ("words", "message", "printed"),
    [
        ([], "Hello World!", "'Hello World!'"),
        ([""], "Hello World!", "'Hello World!'"),
        (["--help", "-x", "", "two  spaces"], "--help -x  two  spaces", "'--help -x  two  spaces'"),
        (["첫", "🐇"], "첫 🐇", "'첫 🐇'"),
        (["\x1b[31mit's\n"], "\x1b[31mit's\n", r'''"\x1b[31mit's\n"'''),
    ],
)
def test_all_words_are_sent_as_utf_8_and_printed_readably(
    broker, start_script, words, message, printed
):
    new_task = start_script("new_task.py", *words, AMQP_URL=broker.url)
    assert new_task.wait() == 0
    assert (new_task.out, new_task.err) == ([f" [x] Sent {printed}"], [])
    assert take_all(broker.url) == [message.encode()]


def test_nothing_is_called_sent_before_rabbitmq_confirms_it(broker, start_proxy, start_script):
    proxy = start_proxy(broker, moment=ACK, then="hold")
    new_task = start_script("new_task.py", "patience", AMQP_URL=proxy.url)
    assert proxy.reached.wait(LIMIT)
    assert_silent(new_task, seconds=2)
    assert new_task.out == []
    proxy.go_on()
    new_task.wait_for(" [x] Sent 'patience'")
    assert new_task.wait() == 0


def test_what_is_called_sent_is_there_although_rabbitmq_dies_at_the_goodbye(
    broker, start_proxy, start_script
):
    with open_channel(broker.url) as channel:
        channel.queue_declare("task_queue", durable=True)
    broker.restart()
    proxy = start_proxy(broker, moment=CLOSE, then="hold")
    new_task = start_script("new_task.py", "kept", AMQP_URL=proxy.url)
    assert proxy.reached.wait(LIMIT)
    broker.kill()
    proxy.go_on()
    broker.start()
    assert new_task.wait() != 0
    assert new_task.out == [" [x] Sent 'kept'"]
    assert TRACEBACK in new_task.err
    assert messages_ready(broker.url) == 1


def test_how_long_it_waits_for_a_rabbitmq_short_of_memory(broker, start_script):
    """Ten seconds. (That the error comes at all: test_errors.py.)"""
    code = "import runpy; p = runpy.run_path('new_task.py')['parameters']"
    code += "; print(p.blocked_connection_timeout)"
    new_task = start_script("-c", code, AMQP_URL=broker.url)
    assert new_task.wait() == 0
    assert new_task.out[-1] == "10"


@pytest.mark.parametrize("script", ["new_task.py", "worker.py"])
def test_without_an_address_it_is_this_machine(script):
    """Nothing connects: there may be a reader's RabbitMQ."""
    line = 'parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))\n'
    assert line in (ROOT / script).read_text()
