"""A TCP relay on loopback that a test can cut and mend: a server that goes away and comes back."""

import socket
import threading
from contextlib import suppress


class Relay:
    """Passes connections on to HOST:PORT."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._sockets: list[socket.socket] = []
        self._listener = self._listen(0)
        self.address = "{}:{}".format(*self._listener.getsockname())

    def cut(self) -> None:
        """Refuse new connections and break the others."""
        for link in (self._listener, *self._sockets):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        self._sockets.clear()

    def mend(self) -> None:
        """Take connections again, on the same port."""
        self._listener = self._listen(int(self.address.rpartition(":")[2]))

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # cut
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=[source, sink], daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
