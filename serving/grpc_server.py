"""Our own gRPC server: health, reflection, connection age and limits that KServe's does not have."""

import logging

from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from serving.grpc_service import InferenceService
from serving.health import HealthService
from serving.held import ByteBudget
from serving.metrics import Metrics
from serving.receiving import ReceiveInTurn
from serving.repository import Repository
from serving.server_settings import ServerSettings
from serving.tracing import Tracer
from serving.unreadable import RefuseUnreadable

SERVICE = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MIN_PING_INTERVAL_MS = 10_000
"""Below the interval at which clients ping: one that pings too often loses its running calls."""


class GrpcServer:
    """A `grpc.aio` server with its health service."""

    def __init__(
        self, repository: Repository, metrics: Metrics, settings: ServerSettings, tracer: Tracer, held: ByteBudget,
    ) -> None:  # fmt: skip
        model = repository.model
        receiving = ReceiveInTurn(held, settings.max_receiving, settings.request_timeout)
        self._server = aio.server(interceptors=[receiving, RefuseUnreadable()], options=server_options(settings))
        services.add_GRPCInferenceServiceServicer_to_server(
            InferenceService(repository, metrics, settings.request_timeout, tracer), self._server
        )
        self._health = HealthService(("", SERVICE, model.name))
        model.watch(self._health.set_serving)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, raises RuntimeError when it cannot be had."""
        logging.getLogger("grpc._cython.cygrpc").addFilter(is_no_lost_caller)
        taken = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        await self._server.start()
        return int(taken)

    async def stop(self, grace: float) -> None:
        """Take no more calls, let those in flight finish within `grace` seconds."""
        self._health.close()
        await self._server.stop(grace)


def is_no_lost_caller(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's tells more than that a caller had left when its answer was sent.

    gRPC itself is silent of that, unless the answer fails before it has heard that the caller is gone.
    """
    return not (record.exc_info and type(record.exc_info[1]).__name__ == "ExecuteBatchError")


def server_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Limits of messages and connections."""
    return [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        # Without it a call that waits for its turn would have megabytes of its message here; one that is read has all.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.request_timeout * 1000) + 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
