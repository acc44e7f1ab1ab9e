"""The predictor over gRPC: a channel over all its pods, made anew now and then.

gRPC looks a name up again only when a connection ends.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from serving.call import Call
from serving.errors import ServiceError
from serving.grpc_codec import decode_response, encode_request
from serving.slot import Slot
from serving.stubs import load_messages, method_path
from serving.v2 import InferRequest, InferResponse, Tensor, TensorSpec
from transformer import hop
from transformer.hop import CONNECT_SECONDS, Lost
from transformer.renewal import Renewal

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
_LOST = {
    grpc.StatusCode.UNAVAILABLE,  # gone, or not ready yet
    grpc.StatusCode.CANCELLED,  # met a server that was just stopping; our own cancellation is no RpcError
    grpc.StatusCode.INTERNAL,  # its engine failed, or its connection broke in the middle of the answer
    grpc.StatusCode.UNKNOWN,
}


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


class GrpcHop:
    """Opens a new channel now and then, which looks its target up; made inside a running event loop.

    Channels with the same options share their connections, so that a new one costs a look-up and no more; a pod that
    is not in its answer gets no further calls, and those under way end on the channel that they began with.
    """

    def __init__(self, target: str, model_name: str) -> None:
        self._target, self._model_name = target, model_name
        self._slot = Slot[Methods]()
        self._take(self._open())
        self._renewal = Renewal(self._renew)

    async def describe(self, call: Call) -> Sequence[TensorSpec]:
        """See Hop."""
        message = load_messages().ModelMetadataRequest(name=self._model_name)
        answer = await self._call("metadata", message, call)
        return [TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in answer.inputs]

    async def infer(self, request: InferRequest, known: Mapping[str, Tensor], call: Call) -> InferResponse:
        """See Hop."""
        return decode_response(await self._call("infer", encode_request(self._model_name, request), call), known)

    async def close(self) -> None:
        """Close the connections, once nobody uses them."""
        await self._renewal.close()
        await self._slot.close()

    async def _call(self, method: str, message: Any, call: Call) -> Any:
        try:
            with self._slot.use() as methods:
                timeout = call.deadline.remaining()
                return await getattr(methods, method)(message, timeout=timeout, metadata=call.metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() not in _LOST:
                raise _translate(error) from None
            self._renewal.note_failure()
            raise Lost(_translate(error)) from None

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


def _translate(error: Any) -> ServiceError:
    """Our error for the predictor's; details are passed on only of codes that gRPC never gives: its have addresses."""
    code, details = error.code(), str(error.details() or "")
    answered = "retry-after" in dict(error.trailing_metadata() or ())  # only our predictor's own errors have it
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return hop.too_slow()
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return hop.queue_full() if answered else hop.too_large()
    if code == grpc.StatusCode.UNAVAILABLE:
        return hop.not_ready(answered)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return hop.refuses_pixels(details)
    if code == grpc.StatusCode.NOT_FOUND:
        return hop.unknown_model(details)
    return hop.failed(code.name)
