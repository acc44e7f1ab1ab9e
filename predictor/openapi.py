"""What the predictor serves, as an OpenAPI document."""

from typing import Any

import contract
from serving.openapi import Json, build_document, json_content
from serving.openapi_infer import infer_operation, input_schema, request_schema

_ERRORS = (400, 408, 413, 422, 429, 500, 503, 504)
_DESCRIPTION = """\
Probabilities and CLIP embeddings of pictures that are resized and cropped already, for the transformer.

Callers with a picture or a URL ask the transformer. Errors are `{"error": "<one sentence>"}` everywhere."""
_INFER = (
    "`pixels` is UINT8 [N, S, S, 3], RGB, not normalised; the metadata tell S. In JSON it is a list of N * S * S * 3 "
    "numbers, so the binary extension or gRPC are the ways to send it. A predictor without a head answers `embedding` "
    "only. The answer's parameters name the CLIP."
)


def describe_predictor(model: str, max_pictures: int) -> Json:
    """The document."""
    size: dict[str, Any] = {"type": "integer", "minimum": 1}
    pixels = input_schema(
        contract.PIXELS,
        "UINT8",
        {"prefixItems": [{**size, "maximum": max_pictures}, size, size, {"const": 3}], "minItems": 4, "maxItems": 4},
        {"items": {"type": "integer", "minimum": 0, "maximum": 255}},
    )
    outputs = [contract.PROBABILITIES, contract.EMBEDDING, contract.CLASSES]
    request = json_content(request_schema([pixels], outputs, {}))
    paths = {f"/v2/models/{model}/infer": {"post": infer_operation(_INFER, request, *_ERRORS)}}
    return build_document("Doggos: predictor", _DESCRIPTION, paths, {}, model)
