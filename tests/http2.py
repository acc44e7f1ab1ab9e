"""A gRPC caller that says how long its message is, sends some of it, and then waits: no gRPC library does that."""

import socket
import struct
import threading

from launch import Server

_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_ACK, _END_HEADERS = 1, 4
_INITIAL_WINDOW = 4
_FRAME = 16_384


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _headers(path: str) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    literal = [part.encode() for pair in fields.items() for part in pair]
    pairs = zip(literal[::2], literal[1::2], strict=True)
    return b"".join(b"\0%c%s%c%s" % (len(name), name, len(value), value) for name, value in pairs)


class StalledCall:
    """A call of one message, which never comes to its end; `sent` bytes of it have been taken by the server."""

    def __init__(self, server: Server, path: str, size: int, send: int) -> None:
        address, port = server.grpc.split(":")
        self._socket = socket.create_connection((address, int(port)), timeout=60)
        self._windows, self._left, self.sent = {0: 65_535, 1: 65_535}, send, 0
        self._prefix = struct.pack(">BI", 0, size)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0))
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, 1, _headers(path)))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Go away."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self._socket.close()

    def _run(self) -> None:
        try:
            while True:
                self._send()
                head = self._read(9)
                self._note(head[3], head[4], int.from_bytes(head[5:9]), self._read(int.from_bytes(head[:3])))
        except OSError:
            pass

    def _send(self) -> None:
        while self._left and min(self._windows.values()) >= _FRAME:
            payload = (self._prefix + bytes(_FRAME))[: min(_FRAME, self._left)]
            self._prefix = b""
            self._socket.sendall(_frame(_DATA, 0, 1, payload))
            self._left -= len(payload)
            self.sent += len(payload)
            self._windows = {stream: window - len(payload) for stream, window in self._windows.items()}

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            self._windows[stream] += int.from_bytes(payload)
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                self._windows[1] += value - 65_535 if name == _INITIAL_WINDOW else 0
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise OSError("the server ended the connection")
            data += piece
        return data
