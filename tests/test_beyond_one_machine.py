"""A cluster of three, and TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from broker import Broker, free_port
from conftest import Run, quorum_vhost, waiting
from console import Console, until
from test_load import TASKS, done

WAITING = " [*] Waiting for messages. To exit press CTRL+C"


def leader(nodes: list[Broker]) -> Broker:
    """The node that leads the queue."""
    name = nodes[0].ctl("list_queues", "-p", "quorum", "--no-table-headers", "leader").strip()
    return next(one for one in nodes if one.node == name)


def test_a_cluster_loses_a_node_and_no_task(
    node: Callable[..., Broker], console: Run, send: Run
) -> None:
    nodes = [node(wait=False) for _ in range(3)]
    for broker in nodes:
        broker.wait()
    for broker in nodes[1:]:
        broker.ctl("stop_app")
        broker.ctl("join_cluster", nodes[0].node)
        broker.ctl("start_app")
    quorum_vhost(nodes[0])
    url = ",".join(f"{one.url}/quorum" for one in nodes)
    workers = [console("worker.py", AMQP_URL=url) for _ in range(3)]
    for one in workers:
        one.wait_for(WAITING)
    assert nodes[0].ctl("list_queues", "-p", "quorum", "--no-table-headers", "type") == "quorum\n"
    producers: list[Console] = []

    def produce() -> None:
        for task in TASKS:
            producers.append(send(url, task))

    def sent() -> set[str]:
        return {one.out[0].removeprefix(" [x] Sent ") for one in producers if one.end() == 0}

    producing = threading.Thread(target=produce)
    producing.start()
    try:
        until(lambda: len(done(workers)) >= 3)
        victim = leader(nodes)
        victim.kill()
        victim.start()
        second = next(one for one in nodes if one is not victim)
        second.stop()
        second.start()
    finally:
        producing.join()
    until(lambda: sent() <= done(workers), limit=60)
    assert len(sent()) >= len(TASKS) / 2
    for one in producers:
        assert (one.end(), len(one.out), len(one.err)) in ((0, 1, 0), (1, 0, 1))
    until(lambda: waiting(f"{nodes[0].url}/quorum") == 0)

    last = leader(nodes)
    for broker in nodes:
        if broker is not last:
            broker.kill()
    lonely = send(url, "needs a majority")
    assert (lonely.end(), lonely.out) == (1, [])
    addresses = ", ".join(f"127.0.0.1:{one.port}" for one in nodes)
    assert lonely.err[0].startswith(
        f" [!] RabbitMQ may or may not have it. RabbitMQ at {addresses}"
    )


def test_all_addresses_are_named_when_none_answers(console: Run) -> None:
    ports = [free_port() for _ in range(3)]
    one = console("new_task.py", AMQP_URL=",".join(f"amqp://127.0.0.1:{port}" for port in ports))
    assert one.end() == 1
    assert ", ".join(f"127.0.0.1:{port}" for port in ports) in one.err[0]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.2", port)) == 0


@pytest.fixture
def tls(node: Callable[..., Broker], tmp_path: Path) -> Callable[[str], tuple[int, Path]]:
    """A broker with a certificate for 127.0.0.1: its TLS port, and the authority's file.

    It listens on 127.0.0.2 too, a name that is not in the certificate.
    """

    def start(config: str) -> tuple[int, Path]:
        authority, port = trustme.CA(), free_port()
        server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("worker@example")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        for name, certificate in (("server", server), ("client", client)):
            certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
            certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        node(
            f"listeners.ssl.1 = 127.0.0.1:{port}\nlisteners.ssl.2 = 127.0.0.2:{port}\n"
            f"ssl_options.cacertfile = {tmp_path}/ca.pem\n"
            f"ssl_options.certfile = {tmp_path}/server.pem\n"
            f"ssl_options.keyfile = {tmp_path}/server.key\n{config}"
        )
        until(lambda: listens(port))  # a moment after the port without TLS
        return port, tmp_path / "ca.pem"

    return start


def test_tls_trusts_only_the_known_authorities_and_the_right_name(
    tls: Callable[[str], tuple[int, Path]], console: Run, send: Run
) -> None:
    port, authority = tls("ssl_options.verify = verify_none\n")
    known = {"SSL_CERT_FILE": str(authority)}
    assert send(f"amqps://127.0.0.1:{port}", "secret", **known).out == [" [x] Sent 'secret'"]
    one = console("worker.py", AMQP_URL=f"amqps://127.0.0.1:{port}", **known)
    one.wait_for(" [x] Received 'secret'")
    for host, trust in (("127.0.0.1", {}), ("127.0.0.2", known)):
        for script in ("new_task.py", "worker.py"):
            refused = console(script, AMQP_URL=f"amqps://{host}:{port}", **trust)
            assert (refused.end(), refused.out) == (1, [])
            assert "CERTIFICATE_VERIFY_FAILED" in refused.err[0]


def test_tls_shows_a_client_certificate(
    tls: Callable[[str], tuple[int, Path]], console: Run, send: Run
) -> None:
    port, authority = tls(
        "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
    )
    folder = authority.parent
    files = {"ca_certs": "ca.pem", "certfile": "client.pem", "keyfile": "client.key"}
    options = {name: str(folder / file) for name, file in files.items()}
    url = f"amqps://127.0.0.1:{port}"
    assert send(f"{url}?ssl_options={options}", "known").out == [" [x] Sent 'known'"]
    for script in ("new_task.py", "worker.py"):
        refused = console(script, AMQP_URL=url, SSL_CERT_FILE=str(authority))
        refused.wait_for(" [!] ")
        assert not refused.out
