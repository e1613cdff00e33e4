"""RabbitMQ nodes of our own: child processes with their own data and ports, ended with the run."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

SERVER = os.environ.get("RABBITMQ_SERVER", "/usr/lib/rabbitmq/bin/rabbitmq-server")


# Each process has 500 ports of its own, and holds the first of them as long as it lives. They lie
# below those that the system gives to connections: else a connection may sit on the port of a node
# that is down for a moment.
CLAIM = socket.socket()
for first in range(20_000, 32_000, 500):
    with contextlib.suppress(OSError):
        CLAIM.bind(("127.0.0.1", first))
        break
PORTS = itertools.count(first + 1)


def free_port() -> int:
    """A port on which nothing listens, and which has not been given out before."""
    for port in PORTS:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


def answers(host: str, port: int) -> bool:
    """Whether what listens there speaks AMQP 0-9-1. Raises OSError when nothing does."""
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"AMQP\0\0\x09\x01")
        return connection.recv(1) == b"\x01"  # the frame type of connection.start


@contextlib.contextmanager
def epmd() -> Iterator[int]:
    """Erlang's port mapper on a port of its own: the nodes would else leave one running on 4369."""
    port = free_port()
    process = subprocess.Popen(
        ["epmd", "-port", str(port), "-address", "127.0.0.1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


class Broker:
    """One node. Its name is `NAME@localhost`; `home` gets its data, its log and its cookie."""

    def __init__(
        self, home: Path, epmd_port: int, port: int = 0, config: str = "", name: str = "tutorial"
    ) -> None:
        self.home, self.port, self.node = home, port or free_port(), f"{name}@localhost"
        home.mkdir(parents=True, exist_ok=True)
        cookie = home.parent / ".erlang.cookie"  # nodes that start at once would race to make it
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex())
        (home / "enabled_plugins").write_text("[].\n")
        (home / "rabbitmq.conf").write_text(config)
        self.environment = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "HOME": str(home.parent),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # Look for overdue acknowledgements each second: there is no such setting in a .conf.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-rabbit channel_tick_interval 1000"
            " -rabbit quorum_tick_interval 1000",
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        with (self.home / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [SERVER],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # CTRL+C in a terminal is not for the broker
            )
        if wait:
            self.wait()

    def wait(self, limit: float = 60) -> None:
        """Until it takes connections, for `limit` seconds at most."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if not self.runs():
                break
            with contextlib.suppress(OSError):
                if answers("127.0.0.1", self.port):
                    return
            time.sleep(0.1)
        raise RuntimeError(f"RabbitMQ did not start:\n{(self.home / 'out').read_text()[-2000:]}")

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process and self.runs():
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """The power cut."""
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def settle(self) -> None:
        """Until each queue is on disk: RabbitMQ answers a queue_declare a moment before it is."""
        self.ctl("eval", "mnesia:sync_log().")

    def stop(self) -> None:
        """As a package manager or an administrator stops it."""
        self.ctl("stop", str(self.home / "pid"))
        if self.process:
            self.process.wait()

    def ctl(self, *arguments: str) -> str:
        """What rabbitmqctl prints. Raises CalledProcessError where it fails."""
        rabbitmqctl = str(Path(SERVER).with_name("rabbitmqctl"))
        return subprocess.run(
            [rabbitmqctl, "--quiet", "--node", self.node, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def quorum_vhost(self) -> str:
        """The address of a virtual host whose queues are quorum queues; made where missing."""
        if "quorum" not in self.ctl("list_vhosts").split():
            self.ctl("add_vhost", "quorum", "--default-queue-type", "quorum")
            self.ctl("set_permissions", "-p", "quorum", "guest", ".*", ".*", ".*")
        return f"{self.url}/quorum"

    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.ctl("version").strip().split(".")[:2])
