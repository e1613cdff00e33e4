"""Nothing lost, nothing cryptic: each fault is made on a real broker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import readme
from broker import Broker, free_port
from conftest import Run, channel, quorum_vhost, waiting
from console import until
from machine import ROOT
from relay import ACK, DECLARE, PUBLISH, Relay

WAITING = " [*] Waiting for messages. To exit press CTRL+C"


@pytest.fixture(scope="module")
def module_node(epmd_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    home = tmp_path_factory.mktemp("fragile") / "node"
    broker = Broker(home, epmd_port, name="fragile", config="heartbeat = 2\n")
    yield broker
    broker.kill()


@pytest.fixture
def fragile(module_node: Broker) -> Iterator[Broker]:
    """A broker with short heartbeats, for tests that bring it up again after breaking it."""
    if module_node.process is None or module_node.process.poll() is not None:
        module_node.start()
    with channel(module_node.url) as ch:
        ch.queue_delete("task_queue")
    yield module_node
    module_node.signal(signal.SIGCONT)


@pytest.fixture
def relay() -> Iterator[Callable[..., Relay]]:
    made: list[Relay] = []

    def make(*arguments: object, **options: object) -> Relay:
        made.append(Relay(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def restart(broker: Broker) -> None:
    broker.stop()
    broker.start()


def power_cut(broker: Broker) -> None:
    broker.kill()
    broker.start()


def close_connections(broker: Broker) -> None:
    broker.ctl("close_all_connections", "maintenance")


def test_a_worker_waits_for_a_broker_that_is_not_there(
    node: Callable[..., Broker], console: Run
) -> None:
    port = free_port()
    one = console("worker.py", AMQP_URL=f"amqp://127.0.0.1:{port}")
    one.wait_for(f" [!] RabbitMQ at 127.0.0.1:{port}: [Errno 111] Connection refused.", 2)
    node(port=port)
    one.wait_for(WAITING, limit=5)


def test_a_worker_waits_for_a_host_name(console: Run) -> None:
    one = console("worker.py", AMQP_URL="amqp://nosuch.invalid")
    line = one.wait_for("[!] RabbitMQ at nosuch.invalid:5672: ", 2)
    assert line.endswith(" Trying again in 2 seconds.")


@pytest.mark.parametrize("fault", [restart, power_cut, close_connections])
def test_workers_come_back_and_the_task_in_hand_comes_again(
    fragile: Broker, worker: Run, send: Run, fault: Callable[[Broker], None]
) -> None:
    busy, idle = worker(fragile.url), worker(fragile.url)
    send(fragile.url, "in hand.....")
    busy.wait_for("Received")
    fault(fragile)
    for one in (busy, idle):
        one.wait_for(WAITING, 2, limit=5)
        assert one.err[0].startswith(f" [!] RabbitMQ at 127.0.0.1:{fragile.port}: ")
        assert one.err[0].endswith(" Trying again in 2 seconds.")
    assert busy.out[:3] == [WAITING, " [x] Received 'in hand.....'", WAITING]
    until(lambda: " [x] Done" in busy.out + idle.out)  # whichever was given it
    assert (busy.out + idle.out).count(" [x] Done") == 1
    assert waiting(fragile.url) == 0


def test_workers_leave_a_frozen_broker_and_come_back(
    fragile: Broker, worker: Run, send: Run
) -> None:
    busy, idle = worker(fragile.url), worker(fragile.url)
    send(fragile.url, "in hand", "." * 20)
    busy.wait_for("Received")
    fragile.signal(signal.SIGSTOP)
    for one in (busy, idle):
        one.wait_for("missed heartbeats", limit=30)
    fragile.signal(signal.SIGCONT)
    for one in (busy, idle):
        one.wait_for(WAITING, 2, limit=5)
    assert " [x] Done" not in busy.out + idle.out


def test_a_worker_that_is_subscribing_when_the_broker_dies_comes_back(
    fragile: Broker, console: Run
) -> None:
    fragile.signal(signal.SIGSTOP)
    one = console("worker.py", AMQP_URL=f"{fragile.url}?stack_timeout=1")
    one.wait_for(": Timeout during AMQP handshake")
    fragile.kill()
    one.wait_for("Connection refused")
    fragile.start()
    one.wait_for(WAITING, limit=5)


@pytest.mark.parametrize("task", ["", "in hand..."])
def test_a_worker_whose_queue_is_deleted_declares_it_anew(
    broker: Broker, worker: Run, send: Run, task: str
) -> None:
    one = worker(broker.url)
    if task:
        send(broker.url, task)
        one.wait_for("Received")
    with channel(broker.url) as ch:
        ch.queue_delete("task_queue")
    one.wait_for("it cancelled the consumer")
    one.wait_for(WAITING, 2, limit=5)
    send(broker.url, "next")
    one.wait_for(" [x] Received 'next'")
    one.wait_for(" [x] Done", 2 if task else 1)
    assert len(one.err) == 1
    # The old connection is closed, and holds nothing back.
    until(lambda: broker.ctl("list_connections", "state").count("running") == 1)


def test_a_worker_outlives_the_acknowledgement_timeout(
    node: Callable[..., Broker], worker: Run, send: Run
) -> None:
    # Quorum: RabbitMQ 4.3 watches over no other queue.
    broker = node("consumer_timeout = 2000\n")
    quorum = quorum_vhost(broker)
    one = worker(quorum)
    send(quorum, "too long", "." * 30)
    line = one.wait_for("[!]", limit=40)
    if broker.version() < (4, 3):
        assert "Timeout value used: 2000 ms" in line
    else:
        assert "it cancelled the consumer" in line
    one.wait_for(WAITING, 2)
    one.wait_for("Received", 2)
    assert " [x] Done" not in one.out or broker.version() >= (4, 3)


HOPELESS = {
    "wrong password": ("guest:5ecret@", "", "ACCESS_REFUSED - Login was refused"),
    "unknown virtual host": ("", "/nosuch", "NOT_ALLOWED - vhost nosuch not found"),
    "foreign virtual host": ("visitor:5ecret@", "/", "NOT_ALLOWED - access to vhost '/' refused"),
    "no permission": (
        "visitor:5ecret@",
        "/visited",
        "access to queue 'task_queue' in vhost 'visited' refused for user 'visitor'",
    ),
    "not durable": ("", "/transient", "inequivalent arg 'durable'"),
    "another type": ("", "/typed", "inequivalent arg 'x-queue-type'"),
}


@pytest.fixture(scope="module")
def refusing(shared: Broker) -> Broker:
    shared.ctl("add_user", "visitor", "5ecret")
    for vhost in ("visited", "transient", "typed"):
        shared.ctl("add_vhost", vhost)
        shared.ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    shared.ctl("set_permissions", "-p", "visited", "visitor", "", "", "")
    with channel(f"{shared.url}/transient") as ch:
        ch.queue_declare("task_queue", auto_delete=True)
    with channel(f"{shared.url}/typed") as ch:
        ch.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
    return shared


@pytest.mark.parametrize("script", ["new_task.py", "worker.py"])
@pytest.mark.parametrize("misfit", HOPELESS)
def test_what_will_never_work_is_said_once(
    refusing: Broker, console: Run, script: str, misfit: str
) -> None:
    login, vhost, words = HOPELESS[misfit]
    one = console(script, AMQP_URL=f"amqp://{login}127.0.0.1:{refusing.port}{vhost}")
    assert one.end() == 1
    assert one.out == []
    (line,) = one.err
    assert f"RabbitMQ at 127.0.0.1:{refusing.port}: " in line
    assert words in line
    assert "5ecret" not in line
    if "inequivalent" in words:
        assert line.endswith(f" rabbitmqctl delete_queue task_queue -p {vhost[1:]}")


@pytest.mark.parametrize("script", ["new_task.py", "worker.py"])
@pytest.mark.parametrize(
    "url",
    [
        "rabbit.example.com",
        "http://rabbit.example.com",
        "amqp://guest:5ec/ret@127.0.0.1",
        "amqp://127.0.0.1:5ecret",
        "amqp://nopassword@127.0.0.1",
        "amqp://guest:5ecret@127.0.0.1?heartbeat=often",
        "amqp://guest:5ecret@127.0.0.1?nosuch=1",
        "amqps://guest:5ecret@127.0.0.1?ssl_options={'certfile':'/nosuch'}",
    ],
)
def test_a_malformed_address_is_said_without_its_password(
    console: Run, script: str, url: str
) -> None:
    one = console(script, AMQP_URL=url)
    assert one.end() == 1
    assert one.out == []
    assert [line.split(": ")[1] for line in one.err] == [
        "write amqp://user:password@host:5672/vhost"
    ]


def test_any_message_is_worked(broker: Broker, worker: Run) -> None:
    bodies = [b"", b"x" * 1_000_000, bytes(range(256)), b"\x1b[2J\x1b]0;title\x07", "첫".encode()]
    with channel(broker.url) as ch:
        ch.queue_declare("task_queue", durable=True)
        for body in [*bodies, b"last"]:
            ch.basic_publish("", "task_queue", body)
    one = worker(broker.url, PYTHONIOENCODING="ascii")
    one.wait_for(" [x] Received 'last'")
    one.wait_for(" [x] Done", len(bodies) + 1)
    assert all(line.isprintable() for line in one.out)
    assert r" [x] Received '\uccab'" in one.out
    assert f" [x] Received '{'x' * 1_000_000}'" in one.out
    assert one.err == []
    one.stop()
    assert waiting(broker.url) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["idle", "frozen", "subscribing", "trying again", "twice"])
def test_a_worker_ends_at_once_when_told_to(
    fragile: Broker, console: Run, moment: str, number: int
) -> None:
    url = f"amqp://127.0.0.1:{free_port()}" if moment == "trying again" else fragile.url
    if moment == "subscribing":
        fragile.signal(signal.SIGSTOP)
    one = console("worker.py", AMQP_URL=url)
    if moment == "subscribing":
        with pytest.raises(AssertionError):  # it has begun, and can get no further
            one.wait_for(WAITING, limit=1)
    else:
        one.wait_for(" [!] " if moment == "trying again" else WAITING)
    if moment == "frozen":
        fragile.signal(signal.SIGSTOP)
    one.signal(number)
    if moment == "twice":
        one.signal(number)
    assert one.end(limit=2) == 0
    assert not [line for line in one.err if not line.startswith(" [!] ")]


def test_a_worker_ends_when_nobody_reads_it(broker: Broker, send: Run) -> None:
    one = subprocess.Popen(
        [sys.executable, "worker.py"],
        cwd=ROOT,
        env={**os.environ, "AMQP_URL": broker.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert one.stdout and one.stderr
    try:
        one.stdout.readline()
        one.stdout.close()
        send(broker.url, "unread")
        assert one.wait(5) == 1
        assert one.stderr.read() == b""
        assert waiting(broker.url) == 1
    finally:
        one.kill()
        one.stderr.close()


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:{port}", "amqp://nosuch.invalid"])
def test_without_a_broker_nothing_is_sent(send: Run, url: str) -> None:
    one = send(url.format(port=free_port()), "lost")
    assert (one.end(), one.out) == (1, [])
    (line,) = one.err
    assert line.startswith(" [!] Not sent. RabbitMQ at ")
    assert line.endswith(" Start it, or set AMQP_URL to where it runs.")


def test_to_a_frozen_broker_nothing_is_sent(fragile: Broker, console: Run) -> None:
    fragile.signal(signal.SIGSTOP)
    one = console("new_task.py", "lost", AMQP_URL=fragile.url)
    assert one.end(limit=15) == 1
    assert one.out == []
    assert one.err[0].startswith(f" [!] Not sent. RabbitMQ at 127.0.0.1:{fragile.port}: Timeout")


def test_a_full_queue_refuses_and_that_is_said(broker: Broker, send: Run) -> None:
    broker.ctl("set_policy", "full", ".*", '{"max-length":1,"overflow":"reject-publish"}')
    try:
        send(broker.url, "first")
        one = send(broker.url, "second")
    finally:
        broker.ctl("clear_policy", "full")
    assert (one.end(), one.out) == (1, [])
    assert "it refused the message (basic.nack)" in one.err[0]
    assert waiting(broker.url) == 1


def test_a_message_over_the_size_limit_is_not_sent(broker: Broker, send: Run) -> None:
    one = send(broker.url, *["x" * 120_000] * 9)
    assert (one.end(), one.out) == (1, [])
    assert "larger than configured max size 1000000" in one.err[0]
    assert waiting(broker.url) == 0


def test_a_message_that_comes_back_is_not_sent(
    broker: Broker, send: Run, relay: Callable[..., Relay]
) -> None:
    def delete_the_queue_first(data: bytes) -> bool:
        if PUBLISH in data:
            with channel(broker.url) as ch:
                ch.queue_delete("task_queue")
        return True

    one = send(relay(broker.port, to_broker=delete_the_queue_first).url, "nowhere")
    assert (one.end(), one.out) == (1, [])
    assert "1 unroutable message(s) returned" in one.err[0]


def test_a_blocked_broker_is_not_waited_for_for_ever(broker: Broker, send: Run) -> None:
    broker.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        one = send(broker.url, "blocked")
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.4")
    assert (one.end(), one.out) == (1, [])
    assert "Blocked connection timeout expired" in one.err[0]


def test_without_the_confirm_nobody_knows(
    broker: Broker, send: Run, relay: Callable[..., Relay]
) -> None:
    one = send(relay(broker.port, to_script=lambda data: ACK not in data).url, "perhaps")
    assert (one.end(), one.out) == (1, [])
    assert one.err[0].startswith(" [!] RabbitMQ may or may not have it. RabbitMQ at 127.0.0.1:")
    assert waiting(broker.url) == 1


CUTS = {
    "closed": "Transport indicated EOF",
    "reset": "Stream connection lost: ",
    "forced": "CONNECTION_FORCED - ",
}
BREAKS = [
    (script, moment, cut)
    for script, moment in (
        ("new_task.py", b"AMQP"),
        ("new_task.py", DECLARE),
        ("new_task.py", PUBLISH),
        ("worker.py", b"AMQP"),
        ("worker.py", DECLARE),
    )
    for cut in CUTS
    if (moment, cut) != (b"AMQP", "forced")  # there is no connection yet that could be closed
]


@pytest.mark.parametrize(("script", "moment", "cut"), BREAKS)
def test_a_connection_that_breaks_at_any_moment_is_said(
    broker: Broker,
    console: Run,
    relay: Callable[..., Relay],
    script: str,
    moment: bytes,
    cut: str,
) -> None:
    def to_broker(data: bytes) -> bool:
        if moment not in data:
            return True
        if cut == "reset":
            return line.reset()
        if cut == "forced":
            broker.ctl("close_all_connections", "maintenance")
        return cut == "forced"

    line = relay(broker.port, to_broker=to_broker)
    one = console(script, "task", AMQP_URL=line.url)
    said = one.wait_for(" [!] ")
    assert CUTS[cut] in said
    assert not one.out
    if script == "new_task.py":
        assert one.end() == 1
        fate = "RabbitMQ may or may not have it" if moment == PUBLISH else "Not sent"
        assert said.startswith(f" [!] {fate}. RabbitMQ at 127.0.0.1:")


@pytest.mark.parametrize("script", ["new_task.py", "worker.py"])
def test_a_port_without_tls_is_said(broker: Broker, console: Run, script: str) -> None:
    one = console(script, AMQP_URL=f"amqps://127.0.0.1:{broker.port}")
    assert (one.end(), one.out) == (1, [])
    assert "[SSL" in one.err[0]


def test_ctrl_c_before_the_confirm_says_what_is_known(fragile: Broker, console: Run) -> None:
    fragile.signal(signal.SIGSTOP)
    one = console("new_task.py", "interrupted", AMQP_URL=fragile.url)
    with pytest.raises(AssertionError):  # it has begun, and can get no further
        one.wait_for(" [", limit=1)
    assert one.stop() == 1
    assert one.err[0].startswith(f" [!] Not sent. RabbitMQ at 127.0.0.1:{fragile.port}: interr")


def test_sent_is_true_even_if_the_broker_dies_before_the_goodbye(
    node: Callable[..., Broker], console: Run, relay: Callable[..., Relay]
) -> None:
    broker = node()

    def kill_at_goodbye(data: bytes) -> bool:
        if b"Normal shutdown" in data:
            broker.kill()
        return True

    one = console("new_task.py", AMQP_URL=relay(broker.port, to_broker=kill_at_goodbye).url)
    assert one.end() == 0
    assert (one.out, one.err) == ([" [x] Sent 'Hello World!'"], [])
    broker.start()
    assert waiting(broker.url) == 1


def test_the_readme_lists_no_line_that_is_never_printed(request: pytest.FixtureRequest) -> None:
    """Each test has held what it saw against the README; here is the other direction."""
    if not any("beyond_one_machine" in item.nodeid for item in request.session.items):
        pytest.skip("only the whole suite prints them all")  # pytest -k, or one file
    never = set(readme.PATTERNS) - readme.printed
    # A server that misses a client certificate says so, or hangs up first; RabbitMQ 4.3 cancels
    # the consumer where it closed the channel before.
    sometimes = re.compile("CERTIFICATE_REQUIRED|Timeout value used")
    assert {line for line in never if not sometimes.search(line)} == set()
