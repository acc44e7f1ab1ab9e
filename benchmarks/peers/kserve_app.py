"""KServe's own style, as its custom transformer sample: REST V1, a tensor as JSON from a transformer that has torch.

The sample has no batching: KServe's batcher is a sidecar of the cluster.
"""

import os
import socket
import subprocess
import sys

import numpy as np
import torch
from job import Job
from kserve import Model, ModelServer, context
from kserve.model import PredictorConfig, PredictorProtocol
from swept import WORKERS


class Predictor(Model):
    def __init__(self, name):
        super().__init__(name)
        self.job = Job(with_index=False)
        self.ready = True

    def predict(self, payload, headers=None):
        rows = [torch.tensor(instance) for instance in payload["instances"]]
        embeddings, probabilities = self.job.predict(rows)
        answers = zip(embeddings.tolist(), probabilities.tolist(), strict=True)
        return {"predictions": [{"embedding": e, "probabilities": p} for e, p in answers]}


class Transformer(Model):
    def __init__(self, name, predictor_host):
        super().__init__(name)
        context.set_predictor_config(PredictorConfig(predictor_host, PredictorProtocol.REST_V1.value))
        self.job = Job()
        self.job.model.clip = None  # it needs the processor only
        self.ready = True

    def preprocess(self, payload, headers=None):
        pictures = [self.job.preprocess(self.job.fetch(q["url"])) for q in payload["instances"]]
        return {"instances": [picture.tolist() for picture in pictures]}

    async def __call__(self, body, headers=None, verb=None):
        queries = body["instances"]
        answer = await self.predict(self.preprocess(body), headers)
        pairs = zip(answer["predictions"], queries, strict=True)
        predictions = [
            self.job.answer(np.array(row["embedding"]), np.array(row["probabilities"]), query["k"], query["n"])
            for row, query in pairs
        ]
        return {"predictions": predictions}, {}


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    port, role = int(os.environ["PORT"]), os.environ.get("ROLE")
    if role == "predictor":
        ModelServer(http_port=port, enable_grpc=False, workers=WORKERS).start([Predictor("doggos")])
    else:
        predictor_port = find_free_port()
        environ = {**os.environ, "ROLE": "predictor", "PORT": str(predictor_port)}
        child = subprocess.Popen([sys.executable, *sys.argv], env=environ)
        ModelServer(http_port=port, enable_grpc=False).start([Transformer("doggos", f"127.0.0.1:{predictor_port}")])
