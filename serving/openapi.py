"""The OpenAPI document, and the parts of it that both servers have."""

from collections.abc import Mapping
from importlib.metadata import version as version_of
from typing import Any

from serving.v2 import DTYPES

Json = dict[str, Any]

VERSION = "0.1.0"

REASONS = {
    400: "The request is malformed, a tensor is unknown, missing or of a wrong shape or type, or a picture unreadable.",
    401: "The repository's token is missing or wrong.",
    403: "Not allowed: the address of a picture, or a model repository without a token.",
    408: "The body did not arrive in the request's time.",
    409: "The model is being loaded already.",
    413: "The body or a picture is too large, in bytes or pixels.",
    415: "The request's own content type is not served.",
    422: "A well-formed value is out of range.",
    424: "A picture's host failed or was too slow, or artefacts could not be loaded.",
    429: "A queue is full.",
    500: "The engine failed.",
    503: "A part that is needed is not ready or cannot be reached.",
    504: "The request's time was spent before it was answered.",
}
_HEADERS: Mapping[int, Json] = {
    401: {"WWW-Authenticate": {"schema": {"const": "Bearer"}}},
    **{code: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}} for code in (409, 429, 503)},
}


def build_document(title: str, description: str, paths: Json, schemas: Json, model: str) -> Json:
    """A whole document: `paths` and the routes of health, metadata and repository of `model`."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": VERSION, "license": {"name": "Apache-2.0"}},
        "paths": {**paths, **_health_paths(model), **_metadata_paths(model), **_repository_paths(model)},
        "components": {
            "schemas": {**_SCHEMAS, **schemas},
            "responses": {f"Error{code}": _error(code) for code in REASONS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "--repository_token"}},
        },
    }


def operation(tag: str, summary: str, answer: Json, *errors: int, **fields: Any) -> Json:
    """One operation that answers 200 with `answer`, or one of `errors`."""
    responses = {"200": {"description": "OK", **answer}}
    responses |= {str(code): {"$ref": f"#/components/responses/Error{code}"} for code in errors}
    return {"tags": [tag], "summary": summary, "responses": responses, **fields}


def json_content(schema: Json, **examples: Any) -> Json:
    """`schema` as JSON, with examples by name."""
    named = {name: {"value": value} for name, value in examples.items()}
    return {"content": {"application/json": {"schema": schema, **({"examples": named} if named else {})}}}


def schema(name: str) -> Json:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _error(code: int) -> Json:
    headers = {"headers": _HEADERS[code]} if code in _HEADERS else {}
    return {"description": REASONS[code], **headers, **json_content(schema("Error"))}


def _health_paths(model: str) -> Json:
    ready = {"type": "object", "required": ["ready"], "properties": {"ready": {"const": True}}}
    routes = {
        "/": ("The process runs", _object(status={"const": "alive"}), ()),
        "/v2/health/live": ("The process runs", _object(live={"const": True}), ()),
        "/v2/health/ready": ("Loaded, warm, and not stopping", ready, (503,)),
        f"/v2/models/{model}/ready": ("The same of the model", ready, (503,)),
        f"/v1/models/{model}": ("The same, V1", ready, (503,)),
    }
    return {
        path: {"get": operation("Health", summary, json_content(answer), *errors)}
        for path, (summary, answer, errors) in routes.items()
    }


def _metadata_paths(model: str) -> Json:
    models = json_content(_object(models={"type": "array", "items": {"const": model}}))
    return {
        "/v2": {"get": operation("Metadata", "The server and its protocol extensions", json_content(schema("Server")))},
        "/v2/models": {"get": operation("Metadata", "The models", models)},
        "/v1/models": {"get": operation("Metadata", "The models, V1", models)},
        f"/v2/models/{model}": {
            "get": operation(
                "Metadata", "Names, types and shapes of the tensors", json_content(schema("ModelMetadata")), 503
            )
        },
    }


def _repository_paths(model: str) -> Json:
    name = {"const": model}
    entry = _object(
        name=name, version={"type": "string"}, state={"enum": ["READY", "UNAVAILABLE"]}, reason={"type": "string"}
    )
    actions = {
        "index": ("The models and their states", {"type": "array", "items": entry}, ()),
        f"models/{model}/load": (
            "Load the artefacts again, beside those that serve, and swap",
            _object(name=name, load={"const": True}),
            (409, 424, 503),
        ),
        f"models/{model}/unload": (
            "Answer 503 from now on, until the model is loaded again",
            _object(name=name, unload={"const": True}),
            (409, 503),
        ),
    }
    return {
        f"/v2/repository/{action}": {
            "post": operation("Repository", summary, json_content(answer), 401, 403, *errors, security=[{"token": []}])
        }
        for action, (summary, answer, errors) in actions.items()
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


PARAMETER: Json = {"type": ["string", "number", "boolean"]}
_SHAPE: Json = {"type": "array", "items": {"type": "integer"}}
_DATATYPE: Json = {"enum": list(DTYPES)}
_TENSORS: Json = {"type": "array", "items": _object(name={"type": "string"}, datatype=_DATATYPE, shape=_SHAPE)}
_OUTPUT: Json = _object(name={"type": "string"}, datatype=_DATATYPE, shape=_SHAPE)
_OUTPUT["properties"] |= {
    "data": {"type": "array", "items": PARAMETER, "description": "Row by row."},
    "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
}
_SCHEMAS: Json = {
    "Error": {**_object(error={"type": "string", "minLength": 1}), "additionalProperties": False},
    "Server": _object(
        name={"const": "kserve"},
        version={"const": version_of("kserve")},
        extensions={"type": "array", "items": {"type": "string"}},
    ),
    "ModelMetadata": _object(name={"type": "string"}, platform={"type": "string"}, inputs=_TENSORS, outputs=_TENSORS),
    "InferResponse": _object(model_name={"type": "string"}, outputs={"type": "array", "items": _OUTPUT}),
}
_SCHEMAS["InferResponse"]["properties"] |= {
    "id": {"type": "string"},
    "parameters": {"type": "object", "additionalProperties": {"type": "string"}},
}
