"""RabbitMQ nodes of our own: child processes with their own data and ports, ended by us."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LIMIT = 300  # seconds: far more than anything here takes on a slow machine

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


def start_child(
    *command: str, out: int | IO[bytes] = subprocess.DEVNULL, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one, however this one ends, also by `kill -9`.

    `cat` reads until this process is gone, which alone holds the other end of its pipe. Both
    processes are in a group of their own, so CTRL+C in a terminal is not for them.
    """
    return subprocess.Popen(
        ["sh", "-c", '("$0" "$@"; kill -9 0) & cat >/dev/null; kill -9 0', *command],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=out,
        start_new_session=True,
        **options,
    )


def end_child(child: subprocess.Popen[bytes]) -> None:
    """End a process of start_child() with SIGKILL, and wait for its end."""
    if child.poll() is None:  # else its number may be a stranger's
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


@contextlib.contextmanager
def epmd() -> Iterator[int]:
    """Erlang's port mapper, on a port of its own: the nodes would leave one running on 4369."""
    only_here: list[str] = []
    with contextlib.suppress(OSError):  # epmd would end where there is no ::1
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        only_here = ["-address", "127.0.0.1"]
    port = free_port()
    child = start_child("epmd", "-port", str(port), *only_here)
    try:
        yield port
    finally:
        end_child(child)


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
            # Nodes talk to each other on this machine only, look for overdue acknowledgements each
            # second, and try again to move a failed task after five. A .conf cannot say this.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1}"
                " -rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
                " -rabbit dead_letter_worker_publisher_confirm_timeout 5000"
            ),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the node, and wait until it takes connections.

        Raises RuntimeError where the disk is nearly full (then RabbitMQ would take no messages),
        and with the end of what the node printed when it has ended, or LIMIT is over.
        """
        if shutil.disk_usage(self.home).free < 200_000_000:
            raise RuntimeError(f"RabbitMQ needs 200 MB on the disk of {self.home}")
        with (self.home / "out").open("ab") as out:
            self.process = start_child(SERVER, out=out, cwd=self.home, env=self.environment)
        deadline = time.monotonic() + LIMIT
        while self.is_running() and time.monotonic() < deadline:
            if self.takes_connections():
                self.rabbitmqctl("await_startup")  # the last steps come after the port
                return
            time.sleep(0.1)
        said = (self.home / "out").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"RabbitMQ did not start:\n{said}")

    def takes_connections(self) -> bool:
        """Whether it answers on its port as RabbitMQ does."""
        here = ("127.0.0.1", self.port)
        with contextlib.suppress(OSError), socket.create_connection(here, 5) as connection:
            connection.sendall(b"AMQP\0\0\x09\x01")
            return connection.recv(1) == b"\x01"  # the frame type of connection.start
        return False

    def is_running(self) -> bool:
        """Whether its process is there; it may still be starting."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As when the machine's power fails, but for what the system still writes to the disk."""
        if self.process:
            end_child(self.process)

    def restart(self) -> None:
        """As an administrator does it: afterwards all that was declared is on the disk.

        (RabbitMQ answers a declaration a moment before; what a kill does to that is not tested.)
        """
        self.rabbitmqctl("stop_app")
        self.rabbitmqctl("start_app")

    def _signal(self, number: int) -> None:
        if self.process and self.is_running():
            os.killpg(self.process.pid, number)

    def freeze(self) -> None:
        """It answers nothing any more, until thaw()."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on; nothing happens where it was not frozen."""
        self._signal(signal.SIGCONT)

    def rabbitmqctl(self, *arguments: str, tool: str = "rabbitmqctl") -> str:
        """What rabbitmqctl prints, or another tool.

        Raises CalledProcessError where it fails, and TimeoutExpired when LIMIT is over.
        """
        return subprocess.run(
            [Path(SERVER).with_name(tool), "--quiet", "--node", self.node, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT,
        ).stdout

    def queue(self, name: str = "task_queue", vhost: str = "/") -> tuple[int, int]:
        """How many messages are ready in a queue, and how many are unacknowledged: (1, 0).

        Raises KeyError where there is no such queue. A quorum queue tells it a second late.
        """
        columns = ("--no-table-headers", "name", "messages_ready", "messages_unacknowledged")
        listed = self.rabbitmqctl("list_queues", "--vhost", vhost, *columns)
        rows = (line.split("\t") for line in listed.splitlines())
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}[name]

    def add_vhost(self, name: str, *options: str) -> str:
        """Make a virtual host that guest may use. Returns its address."""
        self.rabbitmqctl("add_vhost", name, *options)
        self.rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        return f"{self.url}/{name}"

    def version(self) -> tuple[int, ...]:
        """Such as (4, 0)."""
        return tuple(int(part) for part in self.rabbitmqctl("version").strip().split(".")[:2])
