"""A network between a script and a broker, to be cut at a chosen moment."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

# What AMQP 0-9-1 frames hold: a class and a method.
DECLARE, PUBLISH, ACK = b"\x00\x32\x00\x0a", b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50"


class Relay:
    """Passes bytes on. `to_broker` and `to_script` see each piece first: False drops the line."""

    def __init__(
        self,
        port: int,
        to_broker: Callable[[bytes], bool] = lambda data: True,
        to_script: Callable[[bytes], bool] = lambda data: True,
    ) -> None:
        self._port, self._to_broker, self._to_script = port, to_broker, to_script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.url = f"amqp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                script = self._listener.accept()[0]
                broker = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [script, broker]
                for pipe in ((script, broker, self._to_broker), (broker, script, self._to_script)):
                    threading.Thread(target=self._pass_on, args=pipe, daemon=True).start()

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
