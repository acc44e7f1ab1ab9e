"""Answers over HTTP: JSON by orjson, and errors of one form."""

from typing import Any

import orjson
from starlette.responses import Response

from serving.errors import ServiceError


def json_response(content: Any, status: int = 200) -> Response:
    """A JSON answer."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, media_type="application/json")


def error_response(status: int, sentence: str, retry_after: int | None = None) -> Response:
    """`{"error": sentence}`."""
    response = json_response({"error": sentence}, status)
    if retry_after is not None:
        response.headers["retry-after"] = str(retry_after)
    return response


def service_error_response(error: ServiceError) -> Response:
    """The answer to a ServiceError."""
    response = error_response(error.status, error.sentence, error.retry_after)
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response
