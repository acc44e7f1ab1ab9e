"""The HTTP application: our routes in front of KServe's own health and metadata routes."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from kserve import ModelRepository
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v1_endpoints import V1Endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serving.access import AccessLayer
from serving.body import read_body, run_for_caller
from serving.docs_routes import docs_routes
from serving.door import Door
from serving.errors import ServiceError
from serving.held import ByteBudget
from serving.metrics import Metrics
from serving.model import V2Model, check_name, check_version, describe_server
from serving.openapi import Json
from serving.repository import Repository
from serving.repository_routes import repository_routes
from serving.responses import error_response, json_response, service_error_response
from serving.rest_codec import HEADER_LENGTH, decode_request, encode_response
from serving.server_settings import ServerSettings
from serving.shortcut import Shortcut, find_inferences
from serving.tracing import Tracer

Handler = Callable[[Request, Any], Awaitable[Response]]
# FastAPI's own telemetry would send whole URLs and stack traces; serving/tracing.py has ours.
_QUIET: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}

_SENTENCES = {404: "there is no such route here; /docs shows them all", 405: "this route does not take this method"}


def build_app(
    repository: Repository,
    metrics: Metrics,
    settings: ServerSettings,
    document: Json,
    tracer: Tracer,
    held: ByteBudget,
    routes: APIRouter | None = None,
) -> FastAPI:
    """All HTTP routes of a server, which `document` describes; `routes` come first."""
    app = FastAPI(openapi_url=None, redirect_slashes=False, telemetry=_QUIET)
    model = repository.model
    infer = [*([routes] if routes else []), _v2_routes(model, settings.max_body_bytes)]
    for router in (*infer, repository_routes(repository), docs_routes(document)):
        app.include_router(router)
    _add_kserve_routes(app, model)
    for kind, handler in _error_handlers().items():
        app.add_exception_handler(kind, handler)
    inferences = find_inferences([route for router in infer for route in router.routes], model.inference_paths)
    app.add_middleware(Shortcut, inferences=inferences)
    app.add_middleware(Door, model=model)
    app.add_middleware(AccessLayer, metrics=metrics, budget=settings.request_timeout, tracer=tracer, held=held)
    return app


def _add_kserve_routes(app: FastAPI, model: V2Model[Any]) -> None:
    models = ModelRepository()
    models.update(model)
    dataplane = DataPlane(model_registry=models)
    v1 = V1Endpoints(dataplane)
    app.add_api_route("/v1/models", v1.models, methods=["GET"])
    app.add_api_route("/v1/models/{model_name}", v1.model_ready, methods=["GET"])
    register_v2_endpoints(app, dataplane, None)


def _v2_routes(model: V2Model[Any], max_body: int) -> APIRouter:
    router = APIRouter()

    async def infer(model_name: str, request: Request) -> Response:
        check_name(model, model_name)
        model.check_loaded()
        body = await read_body(request, max_body)
        model.check_room()
        decoded, binary = decode_request(body, request.headers.get(HEADER_LENGTH), model.max_values)
        del body  # what was read from it is enough for the time that the answer takes
        answer = await run_for_caller(request, model.infer(decoded, request.state.call))
        content, header_length = encode_response(model.name, decoded, answer, binary)
        if header_length is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(header_length)})

    async def server_ready() -> Response:
        if not await model.healthy():
            raise ServerNotReady()
        return json_response({"ready": True})

    async def metadata() -> Response:
        return json_response(describe_server())

    async def version(model_name: str, model_version: str) -> None:
        check_name(model, model_name)
        check_version(model_version)

    router.add_api_route("/v2/models/{model_name}/infer", infer, methods=["POST"])
    router.add_api_route("/v2/health/ready", server_ready, methods=["GET"])
    router.add_api_route("/v2", metadata, methods=["GET"])
    router.add_api_route("/", live, methods=["GET"])
    versions = "/v2/models/{model_name}/versions/{model_version}"
    for path, method in ((versions, "GET"), (f"{versions}/ready", "GET"), (f"{versions}/infer", "POST")):
        router.add_api_route(path, version, methods=[method])
    return router


async def live() -> Response:
    """The answer to whoever asks whether the process runs."""
    return json_response({"status": "alive"})


def _error_handlers() -> dict[Any, Handler]:
    async def service_error(_: Request, error: ServiceError) -> Response:
        return service_error_response(error.without_frames())

    async def http_error(_: Request, error: HTTPException) -> Response:
        response = error_response(error.status_code, _SENTENCES.get(error.status_code, str(error.detail)))
        if allowed := (error.headers or {}).get("Allow"):
            response.headers["allow"] = f"{allowed}, HEAD" if "GET" in allowed else allowed
        return response

    async def bad_request(_: Request, error: Exception) -> Response:
        return error_response(400, "the request is malformed")

    async def not_found(_: Request, error: ModelNotFound) -> Response:
        return error_response(404, str(error.reason))

    async def not_ready(_: Request, error: Exception) -> Response:
        return error_response(503, "the model is not ready", retry_after=5)

    return {
        ServiceError: service_error,
        HTTPException: http_error,
        RequestValidationError: bad_request,
        InvalidInput: bad_request,
        ModelNotFound: not_found,
        ModelNotReady: not_ready,
        ServerNotReady: not_ready,
    }
