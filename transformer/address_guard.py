"""Which URLs and addresses a picture may be fetched from: pure rules, no input or output."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

import idna
from yarl import URL

from serving.errors import AddressRefused, InvalidRequest, OutOfRange

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MAX_URL_LENGTH = 8192

# Our own lists and not `is_global`, whose answers differ between patch releases of Python.
# https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-special-registry
_NOT_PUBLIC: list[Network] = [
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # unspecified, "this network"
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, embeds any IPv4 address
        "3fff::/20",  # documentation
    )
]
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # the only IPv6 addresses in public use
_NAT64 = IPv6Network("64:ff9b::/96")  # how a cluster with IPv6 only sees IPv4 hosts: judged by what it embeds
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")

# Where clouds hand out credentials; no setting opens these.
_NEVER: list[Network] = [
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local, most clouds
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle
        "fd00:ec2::254/128",  # AWS
        "fd20:ce::254/128",  # Google
        "fe80::/10",  # link-local, OpenStack
    )
]

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<slashes>/*)(?P<authority>[^/?#]*)(?P<rest>.*)")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]*))?")
_NAME = re.compile(r"(?=.{1,254}$)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")  # what some parsers read as an IPv4 address
_LEGAL = "!#$%&'()*+,/:;=?@[]~"

_REFUSED = "the picture's address is not a public one, so this service does not connect to it"


def check_url(url: str) -> URL:
    """The URL in one unambiguous spelling, path and query byte for byte as given; its host is not yet resolved.

    Raises InvalidRequest (malformed), OutOfRange (too long, scheme, user or password) and AddressRefused (scope id).
    """
    scheme, authority, rest = _split(url)
    if "@" in authority:
        raise OutOfRange("the URL must not contain a user name or a password")
    path = rest if rest.startswith("/") else "/" + rest
    return URL(f"{scheme}://{_read_authority(authority)}{quote(path, safe=_LEGAL)}", encoded=True)


def _split(url: str) -> tuple[str, str, str]:
    if len(url) > MAX_URL_LENGTH:
        raise OutOfRange(f"the URL is longer than {MAX_URL_LENGTH} characters")
    if not url.isprintable():
        raise InvalidRequest("the URL contains a line break or another character that is invisible")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise InvalidRequest("the URL must be absolute: http://HOST/PATH or https://HOST/PATH")
    scheme = parts["scheme"].lower()
    if scheme not in ("http", "https"):
        raise OutOfRange("the URL's scheme is not supported: use http, https or data")
    if parts["slashes"] != "//":
        raise InvalidRequest(f"the URL must have two slashes and a host after {scheme}:")
    return scheme, parts["authority"], parts["rest"].partition("#")[0]


def is_address(host: str) -> bool:
    """True when the host of a checked URL is an address and not a name."""
    return ":" in host or _NUMERIC.fullmatch(host) is not None


def check_host(host: str, allowed: Sequence[str]) -> None:
    """Raise AddressRefused unless `allowed` is empty or has the host itself or a `*.` pattern above it."""
    host = host.rstrip(".")
    for pattern in (entry.lower() for entry in allowed):
        if host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:])):
            return
    if allowed:
        raise AddressRefused("the picture's host is not on this service's list of allowed hosts")


def check_address(address: str, allowed: Sequence[Network] = ()) -> None:
    """Raise AddressRefused unless `address` is a public one or lies in a network of `allowed`."""
    try:
        parsed = ip_address(address)
    except ValueError:
        raise AddressRefused(_REFUSED) from None
    scoped = isinstance(parsed, IPv6Address) and parsed.scope_id is not None
    if scoped or not _is_allowed(parsed, allowed):
        raise AddressRefused(_REFUSED)


def _is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    if any(_lies_in(form, _NEVER) for form in (address, *_embedded(address))):
        return False
    if _lies_in(address, allowed):
        return True
    if _lies_in(address, [_NAT64]):
        return all(_is_allowed(form, allowed) for form in _embedded(address))
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not _lies_in(address, _NOT_PUBLIC)


def _lies_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _embedded(address: Address) -> list[IPv4Address]:
    """The IPv4 addresses that a gateway may read out of an IPv6 address."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if _lies_in(address, [_NAT64, _LOCAL_NAT64, _COMPATIBLE]):
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [form for form in found if form is not None]


def _read_authority(authority: str) -> str:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise InvalidRequest("the URL's host or port is malformed")
    return _read_host(parts["host"]) + _read_port(parts["port"])


def _read_port(port: str | None) -> str:
    if not port:
        return ""
    if len(port) > 5 or not 1 <= int(port) <= 65535:
        raise InvalidRequest("the URL's port must be 1 to 65535")
    return f":{int(port)}"


def _read_host(host: str) -> str:
    if host.startswith("["):
        return f"[{_read_ipv6(host[1:-1])}]"
    name = _to_ascii(host)
    if not _NAME.fullmatch(name):
        raise InvalidRequest("the URL's host is missing or malformed")
    return _read_ipv4(name.removesuffix(".")) if _NUMERIC.fullmatch(name) else name


def _to_ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        return idna.encode(host, uts46=True).decode()
    except UnicodeError:
        raise InvalidRequest("the URL's host is not a valid international name") from None


def _read_ipv6(host: str) -> str:
    if "%" in host:
        raise AddressRefused(_REFUSED)
    try:
        return IPv6Address(host).compressed
    except ValueError:
        raise InvalidRequest("the URL's host is not a valid IPv6 address") from None


def _read_ipv4(host: str) -> str:
    # 0177.0.0.1, 0x7f.1 and 2130706433 mean different hosts to different programs, so they mean none here
    try:
        return str(IPv4Address(host))
    except ValueError:
        raise InvalidRequest("the URL's host must be a name or an IPv4 address of four decimal numbers") from None
