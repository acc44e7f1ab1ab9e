"""V2 model repository over REST: index, load and unload."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.model import check_name
from serving.repository import Repository
from serving.responses import json_response


def repository_routes(repository: Repository) -> APIRouter:
    """The routes of `repository`."""
    router = APIRouter(prefix="/v2/repository")

    def check(request: Request) -> None:
        repository.check(request.headers.get("authorization"))

    async def index(request: Request) -> Response:
        check(request)
        return json_response(repository.index())

    async def load(model_name: str, request: Request) -> Response:
        check(request)
        check_name(repository.model, model_name)
        await repository.load()
        return json_response({"name": model_name, "load": True})

    async def unload(model_name: str, request: Request) -> Response:
        check(request)
        check_name(repository.model, model_name)
        repository.unload()
        return json_response({"name": model_name, "unload": True})

    router.add_api_route("/index", index, methods=["POST"])
    router.add_api_route("/models/{model_name}/load", load, methods=["POST"])
    router.add_api_route("/models/{model_name}/unload", unload, methods=["POST"])
    return router
