"""The way to the predictor: raw tensors over gRPC to any of its pods, repeated where they are lost, our errors."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

import contract
from contract import Pixels, Prediction
from serving.call import Call
from serving.errors import DeadlineExceeded, NotReady, QueueFull, ServiceError, TooLarge
from serving.grpc_codec import encode_request
from serving.stubs import load_messages
from serving.v2 import InferRequest, Tensor
from transformer.prediction import PredictionReader
from transformer.replicas import Methods, Replicas

# Seconds before each further attempt; pods may be looked up again meanwhile.
PAUSES = (0.05, 0.15, 0.45, 1.0)
_RETRIED = {
    grpc.StatusCode.UNAVAILABLE,  # gone, or not ready yet
    grpc.StatusCode.CANCELLED,  # met a server that was just stopping; our own cancellation is no RpcError
    grpc.StatusCode.INTERNAL,  # its engine failed, or its connection broke in the middle of the answer
    grpc.StatusCode.UNKNOWN,
}

_TOO_LARGE = "the pictures of this request are too many for one message to the predictor: send fewer at once"


class PredictorChannel:
    """Calls the predictor; made inside a running event loop."""

    def __init__(self, target: str, model_name: str) -> None:
        self._model_name = model_name
        self._replicas = Replicas(target)
        self._reader = PredictionReader()

    async def read_size(self, call: Call) -> int:
        """S, from the shape of `pixels` in the predictor's metadata."""
        message = load_messages().ModelMetadataRequest(name=self._model_name)
        answer = await self._call(lambda methods: methods.metadata, message, call)
        shapes = [list(tensor.shape) for tensor in answer.inputs if tensor.name == contract.PIXELS]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != shapes[0][2] or shapes[0][1] <= 0:
            raise NotReady("the predictor does not take pixels of one size: is it a doggos predictor?")
        return int(shapes[0][1])

    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        """Classify and embed [N, S, S, 3]; raises NotReady, QueueFull, TooLarge or DeadlineExceeded."""
        request = InferRequest({contract.PIXELS: Tensor(contract.PIXELS, "UINT8", pixels)}, id=call.request_id)
        message = encode_request(self._model_name, request)
        return self._reader.read(await self._call(lambda methods: methods.infer, message, call), len(pixels))

    async def _call(self, choose: Callable[[Methods], Any], message: Any, call: Call) -> Any:
        """The answer; whatever happened to an attempt, repeating it is safe and may meet another predictor."""
        for pause in (*PAUSES, None):
            try:
                with self._replicas.use() as methods:
                    timeout = call.deadline.remaining()
                    return await choose(methods)(message, timeout=timeout, metadata=call.metadata())
            except grpc.aio.AioRpcError as error:
                if error.code() in _RETRIED:
                    self._replicas.note_failure()
                if pause is None or error.code() not in _RETRIED or call.deadline.remaining() <= pause:
                    raise _translate(error) from None
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the connections."""
        await self._replicas.close()


def _translate(error: Any) -> ServiceError:
    """Our error for the predictor's; details are passed on only of codes that gRPC never gives: its have addresses."""
    code, details = error.code(), str(error.details() or "")[:200]
    answered = "retry-after" in dict(error.trailing_metadata() or ())  # only our predictor's own errors have it
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the predictor was too slow for the request's time")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return QueueFull("the predictor's queue is full") if answered else TooLarge(_TOO_LARGE)
    if code == grpc.StatusCode.UNAVAILABLE:
        return NotReady("the predictor is not ready" if answered else "the predictor cannot be reached")
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return NotReady(f"the predictor refuses the pixels: {details}")
    if code == grpc.StatusCode.NOT_FOUND:
        return NotReady(f"the predictor does not know the model: {details}")
    return NotReady(f"the predictor failed with {code.name}")
