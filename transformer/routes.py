"""`POST /predict/`, the Ray application's route, and V1 `:predict`: the tutorial's JSON out."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.exceptions import HTTPException
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from serving.body import read_body, run_for_caller
from serving.errors import InvalidRequest, OutOfRange, UnsupportedContentType
from serving.model import check_name
from serving.responses import json_response
from serving.rest_codec import parse_json
from transformer.answer import Answer, Picture, Query
from transformer.search import Match
from transformer.server import PREDICT_PATHS, TransformerModel, read_k_n

# The Ray application reads any body as JSON; curl -d and requests without a type are served here too.
_JSON_TYPES = ("", "application/json", "text/json", "text/plain", "application/x-www-form-urlencoded")

_WHOLE = re.compile(r"-?[0-9]{1,12}")

Describe = Callable[[Match], dict[str, Any]]


def predict_routes(model: TransformerModel, max_body: int, max_pictures: int, url_template: str) -> APIRouter:
    """The routes for `model`."""
    router = APIRouter()
    describe = match_describer(url_template)

    async def predict(request: Request) -> Response:
        model.check_loaded()
        body = await read_body(request, max_body)
        model.check_room()
        query = await read_request(request.headers, request.query_params, body)
        del body
        answer = await run_for_caller(request, model.answer([query], request.state.call))
        return json_response(_contents(answer, describe)[0])

    async def predict_v1(model_name: str, request: Request) -> Response:
        check_name(model, model_name)
        model.check_loaded()
        body = await read_body(request, max_body)
        model.check_room()
        queries = read_instances(parse_json(body), max_pictures)
        del body
        answer = await run_for_caller(request, model.answer(queries, request.state.call))
        return json_response({"predictions": _contents(answer, describe)})

    async def refuse_get(model_name: str) -> None:  # which KServe's route of a model's state would take otherwise
        raise HTTPException(405, headers={"Allow": "POST"})

    for path in PREDICT_PATHS:
        router.add_api_route(path, predict, methods=["POST"])
    router.add_api_route("/v1/models/{model_name}:predict", predict_v1, methods=["POST"])
    router.add_api_route("/v1/models/{model_name}:predict", refuse_get, methods=["GET"])
    return router


async def read_request(headers: Headers, parameters: Mapping[str, str], body: bytes) -> Query:
    """The picture or its URL from any of the three forms, with k and n from the body or the query."""
    content_type = headers.get("content-type", "").split(";")[0].strip().lower()
    given = _numbers(parameters)
    if content_type.startswith("image/"):
        return Query(body, *read_k_n(given))
    if content_type == "multipart/form-data":
        form = await _parse_form(headers, body)
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return Query(await _form_picture(form), *read_k_n(_merge(_numbers(fields), given)))
    if content_type in _JSON_TYPES or content_type.endswith("+json"):
        return _read_url_query(_merge(parse_json(body), given))
    raise UnsupportedContentType("send JSON with a url, a picture as image/*, or a form as multipart/form-data")


def _merge(body: Mapping[str, Any], query: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in query:
        if name in body:
            raise InvalidRequest(f"{name} is in the query and in the body; leave one out")
    return {**body, **query}


def _read_url_query(document: Mapping[str, Any]) -> Query:
    unknown = [name for name in document if name not in ("url", "k", "n")]
    if unknown:
        raise InvalidRequest(f"unknown field {unknown[0][:200]!r}; use url, k and n")
    if not isinstance(document.get("url"), str):
        raise InvalidRequest("url is missing or not a string")
    return Query(document["url"], *read_k_n(document))


def read_instances(document: Mapping[str, Any], max_pictures: int) -> list[Query]:
    """The queries of a V1 body, `{"instances": [{"url", "k", "n"}, ...]}`."""
    instances = document.get("instances")
    if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
        raise InvalidRequest("instances must be a list of objects with a url")
    if not 1 <= len(instances) <= max_pictures:
        raise OutOfRange(f"a request takes 1 to {max_pictures} pictures, not {len(instances)}")
    return [_read_url_query(instance) for instance in instances]


async def _parse_form(headers: Headers, body: bytes) -> FormData:
    class InMemoryParser(MultiPartParser):
        spool_max_size = len(body) + 1  # nothing is written to disk: the root file system is read-only

    async def stream() -> Any:
        yield body

    try:
        return await InMemoryParser(headers, stream(), max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError, ValueError, AssertionError):
        raise InvalidRequest("the form is malformed: send one file, and k and n as fields or in the query") from None


async def _form_picture(form: FormData) -> Picture:
    for value in form.values():
        if isinstance(value, UploadFile):
            return await value.read()
    url = form.get("url")
    if isinstance(url, str):
        return url
    raise InvalidRequest("the form has neither a file nor a url")


def _numbers(fields: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in ("k", "n"):
        if name in fields:
            text = fields[name].strip()
            values[name] = int(text) if _WHOLE.fullmatch(text) else text
    return values


def match_describer(url_template: str) -> Describe:
    """How a match is shown: the tutorial's three keys, and `url` with a template."""

    def describe(match: Match) -> dict[str, Any]:
        return {"class": match.label, "path": match.path, "similarity": match.similarity}

    def describe_with_url(match: Match) -> dict[str, Any]:
        return {**describe(match), "url": url_template.replace("{path}", quote(match.path))}

    return describe_with_url if url_template else describe


def _contents(answer: Answer, describe: Describe) -> list[dict[str, Any]]:
    return [
        {
            "probabilities": dict(zip(answer.classes, probabilities.tolist(), strict=True)),
            "top_matches": [describe(match) for match in matches],
        }
        for probabilities, matches in zip(answer.probabilities, answer.matches, strict=True)
    ]
