"""The page for browsers at `/`, its files and its pictures; whoever does not ask for HTML gets the liveness answer."""

import asyncio
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.body import read_body, run_for_caller
from serving.call import Call
from serving.errors import NotFound, TooLarge
from serving.responses import json_response
from serving.rest import live
from transformer.answer import Query
from transformer.decode_pool import DecodeMemory, DecodePool
from transformer.gallery import Gallery
from transformer.image_store import open_store
from transformer.images import image_routes, picture_response, read_tags
from transformer.limits import PictureLimits
from transformer.routes import match_describer, read_request
from transformer.search import Match
from transformer.server import MAX_MATCHES, TransformerModel
from transformer.settings import TransformerSettings
from transformer.thumbnail import make_thumbnail

FILES = Path(__file__).with_name("web")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
EXAMPLES = 8
PREVIEW_SIZE = 640
MAX_PREVIEWS = 16  # waiting, each with a whole picture in memory
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")


async def page_routes(settings: TransformerSettings, model: TransformerModel, memory: DecodeMemory) -> APIRouter:
    """The page and the index's pictures, each where the settings switch it on."""
    router = APIRouter()
    limits = PictureLimits(settings.max_picture_bytes, settings.max_picture_pixels)
    if settings.image_root:
        store = await asyncio.to_thread(open_store, settings.image_root)
        router.include_router(image_routes(model, Gallery(store, limits, memory)))
    if settings.page:
        router.include_router(_service_routes(settings, model, limits, memory))
        router.include_router(_file_routes(settings.url_template))
    return router


@dataclass(frozen=True)
class PageFile:
    """A file of the page, in memory."""

    data: bytes
    media_type: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        data = path.read_bytes()
        return cls(data, TYPES[path.suffix], hashlib.sha256(data).hexdigest()[:32])


def _file_routes(url_template: str) -> APIRouter:
    router = APIRouter()
    files = {path.name: PageFile.read(path) for path in FILES.iterdir() if path.suffix in TYPES}
    headers = {
        "content-security-policy": content_policy(url_template),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",  # an address here may have somebody's link in it
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",  # asks each time whether its tag is still the same
    }

    def answer(file: PageFile, request: Request, more: dict[str, str]) -> Response:
        tagged = {**headers, **more, "etag": f'"{file.tag}"'}
        if file.tag in read_tags(request.headers.get("if-none-match", "")):
            return Response(None, 304, tagged)
        return Response(file.data, headers=tagged, media_type=file.media_type)

    async def page(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", "").lower():
            return await live()
        return answer(files["index.html"], request, {"vary": "accept"})

    async def page_file(name: str, request: Request) -> Response:
        if name not in files:
            raise NotFound("the page has no such file")
        return answer(files[name], request, {})

    router.add_api_route("/", page, methods=["GET"])
    router.add_api_route("/page/{name}", page_file, methods=["GET"])
    return router


def content_policy(url_template: str) -> str:
    """What a browser lets the page load: this service only, and pictures from where --url_template says."""
    target = urlsplit(url_template)
    _, _, host = target.netloc.rpartition("@")
    origin = f" {target.scheme}://{host}" if target.scheme in ("http", "https") and _HOST.fullmatch(host) else ""
    return (
        f"default-src 'self'; img-src 'self' data: blob:{origin}; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def _service_routes(
    settings: TransformerSettings, model: TransformerModel, limits: PictureLimits, memory: DecodeMemory
) -> APIRouter:
    router, describe = APIRouter(), match_describer(settings.url_template)
    pool = DecodePool("preview", 1, MAX_PREVIEWS, memory)

    async def about() -> Response:
        model.check_loaded()
        with model.slot.use() as loaded:
            index = loaded.pipeline.index
        examples = [describe(Match(label, path, 1.0)) for label, path in index.pick(EXAMPLES)]
        return json_response(
            {
                "model": model.name,
                "pictures": index.rows,
                "classes": len(index.classes),
                "images": bool(settings.image_root),
                "max_bytes": settings.max_picture_bytes,
                "max_matches": MAX_MATCHES,
                "examples": [{key: example[key] for key in example if key != "similarity"} for example in examples],
            }
        )

    async def preview(request: Request) -> Response:
        model.check_loaded()
        call: Call = request.state.call
        body = await read_body(request, settings.max_body_bytes)
        query = await read_request(request.headers, request.query_params, body)
        del body
        data = await run_for_caller(request, _preview(query, model, pool, limits, call))
        return picture_response(data, {"cache-control": "no-store"})

    router.add_api_route("/page/about.json", about, methods=["GET"])
    router.add_api_route("/page/preview", preview, methods=["POST"])
    return router


async def _preview(query: Query, model: TransformerModel, pool: DecodePool, limits: PictureLimits, call: Call) -> bytes:
    """The picture of a request as the page shows it: from another host, or of a kind that browsers do not know."""
    data: Any = query.picture
    if isinstance(data, str):
        with model.slot.use() as loaded:
            data = await loaded.pipeline.fetch(data, call)
    if len(data) > limits.max_bytes:
        raise TooLarge(f"the picture has more than {limits.max_bytes} bytes")
    return await pool.decode(lambda room: make_thumbnail(data, PREVIEW_SIZE, limits.max_pixels, room), call.deadline)
