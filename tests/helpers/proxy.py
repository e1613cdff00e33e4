"""A network between a script and a broker, which fails at a chosen moment of their conversation."""

from __future__ import annotations

import collections
import contextlib
import socket
import threading

from helpers.broker import Broker

# Moments: the first bytes that a script sends, else the class and the method of a frame.
HEADER, START_OK, CONNECTION_OPEN = b"AMQP", b"\x00\x0a\x00\x0b", b"\x00\x0a\x00\x28"
DECLARE, PUBLISH, ACK = b"\x00\x32\x00\x0a", b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50"
REJECT = b"\x00\x3c\x00\x5a"
DELETE, CLOSE = b"\x00\x32\x00\x28", b"\x00\x0a\x00\x32"


class Proxy:
    """Passes bytes on to a broker: of several, each connection to the next one that takes it.

    At each `moment` it does what `then` says, before it passes the bytes on: "cut": closes the
    connection; "hold": passes nothing on, in neither direction and not even an end, until go_on().
    A line that is held for ever is one that has gone silent, as when a cable is pulled.
    """

    def __init__(self, *brokers: Broker, moment: bytes | None = None, then: str = "") -> None:
        self._moment, self._then = moment, then
        self._ports = collections.deque(broker.port for broker in brokers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"amqp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.reached = threading.Event()
        self._go_on = threading.Event()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._passing: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def go_on(self) -> None:
        """Pass on what was held."""
        self._go_on.set()

    def close(self) -> None:
        """Take no more connections, cut those that there are, with what is held, and wait."""
        self._closed = True
        self._go_on.set()
        self._shut_down(self._listener)
        self._accepting.join()
        self._shut_down(*self._sockets)
        for thread in self._passing:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                script, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                raise
            broker = socket.socket()  # if no broker takes it, the script's end is closed
            for _ in range(len(self._ports)):
                self._ports.rotate()
                if broker.connect_ex(("127.0.0.1", self._ports[0])) == 0:
                    break
            self._sockets += [script, broker]
            for ends in ((script, broker), (broker, script)):
                thread = threading.Thread(target=self._pass_on, args=ends, daemon=True)
                thread.start()
                self._passing.append(thread)

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
