"""MLServer: a custom runtime with its adaptive batching; the query travels as JSON in a V2 tensor."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from swept import BATCH, WAIT, WORKERS


class Doggos(MLModel):
    async def load(self) -> bool:
        from job import Job

        self.job, self.threads = Job(), ThreadPoolExecutor(8)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        queries = [json.loads(text) for text in StringCodec.decode_input(payload.inputs[0])]
        rows = list(self.threads.map(lambda q: self.job.preprocess(self.job.fetch(q["url"])), queries))
        embeddings, probabilities = self.job.predict(rows)
        answers = zip(embeddings, probabilities, queries, strict=True)
        texts = [json.dumps(self.job.answer(e, p, q["k"], q["n"])) for e, p, q in answers]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", texts)])


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    folder = Path(tempfile.mkdtemp())
    ports = {"http_port": int(os.environ["PORT"]), "grpc_port": 0, "metrics_port": 0}
    (folder / "settings.json").write_text(
        json.dumps(
            {"host": "127.0.0.1", "metrics_endpoint": None, "parallel_workers": WORKERS, "debug": False, **ports}
        )
    )
    model = {"name": "doggos", "implementation": "mlserver_app.Doggos", "max_batch_size": BATCH, "max_batch_time": WAIT}
    (folder / "model-settings.json").write_text(json.dumps(model))
    sys.exit(
        subprocess.call(
            [Path(sys.executable).with_name("mlserver"), "start", folder], env={**os.environ, "PYTHONPATH": str(here)}
        )
    )
