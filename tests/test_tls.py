"""What is promised of amqps://: whom the scripts trust, and how they show who they are."""

from __future__ import annotations

import shutil

import pytest
import trustme
from helpers.broker import Broker, free_port
from helpers.script import NO_CONNECTION, WAITING, assert_quiet


class TlsBroker(Broker):
    """A broker that shows one of several certificates. `home` holds them, and `ca.pem`."""

    def __init__(self, home, epmd_port):
        self.tls_port = free_port()
        self.tls_url = f"amqps://127.0.0.1:{self.tls_port}"
        super().__init__(
            home,
            epmd_port,
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {home}/ca.pem\n"
            f"ssl_options.certfile = {home}/shown.pem\n"
            f"ssl_options.keyfile = {home}/shown.key\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = false\n",
        )
        authority, stranger = trustme.CA(), trustme.CA()
        authority.cert_pem.write_to_path(home / "ca.pem")
        for name, issuer, owner in (
            ("right", authority, "127.0.0.1"),
            ("untrusted", stranger, "127.0.0.1"),
            ("of another host", authority, "rabbit.example.com"),
            ("client", authority, "worker@example"),
        ):
            certificate = issuer.issue_cert(owner)
            certificate.cert_chain_pems[0].write_to_path(home / f"{name}.pem")
            certificate.private_key_pem.write_to_path(home / f"{name}.key")
        self.copy("right")

    def copy(self, name):
        for kind in ("pem", "key"):
            shutil.copy(self.home / f"{name}.{kind}", self.home / f"shown.{kind}")

    def show(self, name):
        """Show this certificate to new connections."""
        self.copy(name)
        self.rabbitmqctl("eval", "ssl:clear_pem_cache().")


@pytest.fixture
def tls_broker(epmd_port, tmp_path):
    broker = TlsBroker(tmp_path / "tls", epmd_port)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def test_CERTIFICATE_VERIFY_FAILED_unless_authority_and_host_are_right(tls_broker, start_script):
    url, trust = tls_broker.tls_url, {"SSL_CERT_FILE": str(tls_broker.home / "ca.pem")}
    unknown = start_script("new_task.py", "secret", AMQP_URL=url, SSL_CERT_FILE="")
    assert unknown.wait() == 1
    assert "CERTIFICATE_VERIFY_FAILED" in unknown.err[0]
    for name in ("untrusted", "of another host"):
        tls_broker.show(name)
        new_task = start_script("new_task.py", "secret", AMQP_URL=url, **trust)
        assert new_task.wait() == 1
        assert "CERTIFICATE_VERIFY_FAILED" in new_task.err[0]
        worker = start_script("worker.py", AMQP_URL=url, **trust)
        assert "CERTIFICATE_VERIFY_FAILED" in worker.wait_for(NO_CONNECTION, 2)
        assert worker.out == []
        tls_broker.show("right")
        worker.wait_for(WAITING)  # it goes on when the certificate is put right
        worker.kill()
    new_task = start_script("new_task.py", "secret", AMQP_URL=url, **trust)
    assert new_task.wait() == 0
    assert_quiet(new_task)
    start_script("worker.py", AMQP_URL=url, **trust).wait_for(" [x] Received 'secret'")


def test_tls_shows_a_certificate_of_ones_own(tls_broker, start_script):
    """RabbitMQ refuses one that its authority did not sign."""

    def url(name):
        files = {"ca_certs": "ca.pem", "certfile": f"{name}.pem", "keyfile": f"{name}.key"}
        options = {option: str(tls_broker.home / file) for option, file in files.items()}
        return f"{tls_broker.tls_url}?ssl_options={options}"

    known = start_script("new_task.py", "known", AMQP_URL=url("client"))
    known.wait_for(" [x] Sent 'known'")
    stranger = start_script("worker.py", AMQP_URL=url("untrusted"))
    stranger.wait_for(NO_CONNECTION, 2)
    assert stranger.out == []


def test_amqp_to_the_port_of_tls(tls_broker, start_script):
    new_task = start_script("new_task.py", AMQP_URL=f"amqp://127.0.0.1:{tls_broker.tls_port}")
    assert new_task.wait() == 1
    assert "IncompatibleProtocolError" in new_task.err[0]
