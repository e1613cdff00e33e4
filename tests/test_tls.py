"""What is promised of amqps://: the scripts talk to a RabbitMQ whose certificate they can check."""

from __future__ import annotations

import pytest
import trustme
from helpers.broker import free_port
from helpers.script import NO_CONNECTION

COMPANY, STRANGER = trustme.CA(), trustme.CA()


@pytest.fixture
def start_tls(start_broker, tmp_path):
    """Starts a broker whose certificate an authority has made for a host.

    Returns the environment of a script: the address, and COMPANY as the authority to trust.
    """

    def start(authority, host):
        shown, trusted = tmp_path / "shown.pem", tmp_path / "trusted.pem"
        authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(shown)
        COMPANY.cert_pem.write_to_path(trusted)
        port = free_port()
        start_broker(
            f"listeners.ssl.1 = 127.0.0.1:{port}\n"
            f"ssl_options.certfile = {shown}\n"
            f"ssl_options.keyfile = {shown}\n"
            "ssl_options.verify = verify_none\n"
        )
        return {"AMQP_URL": f"amqps://127.0.0.1:{port}", "SSL_CERT_FILE": str(trusted)}

    return start


def test_a_task_travels_encrypted(start_tls, start_script):
    encrypted = start_tls(COMPANY, "127.0.0.1")
    start_script("new_task.py", "secret", **encrypted).wait_for(" [x] Sent 'secret'")
    start_script("worker.py", **encrypted).wait_for(" [x] Received 'secret'")


@pytest.mark.parametrize(
    ("authority", "host"),
    [(STRANGER, "127.0.0.1"), (COMPANY, "rabbit.example.com")],
    ids=["of a stranger", "for another host"],
)
def test_certificate_verify_failed(start_tls, start_script, authority, host):
    encrypted = start_tls(authority, host)
    new_task = start_script("new_task.py", "secret", **encrypted)
    assert new_task.wait() == 1
    assert "CERTIFICATE_VERIFY_FAILED" in new_task.err[0]
    worker = start_script("worker.py", **encrypted)
    assert "CERTIFICATE_VERIFY_FAILED" in worker.wait_for(NO_CONNECTION, 2)
