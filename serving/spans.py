"""Calls and their stages as OpenTelemetry spans, sent in batches from a thread of their own.

A span has no URL, no values and no stack trace: a route, codes, the request id, and sentences that callers see too.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from grpc import StatusCode
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, Tracer, set_span_in_context
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.call import Call
from serving.errors import ServiceError
from serving.logs import hide_secrets, warn
from serving.stubs import SERVICE

CLOSE_SECONDS = 3.0
W3C = TraceContextTextMapPropagator()
_OUR_FAULT = {"UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"}  # as 5xx over HTTP


class SpanTracer:
    """Begins spans; the SDK and its exporter read endpoint, headers, sampler and limits from OTEL_* variables."""

    def __init__(self, service: str) -> None:
        # A collector that is away is one line for each batch, not one more for every attempt.
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.ERROR)
        given = OTELResourceDetector().detect().attributes
        resource = Resource.create({SERVICE_NAME: service, **given})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("doggos")

    def begin(self, call: Call, protocol: str) -> Call:
        parent = W3C.extract(call.trace, Context())
        attributes = {"doggos.request_id": call.request_id}
        span = self._tracer.start_span(protocol, parent, SpanKind.SERVER, attributes)
        return call.within(OpenSpan(self._tracer, span))

    async def close(self) -> None:
        """Send what is left; a collector that does not answer is not waited for."""
        ending = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        _, late = await asyncio.wait({ending}, timeout=CLOSE_SECONDS)
        if late:
            warn("the last spans of the trace could not be sent in time", seconds=CLOSE_SECONDS)


class OpenSpan:
    """One span that has not ended, and its children."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self._context = set_span_in_context(span, Context())
        self._to_epoch = time.time() - time.monotonic()

    @property
    def headers(self) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        W3C.inject(headers, self._context)
        return headers

    @contextmanager
    def stage(self, name: str, *, remote: bool) -> Iterator["OpenSpan"]:
        kind = SpanKind.CLIENT if remote else SpanKind.INTERNAL
        span = self._tracer.start_span(name, self._context, kind)
        try:
            yield OpenSpan(self._tracer, span)
        except BaseException as error:
            _mark_failed(span, error)
            raise
        finally:
            span.end()

    def record(self, name: str, begin: float, end: float) -> None:
        span = self._tracer.start_span(name, self._context, start_time=self._nanoseconds(begin))
        span.end(self._nanoseconds(end))

    def _nanoseconds(self, moment: float) -> int:
        return int((moment + self._to_epoch) * 1e9)

    def end(self, name: str, code: int | str) -> None:
        self._span.update_name(name)
        if isinstance(code, int):
            attributes, failed = _describe_http(name, code), code >= 500
        else:
            attributes, failed = _describe_rpc(name, code), code in _OUR_FAULT
        self._span.set_attributes(attributes)
        if failed:
            self._span.set_status(Status(SpanStatus.ERROR))
        self._span.end()


def _mark_failed(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, Exception):  # a stage that was cancelled has not failed
        sentence = hide_secrets(error.sentence) if isinstance(error, ServiceError) else None
        span.set_status(Status(SpanStatus.ERROR, sentence))


def _describe_http(name: str, code: int) -> dict[str, str | int]:
    method, _, route = name.partition(" ")
    return {"http.request.method": method, "http.route": route, "http.response.status_code": code}


def _describe_rpc(name: str, code: str) -> dict[str, str | int]:
    status = int(StatusCode[code].value[0])
    return {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": name, "rpc.grpc.status_code": status}
