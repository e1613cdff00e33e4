"""A network between a script and a broker, which fails at a chosen moment of their conversation."""

from __future__ import annotations

import collections
import contextlib
import socket
import socketserver
import threading
from typing import Any

from helpers.broker import Broker

# Moments: the first bytes that a script sends, else the class and the method of a frame.
HEADER, START_OK, CONNECTION_OPEN = b"AMQP", b"\x00\x0a\x00\x0b", b"\x00\x0a\x00\x28"
DECLARE, PUBLISH, ACK = b"\x00\x32\x00\x0a", b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50"
REJECT = b"\x00\x3c\x00\x5a"
DELETE, CLOSE = b"\x00\x32\x00\x28", b"\x00\x0a\x00\x32"


class Proxy(socketserver.ThreadingTCPServer):
    """Passes bytes on to a broker: of several, each connection to the next one that takes it.

    At each `moment` it does what `then` says, before it passes the bytes on: "cut": closes the
    connection; "hold": passes nothing on, in neither direction and not even an end, until go_on().
    A line that is held for ever is one that has gone silent, as when a cable is pulled.
    """

    def __init__(self, *brokers: Broker, moment: bytes | None = None, then: str = "") -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.url = f"amqp://127.0.0.1:{self.server_address[1]}"
        self.reached = threading.Event()
        self._moment, self._then = moment, then
        self._ports = collections.deque(broker.port for broker in brokers)
        self._go_on = threading.Event()
        self._closed = False
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def go_on(self) -> None:
        """Pass on what was held."""
        self._go_on.set()

    def close(self) -> None:
        """Take no more connections, cut those that there are, with what is held, and wait."""
        self._closed = True
        self._go_on.set()
        self.shutdown()
        self._shut_down(*self._sockets)
        self.server_close()

    def finish_request(self, script: Any, _: object) -> None:
        """Pass on what a script and a broker say, in a thread for each connection."""
        with socket.socket() as broker:  # if no broker takes it, the script's end is closed
            for _ in range(len(self._ports)):
                self._ports.rotate()
                if broker.connect_ex(("127.0.0.1", self._ports[0])) == 0:
                    break
            self._sockets += [script, broker]
            if self._closed:
                return
            back = threading.Thread(target=self._pass_on, args=(broker, script))
            back.start()
            self._pass_on(script, broker)
            back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if self._moment and self._moment in data:
                    begin = max(0, data.index(self._moment) - 7)  # a frame's head has seven bytes
                    target.sendall(data[:begin])
                    data = data[begin:]
                    self.reached.set()
                    if self._then == "cut":
                        break
                if self._then == "hold" and self.reached.is_set():
                    self._go_on.wait()
                if not data or self._closed:
                    break
                target.sendall(data)
        self._shut_down(source, target)

    @staticmethod
    def _shut_down(*sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
