"""A network between a script and a broker, to be cut at a chosen moment."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

# What tells a moment of the conversation: the header, else the class and the method of a frame.
HEADER, START_OK, CONNECTION_OPEN = b"AMQP", b"\x00\x0a\x00\x0b", b"\x00\x0a\x00\x28"
DECLARE, PUBLISH, ACK = b"\x00\x32\x00\x0a", b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50"
CLOSE = b"\x00\x0a\x00\x32"


class Relay:
    """Passes bytes on, to the next of the ports that answers: with several, a load balancer.

    `to_broker` and `to_script` see each piece of data first; if they return False, the line drops.
    `connected` is set when a script has come.
    """

    def __init__(
        self,
        *ports: int,
        to_broker: Callable[[bytes], bool] = lambda data: True,
        to_script: Callable[[bytes], bool] = lambda data: True,
    ) -> None:
        self._ports, self._to_broker, self._to_script = ports, to_broker, to_script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.connected = threading.Event()
        self.url = f"amqp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                script = self._listener.accept()[0]
                self._sockets.append(script)
                self._connect(script)
                self.connected.set()

    def _connect(self, script: socket.socket) -> None:
        for _ in self._ports:
            port, *others = self._ports
            self._ports = (*others, port)
            with contextlib.suppress(ConnectionRefusedError):
                broker = socket.create_connection(("127.0.0.1", port))
                self._sockets.append(broker)
                for pipe in ((script, broker, self._to_broker), (broker, script, self._to_script)):
                    threading.Thread(target=self._pass_on, args=pipe, daemon=True).start()
                return
        script.close()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, passes: Callable[[bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not passes(data):
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def reset(self) -> bool:
        """Cut the line as a power cut does: with no goodbye."""
        for one in self._sockets[1:]:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        return False

    def close(self) -> None:
        for one in self._sockets:
            one.close()
