"""What a user of tritonclient does, as a program of its own: it cannot be imported together with kserve.

`python -m tests.triton_caller http|grpc HOST:PORT URL FILE...` prints what came back as JSON.
"""

import base64
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(protocol: str, address: str, url: str, *files: str) -> None:
    """Ask everything once."""
    library: Any = importlib.import_module(f"tritonclient.{protocol}")
    client = library.InferenceServerClient(address)
    pictures = [Path(file).read_bytes() for file in files]
    caller = Caller(library, client)
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("doggos"),
        "other": caller.failure(lambda: client.get_model_metadata("cats")),
        "server": as_json(client.get_server_metadata()),
        "model": as_json(client.get_model_metadata("doggos")),
        "url": caller.ask("url", [url.encode()]),
        "images": caller.ask("image", pictures),
        "chosen": caller.ask("image", pictures, ["match_path", "match_count"], k=1, n=2),
        "partial": caller.ask("url", [url.encode(), b"http://10.0.0.1/"], ["match_count", "error"], partial=True),
        "refused": caller.refusal(b"http://10.0.0.1/"),
        "version": caller.refusal(url.encode(), model_version="3"),
        "unload": caller.failure(lambda: client.unload_model("doggos")),
    }
    if protocol == "http":  # only there data can be JSON
        encoded = [base64.b64encode(picture) for picture in pictures]
        found["json"] = caller.ask("image", encoded, binary=False)
        found["json_in_binary_out"] = caller.ask("image", encoded, ["embedding"], binary=False, binary_out=True)
        found["binary_in_json_out"] = caller.ask("image", pictures, ["embedding"], binary_out=False)
    json.dump(found, sys.stdout)


class Caller:
    """Infers with one client."""

    def __init__(self, library: Any, client: Any) -> None:
        self._library, self._client = library, client

    def ask(
        self, name: str, values: list[bytes], outputs: list[str] | None = None,
        binary: bool = True, binary_out: bool = True, **parameters: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """The outputs by name, as lists."""
        is_http = self._library.__name__.endswith("http")
        tensor = self._library.InferInput(name, [len(values)], "BYTES")
        tensor.set_data_from_numpy(np.array(values, object), **({"binary_data": binary} if is_http else {}))
        wanted = outputs and [
            self._library.InferRequestedOutput(output, **({"binary_data": binary_out} if is_http else {}))
            for output in outputs
        ]
        answer = self._client.infer("doggos", [tensor], outputs=wanted, parameters=parameters or None, request_id="7")
        described = as_json(answer.get_response())
        assert described["id"] == "7"
        return {output["name"]: as_list(answer.as_numpy(output["name"])) for output in described["outputs"]}

    def refusal(self, url: bytes, **arguments: Any) -> str:
        """What the error says."""
        tensor = self._library.InferInput("url", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([url], object))
        return self.failure(lambda: self._client.infer("doggos", [tensor], **arguments))

    def failure(self, call: Any) -> str:
        """The status and sentence that `call` fails with."""
        try:
            call()
        except self._library.InferenceServerException as error:
            return str(error)
        return ""


def as_json(answer: Any) -> Any:
    """A message or a dictionary as a dictionary."""
    if isinstance(answer, dict):
        return answer
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(answer, preserving_proto_field_name=True)


def as_list(array: Any) -> Any:
    """An array with text in place of bytes."""
    return np.vectorize(bytes.decode, otypes=[object])(array).tolist() if array.dtype == object else array.tolist()


if __name__ == "__main__":
    main(*sys.argv[1:])
