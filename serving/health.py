"""grpc.health.v1 for one server.

The reference servicer forgets watchers when another one leaves, and one that does not read blocks every change.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

from grpc import StatusCode
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2 as messages
from grpc_health.v1 import health_pb2_grpc

_STATUS = messages.HealthCheckResponse.ServingStatus


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """All of `names` are serving, or none is."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._serving, self._closed = False, False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """What is answered from now on."""
        self._serving = serving
        self._tell_watchers()

    def close(self) -> None:
        """End every Watch: a server that stops would wait for them."""
        self._closed = True
        self._tell_watchers()

    async def Check(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        if request.service not in self._names:
            await context.abort(StatusCode.NOT_FOUND, f"there is no service {request.service[:200]!r} here")
        return messages.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: Any, context: ServicerContext) -> AsyncIterator[Any]:  # noqa: N802
        told = None
        while not self._closed:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                yield messages.HealthCheckResponse(status=status)
                told = status
            await changed.wait()

    def _status(self, name: str) -> Any:
        if name not in self._names:
            return _STATUS.SERVICE_UNKNOWN
        return _STATUS.SERVING if self._serving else _STATUS.NOT_SERVING

    def _tell_watchers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
