"""KServe's V2 gRPC service for one model, with our status codes."""

import time
from typing import Any

from grpc import StatusCode
from grpc.aio import ServicerContext
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from serving.access import log_call
from serving.call import Call
from serving.errors import CallerGone, ServiceError
from serving.grpc_codec import decode_request, encode_response
from serving.logs import log_exception
from serving.metrics import Metrics
from serving.model import check_name, check_version, describe_server
from serving.receiving import seconds_receiving
from serving.repository import Repository
from serving.tracing import Tracer


class InferenceService(services.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Translates between KServe's messages and the model."""

    def __init__(self, repository: Repository, metrics: Metrics, budget: float, tracer: Tracer) -> None:
        self._repository, self._model = repository, repository.model
        self._metrics, self._budget, self._tracer = metrics, budget, tracer

    async def ServerLive(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        return messages.ServerReadyResponse(ready=await self._model.healthy())

    async def ModelReady(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        await self._check(request, context)
        return messages.ModelReadyResponse(ready=await self._model.healthy())

    async def ServerMetadata(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        return messages.ServerMetadataResponse(**describe_server())

    async def ModelMetadata(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        await self._check(request, context)
        try:
            inputs, outputs = self._model.get_input_types(), self._model.get_output_types()
        except ServiceError as error:
            return await _abort(context, error)
        return messages.ModelMetadataResponse(name=self._model.name, inputs=inputs, outputs=outputs)

    async def RepositoryModelLoad(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        try:
            self._check_repository(request, context)
            await self._repository.load()
        except ServiceError as error:
            return await _abort(context, error)
        return messages.RepositoryModelLoadResponse(model_name=self._model.name, isLoaded=True)

    async def RepositoryModelUnload(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        try:
            self._check_repository(request, context)
            self._repository.unload()
        except ServiceError as error:
            return await _abort(context, error)
        return messages.RepositoryModelUnloadResponse(model_name=self._model.name, isUnloaded=True)

    async def ModelInfer(self, request: Any, context: ServicerContext) -> Any:  # noqa: N802
        call = Call.from_headers(_headers(context), min(self._budget - seconds_receiving(), _time_remaining(context)))
        call = self._tracer.begin(call, "grpc")
        begin, code = time.perf_counter(), CallerGone.code
        try:
            with self._metrics.in_flight.track():
                answer = await self._answer(request, call)
            code = answer.code if isinstance(answer, ServiceError) else StatusCode.OK.name
        finally:
            seconds = time.perf_counter() - begin
            self._metrics.count("grpc", code, call.stages, seconds)
            call.span.end("ModelInfer", code)
            log_call(call, "grpc", "ModelInfer", code, seconds)
        del request  # an abort is an exception that keeps this frame: see ServiceError.without_frames
        return await _abort(context, answer) if isinstance(answer, ServiceError) else answer

    async def _answer(self, request: Any, call: Call) -> Any:
        """The answer's message, or the error; `request` is one where it could not be read."""
        try:
            if isinstance(request, ServiceError):
                raise request
            return await self._infer(request, call)
        except ServiceError as error:
            return error.without_frames()
        except Exception as error:
            log_exception("unexpected error", error, request_id=call.request_id)
            return ServiceError("internal error")

    async def _infer(self, request: Any, call: Call) -> Any:
        check_name(self._model, request.model_name)
        check_version(request.model_version)
        self._model.check_loaded()
        self._model.check_room()
        decoded = decode_request(request, self._model.max_values)
        answer = await self._model.infer(decoded, call)
        return encode_response(self._model.name, decoded, answer, raw=bool(request.raw_input_contents))

    async def _check(self, request: Any, context: ServicerContext) -> None:
        try:
            check_name(self._model, request.name)
            check_version(request.version)
        except ServiceError as error:
            await _abort(context, error)

    def _check_repository(self, request: Any, context: ServicerContext) -> None:
        self._repository.check(_headers(context).get("authorization"))
        check_name(self._model, request.model_name)


def _headers(context: ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _time_remaining(context: ServicerContext) -> float:
    remaining = context.time_remaining()
    return float("inf") if remaining is None else float(remaining)


async def _abort(context: ServicerContext, error: ServiceError) -> Any:
    trailing = (("retry-after", str(error.retry_after)),) if error.retry_after is not None else ()
    return await context.abort(StatusCode[error.code], error.sentence, trailing_metadata=trailing)
