"""Prometheus metrics of one process, in a registry of its own."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ElapsedSeconds(Collector):
    """A counter of seconds spent inside blocks that is also right while they run.

    Its `rate()` is the average number of blocks in progress: the mean concurrency. `now`, a gauge, is their number.
    """

    def __init__(self, name: str, help: str, now: tuple[str, str] | None = None) -> None:
        self._name, self._help, self._now, self._lock = name, help, now, Lock()
        self._running, self._total, self._since = 0, 0.0, time.monotonic()

    @contextmanager
    def track(self) -> Iterator[None]:
        self._change(+1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._total += self._running * (now - self._since)
            self._running, self._since = self._running + by, now

    def collect(self) -> Iterator[Metric]:
        self._change(0)
        yield CounterMetricFamily(self._name, self._help, value=self._total)
        if self._now:
            yield GaugeMetricFamily(*self._now, value=self._running)


class Metrics:
    """What both servers measure."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.in_flight = ElapsedSeconds(
            "doggos_request_seconds",
            "Seconds spent in inference requests",
            now=("doggos_requests_in_flight", "Inference requests just now"),
        )
        registry.register(self.in_flight)
        self.requests = Counter(
            "doggos_requests", "Inference requests by protocol and status", ["protocol", "code"], registry=registry
        )
        self.stages = Histogram(
            "doggos_stage_seconds", "Time of each stage of a request", ["stage"], buckets=SECONDS, registry=registry
        )
        self.durations = Histogram(
            "doggos_request_duration_seconds",
            "Time of a whole request",
            ["protocol"],
            buckets=SECONDS,
            registry=registry,
        )
        self.own_time = Histogram(
            "doggos_own_seconds",
            "Time of an answered request without that of pictures' hosts",
            buckets=SECONDS,
            registry=registry,
        )

    def count(self, protocol: str, code: int | str, stages: Mapping[str, float], seconds: float) -> None:
        """Count one request that has ended."""
        self.requests.labels(protocol, str(code)).inc()
        self.durations.labels(protocol).observe(seconds)
        if code in (200, "OK"):
            self.own_time.observe(max(0.0, seconds - stages.get("fetch", 0.0)))
        for stage, taken in stages.items():
            self.stages.labels(stage).observe(taken)


class PredictorMetrics(Metrics):
    """What the predictor measures besides."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = ElapsedSeconds("doggos_busy_seconds", "Seconds the engine was running")
        self.registry.register(self.busy)
        self.model = Info("doggos_model", "The CLIP, the head and the engine that are served", registry=self.registry)
        self.queue_depth = Gauge("doggos_queue_depth", "Pictures waiting for the engine", registry=self.registry)
        self.queue_limit = Gauge("doggos_queue_limit", "Most pictures that may wait", registry=self.registry)
        self.queue_full = Counter(
            "doggos_queue_full", "Requests refused because of a full queue", registry=self.registry
        )
        self.batch_limit = Gauge("doggos_batch_limit", "Most pictures in one forward", registry=self.registry)
        self.queue_wait = Histogram(
            "doggos_queue_wait_seconds", "Time between arrival and forward", buckets=SECONDS, registry=self.registry
        )
        self.batch_size = Histogram(
            "doggos_batch_size", "Pictures in one forward", buckets=BATCH_SIZES, registry=self.registry
        )


class TransformerMetrics(Metrics):
    """What the transformer measures besides."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches = Histogram(
            "doggos_fetch_seconds", "Time of one picture's download", ["code"], buckets=SECONDS, registry=self.registry
        )
        self.predicting = ElapsedSeconds("doggos_predictor_seconds", "Seconds spent waiting for the predictor")
        self.registry.register(self.predicting)
        self.fetch_failures = Counter(
            "doggos_fetch_failures", "Downloads that failed, by reason", ["reason"], registry=self.registry
        )
        self.fetches_now = Gauge("doggos_fetches_in_flight", "Downloads just now", registry=self.registry)
        self.fetch_limit = Gauge("doggos_fetch_limit", "Most downloads at a time", registry=self.registry)
        self.decode_depth = Gauge("doggos_decode_queue_depth", "Pictures waiting for a decode", registry=self.registry)
        self.decode_limit = Gauge("doggos_decode_queue_limit", "Most pictures that may wait", registry=self.registry)
        self.decode_full = Counter(
            "doggos_decode_queue_full",
            "Pictures, or at the door requests, that met a full queue",
            registry=self.registry,
        )
        self.predictor_up = Gauge(
            "doggos_predictor_up", "1 when the predictor's last answer came", registry=self.registry
        )
        self.mismatches = Counter(
            "doggos_predictor_mismatches",
            "Answers of a predictor that does not belong to the index",
            registry=self.registry,
        )
        self.index = Info("doggos_index", "The CLIP of the index", registry=self.registry)
        self.index_rows = Gauge("doggos_index_rows", "Pictures in the index", registry=self.registry)
