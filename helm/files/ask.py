"""Asks a running service about one drawn picture: by /predict/, and by V2 over REST and gRPC."""

import base64
import io
import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as v2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as v2_service
from PIL import Image


def draw() -> bytes:
    """A picture of one colour, as JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (320, 240), (180, 120, 60)).save(file, "JPEG")
    return file.getvalue()


def post(url: str, content_type: str, body: bytes) -> Any:
    """The JSON that the service answers; an error ends the program with the service's sentence."""
    request = urllib.request.Request(url, body, {"content-type": content_type})
    for left in reversed(range(5)):  # a cluster may take a moment to know a new Service's name, or a new predictor
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if left and error.code == 503:
                error.close()
                time.sleep(3)
                continue
            sys.exit(f"{url}: {error.code} {error.read().decode(errors='replace')}")
        except OSError as error:
            if not left:
                sys.exit(f"{url}: {error}")
        time.sleep(3)


def main(host: str, model: str) -> None:
    """Every protocol gives the same classes, and at least one similar picture."""
    picture = draw()
    answer = post(f"http://{host}/predict/?k=2&n=3", "image/jpeg", picture)
    best = max(answer["probabilities"], key=answer["probabilities"].get)
    print(f"POST /predict/: {best} {answer['probabilities'][best]:.3f}, {len(answer['top_matches'])} similar pictures")
    assert answer["top_matches"], "no similar picture"

    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(picture).decode()]}
    body = json.dumps({"inputs": [tensor], "parameters": {"k": 2, "n": 3}}).encode()
    outputs = post(f"http://{host}/v2/models/{model}/infer", "application/json", body)["outputs"]
    classes = next(output["data"] for output in outputs if output["name"] == "classes")
    print(f"POST /v2/models/{model}/infer: {len(classes)} classes")
    assert sorted(classes) == sorted(answer["probabilities"]), "V2 and /predict/ know different classes"

    request = v2.ModelInferRequest(model_name=model)
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(picture)
    with grpc.insecure_channel(f"{host}:8081") as channel:
        reply = v2_service.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=15, wait_for_ready=True)
    names = [output.name for output in reply.outputs]
    print(f"ModelInfer: {', '.join(names)}")
    assert "match_path" in names, "no matches over gRPC"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
