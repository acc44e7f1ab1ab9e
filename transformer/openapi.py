"""What the transformer serves, as an OpenAPI document."""

from typing import Any

from serving.openapi import Json, build_document, json_content, operation, schema
from serving.openapi_infer import infer_operation, input_schema, request_schema
from transformer.answer import Query
from transformer.server import MAX_MATCHES, OUTPUTS

# A picture of 8 x 8 pixels, so that every example works without a picture server.
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mM8wYAdMDEMKQkAooAA2HHQTx0AAAAASUVORK5CYII="
URL = f"data:image/png;base64,{PICTURE}"

_ERRORS = (400, 403, 408, 413, 415, 422, 424, 429, 503, 504)
_K: Json = {
    "type": "integer",
    "minimum": 1,
    "maximum": 2**64 - 1,
    "default": Query.k,
    "description": "How many of the most probable classes to search in; above their number it means all.",
}
_N: Json = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_MATCHES,
    "default": Query.n,
    "description": "How many similar pictures to return.",
}
_URL: Json = {"type": "string", "format": "uri", "description": "http, https or data; only public addresses."}
_DESCRIPTION = """\
Which breed is on a picture, and which pictures of the index look like it.

The same model answers on `/predict/`, V1, V2 and, on its own port, V2 over gRPC. Errors are
`{"error": "<one sentence>"}` everywhere."""


def describe_transformer(model: str, max_pictures: int, with_url: bool) -> Json:
    """The document; `with_url` says whether matches have the URL of their picture."""
    paths = {
        "/predict/": {"post": _predict()},
        f"/v1/models/{model}:predict": {"post": _predict_v1(max_pictures)},
        f"/v2/models/{model}/infer": {"post": _infer(max_pictures)},
    }
    return build_document("Doggos: transformer", _DESCRIPTION, paths, _schemas(with_url), model)


def _predict() -> Json:
    form = {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}, "url": _URL, "k": _K, "n": _N},
        "anyOf": [{"required": ["file"]}, {"required": ["url"]}],
    }
    content: Json = json_content(schema("Query"), url={"url": URL, "k": 2, "n": 3}, defaults={"url": URL})["content"]
    content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    content["multipart/form-data"] = {"schema": form}
    return operation(
        "Predict",
        "Classify one picture and find similar ones",
        json_content(schema("Prediction")),
        *_ERRORS,
        description="The picture is named by a URL, or is the body itself, or a file in a form. "
        "`k` and `n` are in the body or in the query, not in both.",
        parameters=[{"name": name, "in": "query", "schema": limits} for name, limits in (("k", _K), ("n", _N))],
        requestBody={"required": True, "content": content},
    )


def _predict_v1(max_pictures: int) -> Json:
    instances = {"type": "array", "minItems": 1, "maxItems": max_pictures, "items": schema("Query")}
    body = {"type": "object", "required": ["instances"], "properties": {"instances": instances}}
    answer = {"type": "array", "items": schema("Prediction")}
    return operation(
        "V1",
        "Predict",
        json_content({"type": "object", "required": ["predictions"], "properties": {"predictions": answer}}),
        *_ERRORS,
        requestBody={
            "required": True,
            **json_content(body, two={"instances": [{"url": URL, "k": 1, "n": 2}, {"url": URL}]}),
        },
    )


def _infer(max_pictures: int) -> Json:
    count = {"minItems": 1, "maxItems": 1, "items": {"type": "integer", "minimum": 1, "maximum": max_pictures}}
    data = {"minItems": 1, "maxItems": max_pictures, "items": {"type": "string"}}
    tensors = [
        input_schema("url", "BYTES", count, {**data, "items": _URL}),
        input_schema("image", "BYTES", count, {**data, "items": {"type": "string", "contentEncoding": "base64"}}),
    ]
    parameters = {"k": _K, "n": _N, "partial": {"type": "boolean", "default": False}}
    request = json_content(
        request_schema(tensors, list(OUTPUTS), parameters),
        url=_request("url", URL, parameters={"k": 2, "n": 3}),
        image=_request("image", PICTURE),
        partial=_request(
            "url", URL, "http://10.0.0.1/", parameters={"partial": True}, outputs=["match_path", "match_count", "error"]
        ),
    )
    return infer_operation(
        "One bad picture fails the request and is named by its position; with the parameter `partial` the others are "
        "answered and the output `error` says what was wrong.",
        request,
        *_ERRORS,
    )


def _request(tensor: str, *data: str, outputs: list[str] | None = None, **fields: Any) -> Json:
    inputs = [{"name": tensor, "datatype": "BYTES", "shape": [len(data)], "data": list(data)}]
    wanted = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    return {"inputs": inputs, **wanted, **fields}


def _schemas(with_url: bool) -> Json:
    match: Json = {
        "class": {"type": "string"},
        "path": {"type": "string", "description": "Relative to the embedded folder."},
        "similarity": {"type": "number", "minimum": -1.01, "maximum": 1.01, "description": "Cosine."},
        **({"url": {"type": "string"}} if with_url else {}),
    }
    return {
        "Query": {
            "type": "object",
            "required": ["url"],
            "properties": {"url": _URL, "k": _K, "n": _N},
            "additionalProperties": False,
        },
        "Match": {"type": "object", "required": list(match), "properties": match, "additionalProperties": False},
        "Prediction": {
            "type": "object",
            "required": ["probabilities", "top_matches"],
            "properties": {
                "probabilities": {
                    "type": "object",
                    "description": "Of every class, in label order.",
                    "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1.001},
                },
                "top_matches": {"type": "array", "maxItems": MAX_MATCHES, "items": schema("Match")},
            },
            "additionalProperties": False,
        },
    }
