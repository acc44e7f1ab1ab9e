"""BentoML: a service with a batchable method behind the one that callers see, as its guide to batching shows."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
from swept import BATCH, WORKERS


@bentoml.service(workers=WORKERS)
class Model:
    def __init__(self):
        from job import Job

        self.job, self.threads = Job(), ThreadPoolExecutor(8)

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def answer(self, queries: list[dict]) -> list[dict]:
        rows = list(self.threads.map(lambda q: self.job.preprocess(self.job.fetch(q["url"])), queries))
        embeddings, probabilities = self.job.predict(rows)
        answers = zip(embeddings, probabilities, queries, strict=True)
        return [self.job.answer(e, p, q["k"], q["n"]) for e, p, q in answers]


@bentoml.service(workers=1, traffic={"timeout": 60})
class Doggos:
    model = bentoml.depends(Model)

    @bentoml.api(route="/predict/")
    async def predict(self, url: str, k: int = 4, n: int = 5) -> dict:
        answers = await self.model.to_async.answer([{"url": url, "k": k, "n": n}])
        return answers[0]


if __name__ == "__main__":
    command = ["serve", "bentoml_app:Doggos", "--host", "127.0.0.1", "--port", os.environ["PORT"]]
    os.chdir(Path(__file__).resolve().parent)
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command])
