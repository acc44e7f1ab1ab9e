"""What model and index a release serves, read from its manifest."""

from typing import Any

import yaml

MODEL_FLAGS = ("--model_dir=", "--clip=", "--mlflow_")
INDEX_FLAGS = ("--index_dir=",)


def find_changed(before: str, after: str) -> list[str]:
    """Which of model and index differ between two manifests of a release."""
    old, new = read_artefacts(before), read_artefacts(after)
    return [name for name in new if old.get(name) != new[name]]


def read_artefacts(manifest: str) -> dict[str, object]:
    """Where the model, the head and the index come from; {} when the manifest has no InferenceService."""
    for document in yaml.safe_load_all(manifest):
        if document and document["kind"] == "InferenceService":
            spec = document["spec"]
            return {"model": _read_model(spec["predictor"]["model"]), "index": _read_index(spec["transformer"])}
    return {}


def _read_model(model: dict[str, Any]) -> object:
    return model["storageUri"], _flags(model, MODEL_FLAGS)


def _read_index(transformer: dict[str, Any]) -> object:
    container = transformer["containers"][0]
    claims = [volume for volume in transformer.get("volumes", ()) if volume["name"] == "index"]
    mounts = [mount for mount in container.get("volumeMounts", ()) if mount["name"] == "index"]
    return transformer.get("storageUris"), claims, mounts, _flags(container, INDEX_FLAGS)


def _flags(container: dict[str, Any], prefixes: tuple[str, ...]) -> list[str]:
    return [argument for argument in container.get("args", ()) if argument.startswith(prefixes)]
