"""An OpenTelemetry collector on loopback that keeps the spans that it is sent."""

import gzip
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from launch import LOOPBACK


@dataclass(frozen=True)
class Seen:
    """One span, with ids in hex digits as in a traceparent."""

    service: str
    name: str
    kind: str  # SERVER, CLIENT or INTERNAL
    trace: str
    id: str
    parent: str  # "" for a root
    begin: int
    end: int
    failed: bool
    sentence: str
    attributes: dict[str, Any]
    events: int


@dataclass
class Collector:
    """What has come in."""

    url: str
    spans: list[Seen] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def of(self, trace: str) -> list[Seen]:
        return sorted((span for span in self.spans if span.trace == trace), key=lambda span: (span.begin, span.name))


@contextmanager
def run_collector() -> Iterator[Collector]:
    """Receive OTLP over HTTP for the time of the block."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            collector.raw.append(body)
            collector.spans.extend(_read(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
    collector = Collector(f"http://{LOOPBACK}:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def _read(body: bytes) -> Iterator[Seen]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    service,
                    span.name,
                    span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    span.status.message,
                    _attributes(span),
                    len(span.events),
                )


def _attributes(holder: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in holder.attributes}
