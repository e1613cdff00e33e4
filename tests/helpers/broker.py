"""RabbitMQ nodes of our own: child processes with their own data and ports, ended by us."""

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

# Ports below those that the system gives to connections: else a connection could sit on the port of
# a node that is down for a moment. Each process begins elsewhere, and claims each of its ports for
# as long as it lives, by holding the UDP port of the same number.
PORTS = itertools.count(10_000 + os.getpid() * 32 % 20_000)
CLAIMS: list[socket.socket] = []


def free_port() -> int:
    """A port on which nothing listens, and which no other run of the tests is given."""
    while True:
        port = next(PORTS)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            socket.create_server(("", port)).close()
        except OSError:
            claim.close()
        else:
            CLAIMS.append(claim)
            return port


@contextlib.contextmanager
def epmd() -> Iterator[int]:
    """Erlang's port mapper, on a port of its own: the nodes would leave one running on 4369."""
    only_here: list[str] = []
    with contextlib.suppress(OSError):  # epmd would end where there is no ::1
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        only_here = ["-address", "127.0.0.1"]
    port = free_port()
    process = subprocess.Popen(
        ["epmd", "-port", str(port), *only_here],
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
    """One node of RabbitMQ. `home` gets its data and its log; nodes side by side share a cookie."""

    def __init__(self, home: Path, epmd_port: int, config: str = "") -> None:
        self.home, self.port, self.node = home, free_port(), f"{home.name}@localhost"
        home.mkdir(parents=True)
        cookie = home.parent / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex())
        (home / "enabled_plugins").write_text("[].\n")
        self.management_port = free_port()  # where the plugin listens, once it is enabled
        management = (
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
        )
        (home / "rabbitmq.conf").write_text(management + config)
        self.environment = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "HOME": str(home.parent),
            "LANG": "C.UTF-8",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_FLAGS": "-start_epmd false",  # what is still starting when ours has ended
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
            # Nodes talk to each other on this machine only, and look for overdue acknowledgements
            # each second. There are no such settings in a .conf.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1}"
                " -rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
            ),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}"

    def start(self, limit: float = 100) -> None:
        """Start the node, and wait until it takes connections.

        Raises RuntimeError with the end of what the node printed when it has ended, or when it has
        not answered after `limit` seconds.
        """
        with (self.home / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [SERVER],
                cwd=self.home,  # where it may leave a dump
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # CTRL+C in a terminal is not for the broker
            )
        deadline = time.monotonic() + limit
        while self.is_running() and time.monotonic() < deadline:
            here = ("127.0.0.1", self.port)
            with contextlib.suppress(OSError), socket.create_connection(here, 5) as connection:
                connection.sendall(b"AMQP\0\0\x09\x01")
                if connection.recv(1) == b"\x01":  # the frame type of connection.start
                    self.rabbitmqctl("await_startup")  # the last steps come after the port
                    return
            time.sleep(0.1)
        said = (self.home / "out").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"RabbitMQ did not start:\n{said}")

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _signal(self, number: int) -> None:
        # Not to the group of a node that has been waited for: its number may be a stranger's.
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """As when the machine's power fails, but for what the system still writes to the disk."""
        self._signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def rabbitmqctl(self, *arguments: str, tool: str = "rabbitmqctl") -> str:
        """What rabbitmqctl prints, or another tool. Raises CalledProcessError where it fails."""
        return subprocess.run(
            [Path(SERVER).with_name(tool), "--quiet", "--node", self.node, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def messages(self) -> int:
        """How many messages are in task_queue, with those that are not acknowledged yet."""
        columns = ("--no-table-headers", "name", "messages")
        listed = self.rabbitmqctl("list_queues", *columns).splitlines()
        return sum(int(line.split("\t")[1]) for line in listed if line.startswith("task_queue\t"))

    def add_vhost(self, name: str, *options: str) -> str:
        """Make a virtual host that guest may use. Returns its address."""
        self.rabbitmqctl("add_vhost", name, *options)
        self.rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        return f"{self.url}/{name}"

    def version(self) -> tuple[int, ...]:
        """Such as (4, 0)."""
        return tuple(int(part) for part in self.rabbitmqctl("version").strip().split(".")[:2])
