"""What is promised of AMQP_URL: another host, port, login and virtual host."""

from __future__ import annotations

import pytest


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
