"""BentoML: a service with a batchable method, as its guide to batching shows; callers send lists of one.

With a service of one picture in front, as the guide has it too, some calls between the two failed: its client wrote to
connections that the other was closing.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
from swept import BATCH, WORKERS


@bentoml.service(workers=WORKERS, traffic={"timeout": 60})
class Doggos:
    def __init__(self):
        from job import Job

        self.job, self.threads = Job(), ThreadPoolExecutor(8)

    @bentoml.api(route="/predict/", batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def answer(self, queries: list[dict]) -> list[dict]:
        rows = list(self.threads.map(lambda q: self.job.preprocess(self.job.fetch(q["url"])), queries))
        embeddings, probabilities = self.job.predict(rows)
        answers = zip(embeddings, probabilities, queries, strict=True)
        return [self.job.answer(e, p, q["k"], q["n"]) for e, p, q in answers]


if __name__ == "__main__":
    command = ["serve", "bentoml_app:Doggos", "--host", "127.0.0.1", "--port", os.environ["PORT"]]
    os.chdir(Path(__file__).resolve().parent)
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command])
