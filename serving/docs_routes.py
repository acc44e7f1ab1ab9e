"""`/openapi.json`, and `/docs`, which shows it with script files of our own host."""

from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

from serving.openapi import Json
from serving.responses import json_response

# fastapi-swagger brings the files of Swagger UI; its own page has a script inside, which the policy below forbids.
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Doggos API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# Relative, so that it also works below a prefix of a gateway.
_START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", tryItOutEnabled: true, validatorUrl: null});
"""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
}


def docs_routes(document: Json) -> APIRouter:
    """The routes that show `document`."""
    router = APIRouter()
    files = {name: (_read_asset(name), kind) for name, kind in _ASSETS.items()}
    files["start.js"] = (_START.encode(), "text/javascript")

    async def openapi() -> Response:
        return json_response(document)

    async def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers=_HEADERS)

    router.add_api_route("/openapi.json", openapi, methods=["GET"])
    router.add_api_route("/docs", page, methods=["GET"])
    for name, (content, kind) in files.items():
        router.add_api_route(f"/docs/{name}", _answer_file(content, kind), methods=["GET"])
    return router


def _read_asset(name: str) -> bytes:
    return resources.files("fastapi_swagger.resources").joinpath(name).read_bytes()


def _answer_file(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(content, media_type=kind, headers={**_HEADERS, "cache-control": "max-age=3600"})

    return answer
