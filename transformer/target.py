"""--predictor_host as gRPC understands it."""

import ipaddress

from serving.errors import SettingError

DEFAULT_PORT = 8081


def grpc_target(predictor_host: str) -> str:
    """The gRPC target of --predictor_host; raises SettingError when it cannot be one."""
    if "://" in predictor_host or predictor_host.startswith(("dns:", "unix:", "ipv4:", "ipv6:")):
        return predictor_host
    hosts = [_with_port(part.strip()) for part in predictor_host.split(",") if part.strip()]
    if not hosts:
        raise SettingError("--predictor_host: say where the predictor is, as HOST:PORT")
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


def _with_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return f"{host}:{DEFAULT_PORT}"
    bare = ":" not in name or name.startswith("[")  # an IPv6 address needs its brackets
    if not name or not bare or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise SettingError(f"--predictor_host: {host!r} is not HOST or HOST:PORT")
    return host
