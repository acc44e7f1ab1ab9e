"""--predictor_host as each protocol understands it."""

import ipaddress
import re

from serving.errors import SettingError

REST, GRPC = "v2", "grpc-v2"  # as KServe's --predictor_protocol names them
REST_PORT, GRPC_PORT = 8080, 8081
Host = tuple[str, int]
# A name, an IPv4 address, or an IPv6 address in brackets.
_HOST = re.compile(r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[(?P<v6>[^\]]+)\])(?::(?P<port>[0-9]{1,5}))?")


def check_target(predictor_host: str, protocol: str) -> None:
    """Raise SettingError when `protocol` has no use for --predictor_host."""
    rest_hosts(predictor_host) if protocol == REST else grpc_target(predictor_host)


def rest_hosts(predictor_host: str) -> list[Host]:
    """Host and port of each part of --predictor_host; raises SettingError when it has none."""
    if _is_grpc_target(_check_scheme(predictor_host)):
        raise SettingError(
            f"--predictor_host: {predictor_host!r} is a target of gRPC: give HOST:PORT with its HTTP port, "
            f"or --predictor_protocol {GRPC}"
        )
    hosts = [host.rpartition(":") for host in _split(predictor_host, REST_PORT)]
    return [(name.strip("[]"), int(port)) for name, _, port in hosts]


def grpc_target(predictor_host: str) -> str:
    """The gRPC target of --predictor_host; raises SettingError when it cannot be one."""
    if _is_grpc_target(_check_scheme(predictor_host)):
        return predictor_host
    hosts = _split(predictor_host, GRPC_PORT)
    if len(hosts) == 1:
        return f"dns:///{hosts[0]}"
    try:
        for host in hosts:
            ipaddress.IPv4Address(host.rsplit(":", 1)[0])
    except ValueError:
        raise SettingError(
            "--predictor_host: a list takes IPv4 addresses; give several names as one headless Service"
        ) from None
    return "ipv4:" + ",".join(hosts)


def _check_scheme(predictor_host: str) -> str:
    if predictor_host.startswith(("http:", "https:")):
        raise SettingError(f"--predictor_host: give {predictor_host!r} as HOST:PORT, without a scheme or a path")
    return predictor_host


def _is_grpc_target(predictor_host: str) -> bool:
    return "://" in predictor_host or predictor_host.startswith(("dns:", "unix:", "ipv4:", "ipv6:"))


def _split(predictor_host: str, port: int) -> list[str]:
    """HOST:PORT of each part, with `port` where it has none."""
    hosts = [_with_port(part.strip(), port) for part in predictor_host.split(",") if part.strip()]
    if not hosts:
        raise SettingError("--predictor_host: say where the predictor is, as HOST:PORT")
    return hosts


def _with_port(host: str, default: int) -> str:
    """HOST:PORT; raises SettingError for what is neither that nor HOST."""
    match = _HOST.fullmatch(host)
    port = int(match["port"] or default) if match else 0
    if not match or not 0 < port < 65536 or (match["v6"] and not _is_ipv6(match["v6"])):
        raise SettingError(f"--predictor_host: {host[:100]!r} is not HOST or HOST:PORT")
    return f"{match['host']}:{port}"


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
