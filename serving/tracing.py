"""Traces by OpenTelemetry: off, and not even imported, unless the usual OTEL_* variables ask for them."""

from collections.abc import Mapping
from typing import Protocol

from serving.call import Call
from serving.errors import SettingError
from serving.logs import warn


class Tracer(Protocol):
    """Begins a span for every request."""

    def begin(self, call: Call, protocol: str) -> Call:
        """The call inside a span of its own, which `call.span.end` ends."""

    async def close(self) -> None:
        """Send what is left, in bounded time."""


class NoTracer:
    """Leaves calls, and the trace headers that they came with, as they are."""

    def begin(self, call: Call, protocol: str) -> Call:
        return call

    async def close(self) -> None:
        pass


def open_tracer(service: str, environ: Mapping[str, str]) -> Tracer:
    """What the environment asks for; `service` is the name in the traces where OTEL_SERVICE_NAME gives no other."""
    if not is_wanted(environ):
        return NoTracer()
    from serving.spans import SpanTracer  # a tenth of a second that nobody pays without traces

    try:
        return SpanTracer(service)
    except (ValueError, OSError) as error:
        raise SettingError(f"the OTEL_* variables cannot be used: {error}") from None


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether OTEL_* variables ask for traces, and in the one form that is there: OTLP over HTTP."""

    def read(*names: str) -> str:
        return next((environ[name].strip().lower() for name in names if environ.get(name, "").strip()), "")

    if read("OTEL_SDK_DISABLED") == "true" or read("OTEL_TRACES_EXPORTER") == "none":
        return False
    exporter = read("OTEL_TRACES_EXPORTER")
    if not exporter and not read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        return False
    protocol = read("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    if exporter in ("", "otlp") and protocol in ("", "http/protobuf"):
        return True
    warn("traces are off: they can be exported by otlp over http/protobuf only", exporter=exporter, protocol=protocol)
    return False
