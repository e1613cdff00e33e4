"""What is promised of amqps://: whom the scripts trust, and how they show who they are."""

from __future__ import annotations

import shutil

import pytest
import trustme
from helpers.broker import free_port
from helpers.script import NO_CONNECTION, WAITING


@pytest.fixture
def certificates(tmp_path):
    """A folder with `ca.pem` and the certificates that this authority, or a stranger, has made."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, issuer, owner in (
        ("right", authority, "127.0.0.1"),
        ("untrusted", stranger, "127.0.0.1"),
        ("of another host", authority, "rabbit.example.com"),
        ("mine", authority, "worker@example.com"),
    ):
        certificate = issuer.issue_cert(owner)
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    return tmp_path


@pytest.fixture
def start_tls(start_broker, certificates):
    """Starts a broker that shows `shown.pem`. Returns its host and port, and itself."""

    def start():
        port = free_port()
        files = {"cacertfile": "ca.pem", "certfile": "shown.pem", "keyfile": "shown.key"}
        lines = [f"ssl_options.{name} = {certificates / file}\n" for name, file in files.items()]
        lines += [f"listeners.ssl.1 = 127.0.0.1:{port}\n", "ssl_options.verify = verify_peer\n"]
        lines += ["ssl_options.fail_if_no_peer_cert = false\n"]  # RabbitMQ 4 has true
        return f"127.0.0.1:{port}", start_broker("".join(lines))

    return start


def show(certificates, name):
    for kind in ("pem", "key"):
        shutil.copy(certificates / f"{name}.{kind}", certificates / f"shown.{kind}")


@pytest.mark.parametrize("name", ["untrusted", "of another host"])
def test_CERTIFICATE_VERIFY_FAILED(start_tls, certificates, start_script, name):
    """The worker goes on when the certificate is put right."""
    show(certificates, name)
    here, broker = start_tls()
    trust = {"AMQP_URL": f"amqps://{here}", "SSL_CERT_FILE": str(certificates / "ca.pem")}
    new_task = start_script("new_task.py", "secret", **trust)
    assert new_task.wait() == 1
    assert "CERTIFICATE_VERIFY_FAILED" in new_task.err[0]
    worker = start_script("worker.py", **trust)
    assert "CERTIFICATE_VERIFY_FAILED" in worker.wait_for(NO_CONNECTION, 2)
    assert worker.out == []
    show(certificates, "right")
    broker.kill()
    broker.start()
    worker.wait_for(WAITING)


def test_tls_shows_a_certificate_of_ones_own(start_tls, certificates, start_script):
    """With the address of the page. RabbitMQ refuses one that its authority did not sign."""
    show(certificates, "right")
    here, _ = start_tls()

    def url(name):
        files = {"ca_certs": "ca.pem", "certfile": f"{name}.pem", "keyfile": f"{name}.key"}
        return (
            f"amqps://{here}?ssl_options={ {k: str(certificates / v) for k, v in files.items()} }"
        )

    start_script("new_task.py", "known", AMQP_URL=url("mine")).wait_for(" [x] Sent 'known'")
    stranger = start_script("worker.py", AMQP_URL=url("untrusted"))
    stranger.wait_for(NO_CONNECTION, 2)
    new_task = start_script("new_task.py", AMQP_URL=f"amqp://{here}")
    assert new_task.wait() == 1
    assert "IncompatibleProtocolError" in new_task.err[0]
