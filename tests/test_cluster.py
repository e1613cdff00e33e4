"""What is promised of several nodes: quorum queues survive the loss of one."""

from __future__ import annotations

import pytest
from helpers.amqp import messages_ready
from helpers.proxy import PUBLISH
from helpers.script import WAITING, assert_silent, done, wait_until


def leader(nodes):
    """The node that leads task_queue."""
    columns = ("-p", "quorum", "--no-table-headers", "leader")
    name = nodes[0].rabbitmqctl("list_queues", *columns).strip()
    (node,) = [node for node in nodes if node.node == name]
    return node


@pytest.fixture
def quorum_cluster(start_cluster):
    """Three nodes with a virtual host `quorum`, whose queues are quorum queues."""
    nodes = start_cluster(3)
    nodes[0].add_vhost("quorum", "--default-queue-type", "quorum")
    return nodes


def test_a_cluster_loses_a_node_and_no_task(quorum_cluster, start_proxy, start_script):
    balancer = start_proxy(*quorum_cluster)
    url = f"{balancer.url}/quorum"
    workers = [start_script("worker.py", AMQP_URL=url) for _ in range(3)]
    for worker in workers:
        worker.wait_for(WAITING)
    sent = []
    for number in range(20):
        if number == 8:
            leader(quorum_cluster).kill()
        task = f"task {number}{'.' * (number % 3)}"
        if start_script("new_task.py", task, AMQP_URL=url).wait() == 0:
            sent.append(repr(task))
    assert len(sent) >= 15
    wait_until(lambda: set(sent) <= set(done(*workers)), "all that was sent is done")
    wait_until(lambda: messages_ready(url) == 0, "no task is left")


def test_new_task_waits_for_a_majority(quorum_cluster, start_proxy, start_script, start_worker):
    start_worker(f"{quorum_cluster[0].url}/quorum").kill()  # it has made the queue
    last = leader(quorum_cluster)
    others = [node for node in quorum_cluster if node is not last]
    proxy = start_proxy(last, moment=PUBLISH, then="hold")
    new_task = start_script("new_task.py", "patience", AMQP_URL=f"{proxy.url}/quorum")
    assert proxy.reached.wait(100)
    for node in others:
        node.kill()
    proxy.go_on()
    assert_silent(new_task, seconds=3)
    others[0].start()
    new_task.wait_for(" [x] Sent 'patience'")
    assert new_task.wait() == 0
