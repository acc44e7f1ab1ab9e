"""A DNS server on loopback with one name, whose addresses a test changes."""

import contextlib
import ipaddress
import socketserver
import struct
import threading
from collections.abc import Iterator, Sequence

NAME = "predictor.test"
_A, _NO_ERROR, _NO_NAME = 1, 0, 3
_POINTER_TO_NAME = 0xC00C


class DnsServer:
    """Answers A queries for NAME with `addresses`, in turn in each order; `queries` counts them."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.queries = 0
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                query, link = self.request
                link.sendto(owner.answer(query), self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, query: bytes) -> bytes:
        """The message that answers `query`: its header, its question, and the addresses."""
        name, end = _read_name(query, 12)
        question = query[12 : end + 4]
        (kind,) = struct.unpack("!H", query[end : end + 2])
        known = name.lower() == NAME
        addresses = self.addresses if known and kind == _A else []
        self.queries += bool(addresses)
        flags = 0x8580 | (_NO_ERROR if known else _NO_NAME)  # an authoritative answer
        header = query[:2] + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0)
        records = (
            struct.pack("!HHHIH", _POINTER_TO_NAME, _A, 1, 0, 4) + ipaddress.IPv4Address(address).packed
            for address in addresses
        )
        return header + question + b"".join(records)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _read_name(message: bytes, start: int) -> tuple[str, int]:
    labels: list[str] = []
    while size := message[start]:
        labels.append(message[start + 1 : start + 1 + size].decode())
        start += 1 + size
    return ".".join(labels), start + 1


@contextlib.contextmanager
def running_dns_server(*addresses: str) -> Iterator[DnsServer]:
    """A DNS server for the time of the block."""
    server = DnsServer(addresses)
    try:
        yield server
    finally:
        server.close()
