"""The way to the predictor: raw tensors to any of its pods, repeated where they are lost, our errors."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import contract
from contract import Pixels, Prediction
from serving.call import Call
from serving.errors import InvalidRequest, NotReady
from serving.v2 import InferRequest, Tensor
from transformer.hop import Hop, Lost
from transformer.prediction import PredictionReader
from transformer.target import REST, grpc_target, rest_hosts

# Seconds before each further attempt; pods may be looked up again meanwhile.
PAUSES = (0.05, 0.15, 0.45, 1.0)

MAX_SIZE = 4096  # of a side: what says more is no predictor

Result = TypeVar("Result")


def open_channel(predictor_host: str, protocol: str, model_name: str) -> "PredictorChannel":
    """The channel that the settings ask for; inside a running event loop."""
    if protocol == REST:  # what is not used is not loaded
        from transformer.rest_hop import RestHop

        return PredictorChannel(RestHop(rest_hosts(predictor_host), model_name))
    from transformer.grpc_hop import GrpcHop

    return PredictorChannel(GrpcHop(grpc_target(predictor_host), model_name))


class PredictorChannel:
    """Calls the predictor."""

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        self._reader = PredictionReader()

    async def read_size(self, call: Call) -> int:
        """S, from the shape of `pixels` in the predictor's metadata."""
        try:
            inputs = await self._repeat(lambda: self._hop.describe(call), call)
        except InvalidRequest as error:
            raise NotReady(f"the predictor's metadata cannot be used: {error}") from None
        shapes = [spec.shape for spec in inputs if spec.name == contract.PIXELS]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != shapes[0][2] or not 0 < shapes[0][1] <= MAX_SIZE:
            raise NotReady("the predictor does not take pixels of one size: is it a doggos predictor?")
        return shapes[0][1]

    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        """Classify and embed [N, S, S, 3]; raises NotReady, QueueFull, TooLarge or DeadlineExceeded."""
        request = InferRequest({contract.PIXELS: Tensor(contract.PIXELS, "UINT8", pixels)}, id=call.request_id)
        try:
            answer = await self._repeat(lambda: self._hop.infer(request, self._reader.known, call), call)
            return self._reader.read(answer, len(pixels))
        except (ValueError, InvalidRequest) as error:
            raise NotReady(f"the predictor's answer cannot be used: {error}") from None

    async def _repeat(self, attempt: Callable[[], Awaitable[Result]], call: Call) -> Result:
        """The answer; whatever happened to an attempt, repeating it is safe and may meet another predictor."""
        for pause in (*PAUSES, None):
            try:
                return await attempt()
            except Lost as lost:
                if pause is None or call.deadline.remaining() <= pause:
                    raise lost.error from None
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the connections."""
        await self._hop.close()
