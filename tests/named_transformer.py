"""`python -m tests.named_transformer`: the transformer, whose names the DNS server on port DNS_PORT of loopback knows.

gRPC takes a DNS server in its target; the system's resolver, which REST asks, takes none from us.
"""

import os
import socket
import struct

from serving.program import run_server
from tests.dns_server import NAME
from transformer import connector
from transformer.__main__ import main


def ask_dns(host: str, port: int) -> list[str]:
    """The addresses of a name, as `connector` asks for them."""
    assert host == NAME
    labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
    query = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dns:
        dns.settimeout(5)
        dns.sendto(query, ("127.0.0.1", int(os.environ["DNS_PORT"])))
        answer = dns.recv(4096)
    # Each answer ends with the four bytes of an address.
    records = [answer[start : start + 16] for start in range(len(query), len(answer), 16)]
    if not records:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return [socket.inet_ntoa(record[-4:]) for record in records]


if __name__ == "__main__":
    connector._ask_system = ask_dns
    run_server(main)
