"""What is promised of AMQP_URL: another port, login and virtual host."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.setup import ROOT


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


def test_without_amqp_url_it_is_this_machine():
    """Nothing is started there: it may be a reader's RabbitMQ."""
    environment = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
    printed = subprocess.run(
        [sys.executable, "-c", "import worker; print(worker.address)"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == "127.0.0.1:5672\n"
    scripts = [(ROOT / name).read_text() for name in ("new_task.py", "worker.py")]
    line = 'parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))\n'
    assert all(line in script for script in scripts)
