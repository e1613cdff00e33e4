"""A cluster of three, its quorum queues, and TLS."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from conftest import WAITING, Run
from shared.broker import Broker, free_port
from shared.console import Console, done, sent, until
from shared.relay import PUBLISH, Relay
from shared.task_queue import channel, waiting

TASKS = [f"task {number}{'.' * (number % 3)}" for number in range(20)]


def leader(nodes: list[Broker]) -> Broker:
    """The node that leads the queue."""
    name = nodes[0].ctl("list_queues", "-p", "quorum", "--no-table-headers", "leader").strip()
    return next(one for one in nodes if one.node == name)


def test_a_cluster_loses_a_node_and_no_task_and_waits_for_a_majority(
    node: Callable[..., Broker], console: Run, send: Run, relay: Callable[..., Relay]
) -> None:
    nodes = [node(wait=False) for _ in range(3)]
    for broker in nodes:
        broker.wait()
    for broker in nodes[1:]:
        broker.ctl("stop_app")
        broker.ctl("join_cluster", nodes[0].node)
        broker.ctl("start_app")
    nodes[0].quorum_vhost()
    balancer = relay(*(one.port for one in nodes))
    url = f"{balancer.url}/quorum"
    workers = [console("worker.py", AMQP_URL=url) for _ in range(3)]
    for one in workers:
        one.wait_for(WAITING)
    assert nodes[0].ctl("list_queues", "-p", "quorum", "--no-table-headers", "type") == "quorum\n"
    producers: list[Console] = []

    def produce() -> None:
        for task in TASKS:
            producers.append(send(url, task))

    producing = threading.Thread(target=produce)
    producing.start()
    try:
        until(lambda: len(done(workers)) >= 3)
        victim = leader(nodes)
        victim.kill()
        victim.start()
    finally:
        producing.join()
    called_sent = sent(producers)
    until(lambda: called_sent <= done(workers), limit=60)
    assert len(called_sent) >= len(TASKS) / 2
    until(lambda: waiting(url) == 0)
    for one in workers:
        one.stop()

    lonely = leader(nodes)
    others = [broker for broker in nodes if broker is not lonely]

    def lose_the_majority(data: bytes) -> bool:
        if PUBLISH in data:
            for other in others:
                other.kill()
            alone.set()
        return True

    alone = threading.Event()
    line = relay(lonely.port, to_broker=lose_the_majority)
    patient = console("new_task.py", "patience", AMQP_URL=f"{line.url}/quorum")
    assert alone.wait(30)
    with pytest.raises(AssertionError):  # it says nothing
        patient.wait_for("[", limit=5)
    others[0].start()
    patient.wait_for(" [x] Sent 'patience'", limit=40)
    assert patient.end() == 0


def test_a_task_that_kills_its_worker_is_dropped_from_a_quorum_queue(
    broker: Broker, quorum: str, send: Run
) -> None:
    """RabbitMQ 4 and newer: delivered 21 times, then gone."""
    if broker.version() < (4, 0):
        pytest.skip("RabbitMQ 3 has no default for the delivery limit")
    send(quorum, "poison")

    def delivered() -> bool:
        with channel(quorum) as ch:  # closing it without an ack gives the task back
            return ch.basic_get("task_queue")[0] is not None

    for _ in range(21):
        until(delivered)
    books = ("list_queues", "-p", "quorum", "--no-table-headers", "messages")
    until(lambda: broker.ctl(*books).strip() == "0")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.2", port)) == 0


class Tls:
    """A broker with a certificate for 127.0.0.1, which listens on 127.0.0.2 too."""

    def __init__(self, node: Broker, port: int, folder: Path) -> None:
        self.node, self.port, self.folder = node, port, folder
        self.known = {"SSL_CERT_FILE": str(folder / "ca.pem")}

    def use(self, certificate: str) -> None:
        """Show this one to new connections."""
        for kind in ("pem", "key"):
            shutil.copy(self.folder / f"{certificate}.{kind}", self.folder / f"shown.{kind}")
        self.node.ctl("eval", "ssl:clear_pem_cache().")


@pytest.fixture(scope="session")
def tls(epmd_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, issuer, owner in (
        ("server", authority, "127.0.0.1"),
        ("shown", authority, "127.0.0.1"),
        ("untrusted", stranger, "127.0.0.1"),
        ("client", authority, "worker@example"),
    ):
        certificate = issuer.issue_cert(owner)
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    config = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nlisteners.ssl.2 = 127.0.0.2:{port}\n"
        f"ssl_options.cacertfile = {folder}/ca.pem\nssl_options.certfile = {folder}/shown.pem\n"
        f"ssl_options.keyfile = {folder}/shown.key\nssl_options.verify = verify_peer\n"
        "ssl_options.fail_if_no_peer_cert = false\n"
    )
    node = Broker(folder / "node", epmd_port, name="tls", config=config)
    try:
        node.start()
        until(lambda: listens(port))  # a moment after the port without TLS
        yield Tls(node, port, folder)
    finally:
        node.kill()


def test_tls_trusts_only_the_known_authorities_and_the_right_name(
    tls: Tls, console: Run, send: Run
) -> None:
    right = f"amqps://127.0.0.1:{tls.port}"
    assert send(right, "secret", **tls.known).out == [" [x] Sent 'secret'"]
    one = console("worker.py", AMQP_URL=right, **tls.known)
    one.wait_for(" [x] Received 'secret'")
    for url, trust in ((right, {}), (f"amqps://127.0.0.2:{tls.port}", tls.known)):
        refused = send(url, "secret", **trust)
        assert (refused.end(), refused.out) == (1, [])
        assert "CERTIFICATE_VERIFY_FAILED" in refused.err[0]
        one = console("worker.py", AMQP_URL=url, **trust)
        one.wait_for("CERTIFICATE_VERIFY_FAILED", 2)
        assert one.out == []
    tls.use("untrusted")
    try:
        one = console("worker.py", AMQP_URL=right, **tls.known)
        one.wait_for("CERTIFICATE_VERIFY_FAILED", 2)
    finally:
        tls.use("server")
    one.wait_for(WAITING)  # it goes on when the certificate is put right


def test_tls_shows_a_client_certificate(tls: Tls, console: Run, send: Run) -> None:
    """The broker asks for one, and refuses one that its authority did not sign."""

    def options(certificate: str) -> str:
        files = {"ca_certs": "ca.pem", "certfile": f"{certificate}.pem"}
        named = {name: str(tls.folder / file) for name, file in files.items()}
        named["keyfile"] = str(tls.folder / f"{certificate}.key")
        return f"amqps://127.0.0.1:{tls.port}?ssl_options={named}"

    assert send(options("client"), "known").out == [" [x] Sent 'known'"]
    assert send(options("untrusted"), "unknown").out == []
    stranger = console("worker.py", AMQP_URL=options("untrusted"))
    stranger.wait_for(" [!] ", 2)
    assert stranger.out == []
