"""`GET /images/<path>`: small versions of the index's pictures, for the page and for whoever shows matches."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.body import run_for_caller
from serving.errors import OutOfRange
from transformer.gallery import Gallery
from transformer.server import TransformerModel

SIZES = (320, 640, 1280)  # few, so that caches hold few versions of a picture
_HEADERS = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'"}
_CACHED = {"cache-control": "max-age=3600"}  # after that its tag says whether it is still the same


def image_routes(model: TransformerModel, gallery: Gallery) -> APIRouter:
    """The route for the pictures of the index that `model` serves."""
    router = APIRouter()

    async def image(path: str, request: Request) -> Response:
        size = read_size(request.query_params.get("size"))
        known = read_tags(request.headers.get("if-none-match", ""))
        model.check_loaded()
        with model.slot.use() as loaded:
            work = gallery.show(loaded.pipeline.index, path, size, known, request.state.call.deadline)
            found = await run_for_caller(request, work)
        headers: dict[str, Any] = {**_HEADERS, **_CACHED, "etag": f'"{found.tag}"'}
        if found.data is None:
            return Response(None, 304, headers)
        return picture_response(found.data, headers)

    router.add_api_route("/images/{path:path}", image, methods=["GET"])
    return router


def picture_response(data: bytes, headers: dict[str, str] | None = None) -> Response:
    """A JPEG that a browser takes for nothing else."""
    return Response(data, headers={**_HEADERS, **(headers or {})}, media_type="image/jpeg")


def read_size(text: str | None) -> int:
    """The wanted size in pixels; raises OutOfRange."""
    for size in SIZES:
        if text in (None, str(size)):
            return size
    raise OutOfRange(f"size must be one of {', '.join(map(str, SIZES))}")


def read_tags(header: str) -> set[str]:
    """The tags of an If-None-Match header."""
    return {tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")}
