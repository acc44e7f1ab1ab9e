"""The predictor's pods behind one channel, looked up again and again: gRPC asks DNS only when a connection ends."""

import asyncio
import contextlib
import json
from contextlib import AbstractContextManager
from typing import Any

import grpc

from serving.logs import log_exception
from serving.slot import Slot
from serving.stubs import load_messages, method_path

LOOK_UP_SECONDS = 5.0
"""Clusters' DNS servers answer from a cache for 5 to 30 s."""
LEAST_SECONDS = 1.0
"""Between two look-ups, also while calls fail."""
CONNECT_SECONDS = 2.0
KEEPALIVE_MS = 20_000

# No retry policy of gRPC's own: it gives up on requests of more than 256 KiB and once an answer has begun.
_SERVICE_CONFIG: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_OPTIONS = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),  # of calls that no server has seen
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
]


class Methods:
    """The predictor's methods over one channel."""

    def __init__(self, channel: Any) -> None:
        messages = load_messages()
        self.infer = channel.unary_unary(
            method_path("ModelInfer"),
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        self.metadata = channel.unary_unary(
            method_path("ModelMetadata"),
            request_serializer=messages.ModelMetadataRequest.SerializeToString,
            response_deserializer=messages.ModelMetadataResponse.FromString,
        )


class Replicas:
    """Opens a new channel now and then, which looks its target up; made inside a running event loop.

    Channels with the same options share their connections, so that a new one costs a look-up and no more; a pod that
    is not in its answer gets no further calls, and those under way end on the channel that they began with.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._slot = Slot[Methods]()
        self._take(self._open())
        self._failed = asyncio.Event()
        self._task = asyncio.create_task(self._look_up_again())

    def use(self) -> AbstractContextManager[Methods]:
        """The methods of the channel that is current, for the time of one call."""
        return self._slot.use()

    def note_failure(self) -> None:
        """Look up within some seconds at most: a call was not answered."""
        self._failed.set()

    async def close(self) -> None:
        """Close the connections, once nobody uses them."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._slot.close()

    async def _look_up_again(self) -> None:
        while True:
            await asyncio.sleep(LEAST_SECONDS)
            # Not wait_for: in Python 3.11 a cancellation may be lost in it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_UP_SECONDS - LEAST_SECONDS):
                    await self._failed.wait()
            self._failed.clear()
            try:
                await self._renew()
            except Exception as error:
                log_exception("the predictor was not looked up", error)

    async def _renew(self) -> None:
        """Use a new channel as soon as it reaches a pod; one that reaches none is no better than what there is."""
        channel = self._open()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await channel.channel_ready()
        except BaseException as error:
            await channel.close()
            if not isinstance(error, TimeoutError):
                raise
        else:
            self._take(channel)

    def _open(self) -> Any:
        return grpc.aio.insecure_channel(self._target, options=_OPTIONS)

    def _take(self, channel: Any) -> None:
        self._slot.put(Methods(channel), channel.close)
