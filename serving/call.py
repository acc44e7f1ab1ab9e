"""One call in progress: its identity, its time budget and what each stage of it took."""

import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from serving.deadline import Deadline

REQUEST_ID = "x-request-id"
TIMEOUT_MS = "x-request-timeout-ms"
"""The caller's own time, where it is shorter than ours; gRPC's callers have a deadline for it."""
_MILLISECONDS = re.compile("[0-9]{1,9}")
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,128}")
# Forms of W3C Trace Context; what follows a traceparent's flags is for versions to come.
_TRACE = {
    "traceparent": re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,64})?"),
    "tracestate": re.compile(r"[\x20-\x7e]{1,512}"),
}


class Span(Protocol):
    """A request, or a stage of one, in a trace: see serving/tracing.py."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What names this span as the parent of the next service's; empty leaves the caller's headers as they are."""

    def stage(self, name: str, *, remote: bool) -> "AbstractContextManager[Span]":
        """A child for the time of a block; `remote` says that another server does the work."""

    def record(self, name: str, begin: float, end: float) -> None:
        """A child that has ended already; times of `time.monotonic()`."""

    def end(self, name: str, code: int | str) -> None:
        """The request has ended; `name` is the route's or the method's."""


class Untraced:
    """Stands for every span while no trace is kept."""

    headers: Mapping[str, str] = MappingProxyType({})

    def stage(self, name: str, *, remote: bool) -> "AbstractContextManager[Span]":
        return nullcontext(self)

    def record(self, name: str, begin: float, end: float) -> None:
        pass

    def end(self, name: str, code: int | str) -> None:
        pass


UNTRACED = Untraced()


class StageTimes(dict[str, float]):
    """Seconds of each stage; blocks of one stage that run at the same time count once."""

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, tuple[int, float]] = {}  # how many, and since when

    def enter(self, name: str) -> None:
        count, since = self._running.get(name, (0, time.monotonic()))
        self._running[name] = (count + 1, since)

    def leave(self, name: str) -> None:
        count, since = self._running.pop(name)
        if count > 1:
            self._running[name] = (count - 1, since)
        else:
            self.add(name, time.monotonic() - since)

    def add(self, name: str, seconds: float) -> None:
        self[name] = self.get(name, 0.0) + seconds


@dataclass
class Call:
    """Passed from the protocol's edge to every step of the request."""

    deadline: Deadline
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    trace: Mapping[str, str] = field(default_factory=dict)
    stages: StageTimes = field(default_factory=StageTimes)
    span: Span = UNTRACED

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], budget: float) -> "Call":
        """Take over the caller's request id and trace where they are well-formed."""
        given = headers.get(REQUEST_ID, "")
        request_id = given if _PRINTABLE.fullmatch(given) else uuid.uuid4().hex
        trace = {name: headers[name] for name, form in _TRACE.items() if form.fullmatch(headers.get(name, ""))}
        return cls(Deadline.after(min(budget, _read_seconds(headers.get(TIMEOUT_MS, "")))), request_id, trace)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes on to the next service."""
        return ((REQUEST_ID, self.request_id), *self.trace.items())

    def within(self, span: Span) -> "Call":
        """The same call as seen from inside `span`."""
        return replace(self, span=span, trace=span.headers or self.trace)

    @contextmanager
    def stage(self, name: str, *, remote: bool = False) -> Iterator["Call"]:
        """Measure the block; it passes on the call that it is given here. `remote`: another server does the work."""
        self.stages.enter(name)
        try:
            with self.span.stage(name, remote=remote) as span:
                yield self if span is self.span else self.within(span)
        finally:
            self.stages.leave(name)

    def record(self, name: str, begin: float, end: float) -> None:
        """Add a stage that was measured elsewhere, by `time.monotonic()`."""
        self.stages.add(name, end - begin)
        self.span.record(name, begin, end)


def _read_seconds(milliseconds: str) -> float:
    """Without end where it is no number."""
    return int(milliseconds) / 1000 if _MILLISECONDS.fullmatch(milliseconds) else math.inf
