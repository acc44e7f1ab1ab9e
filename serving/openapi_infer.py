"""V2 infer in the OpenAPI document: the tensors of a request, in JSON and with the binary extension."""

from serving.openapi import PARAMETER, Json, json_content, operation, schema

_BINARY = (
    "With the binary extension, the body is the JSON followed by the bytes of the tensors whose `parameters` have a "
    "`binary_data_size` in place of `data`; the header says how long the JSON is."
)


def infer_operation(description: str, request: Json, *errors: int) -> Json:
    """V2 infer, in JSON and with the binary extension; `request` is the JSON body."""
    content = {**request["content"], "application/octet-stream": {"schema": {"format": "binary"}}}
    length = {"name": "Inference-Header-Content-Length", "schema": {"type": "integer", "minimum": 0}}
    answer = json_content(schema("InferResponse"))
    answer["content"]["application/octet-stream"] = {"schema": {"format": "binary"}}
    answer["headers"] = {length["name"]: {"description": "With binary outputs only.", "schema": length["schema"]}}
    return operation(
        "V2",
        "Infer",
        answer,
        *errors,
        description=f"{description}\n\n{_BINARY}",
        parameters=[{**length, "in": "header", "required": False}],
        requestBody={"required": True, "content": content},
    )


def request_schema(tensors: list[Json], outputs: list[str], parameters: Json) -> Json:
    """A V2 request with one of `tensors`, any of `outputs` and these parameters."""
    output = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"enum": outputs}, "parameters": _flags("binary_data")},
    }
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"oneOf": tensors}},
            "outputs": {"type": ["array", "null"], "items": output, "description": "Those wanted; without, all."},
            "parameters": {**_flags("binary_data_output", **parameters)},
        },
    }


def input_schema(name: str, datatype: str, shape: Json, data: Json) -> Json:
    """An input tensor, with its data in JSON or behind it."""
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": name},
            "datatype": {"const": datatype},
            "shape": {"type": "array", **shape},
            "data": {"type": "array", **data},
            "parameters": {
                "type": ["object", "null"],
                "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
                "additionalProperties": PARAMETER,
            },
        },
        "oneOf": [
            {"required": ["data"]},
            {"required": ["parameters"], "properties": {"parameters": {"required": ["binary_data_size"]}}},
        ],
    }


def _flags(*names: str, **more: Json) -> Json:
    properties = {**{name: {"type": "boolean"} for name in names}, **more}
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": PARAMETER}
