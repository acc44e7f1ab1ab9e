"""The settings that both servers have."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from contract import MODEL_NAME
from serving.errors import SettingError
from serving.settings import at_least, setting
from serving.threads import cpu_limit

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # what may follow Bearer (RFC 6750)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError("use a port from 0 (any free one) to 65535")
    return port


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("use debug, info, warning or error")
    return text.lower()


def _name(text: str) -> str:
    if not text or "/" in text or len(text) > 200:
        raise ValueError("use a name without a slash")
    return text


def _check_token(token: str, flag: str) -> None:
    if not _TOKEN.fullmatch(token):
        raise SettingError(f"--{flag}: a token is 16 to 512 letters, digits and any of - . _ ~ + / =")


@dataclass(frozen=True)
class ServerSettings:
    """Flags of every server."""

    model_name: str = setting(MODEL_NAME, "name of the model in the protocol's routes", parse=_name)
    host: str = setting("0.0.0.0", "address to listen on")
    http_port: int = setting(8080, "port of REST; 0 takes a free one", parse=_port)
    grpc_port: int = setting(8081, "port of gRPC; 0 takes a free one", parse=_port)
    metrics_port: int = setting(8082, "port of /metrics; 0 takes a free one", parse=_port)
    request_timeout: float = setting(10.0, "seconds that one request may take in all", parse=at_least(0.01, float))
    max_body_bytes: int = setting(32 * 2**20, "largest request body, on REST and gRPC", parse=at_least(1024))
    max_held_bytes: int = setting(
        256 * 2**20,
        "most bytes of bodies and downloaded pictures that all requests together hold; above it callers get 429",
        parse=at_least(1024, most=sys.maxsize),
    )
    max_receiving: int = setting(
        32, "gRPC messages of infer that are received at a time; the others wait for their turn", parse=at_least(1)
    )
    max_pictures: int = setting(32, "most pictures in one request", parse=at_least(1))
    threads: int = setting(0, "threads for computing; 0 takes the container's CPU limit", parse=at_least(0))
    drain_seconds: float = setting(5.0, "seconds of being not ready but still serving", parse=at_least(0, float))
    grace_seconds: float = setting(20.0, "seconds that requests in flight get to finish", parse=at_least(0, float))
    max_connection_age_seconds: float = setting(
        30.0, "seconds after which a gRPC connection is closed, so that clients find new pods", parse=at_least(1, float)
    )
    repository_token: str = setting(
        "", "opens load and unload to callers with this token; better in a variable or a file", secret=True
    )
    repository_token_file: str = setting("", "file with that token, such as a mounted Secret")
    log_level: str = setting("info", "debug, info, warning or error", parse=_level)

    def __post_init__(self) -> None:
        ports = [p for p in (self.http_port, self.grpc_port, self.metrics_port) if p]
        if len(ports) != len(set(ports)):
            raise SettingError("--http_port, --grpc_port and --metrics_port must differ")
        if self.max_held_bytes < self.max_body_bytes:
            raise SettingError("--max_held_bytes: it must be at least --max_body_bytes, or no such body could be taken")
        if self.repository_token and self.repository_token_file:
            raise SettingError("--repository_token and --repository_token_file both give the token; leave one out")
        if self.repository_token:
            _check_token(self.repository_token, "repository_token")

    def read_repository_token(self) -> str:
        """The token that opens the model repository; empty keeps it closed."""
        if not self.repository_token_file:
            return self.repository_token
        try:
            token = Path(self.repository_token_file).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise SettingError("--repository_token_file: it cannot be read; name a file with the token in it") from None
        _check_token(token, "repository_token_file")
        return token

    @property
    def cpu_threads(self) -> int:
        """Threads for computing."""
        return self.threads or cpu_limit()
