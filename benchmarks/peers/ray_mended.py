"""The Ray Serve tutorial's application with its faults mended: Parquet read once, one embedding, batching on.

Its structure is kept: an ingress deployment in front of one that classifies and one that finds similar pictures.
"""

import os
import time

import ray
from fastapi import FastAPI
from job import Job
from ray import serve
from starlette.requests import Request
from swept import BATCH, THREADS, WAIT, WORKERS

CPUS = {"num_cpus": 0}  # the tutorial's one CPU for each of three deployments does not fit on two

api = FastAPI(title="doggos")


@serve.deployment(num_replicas=WORKERS, ray_actor_options=CPUS, max_ongoing_requests=64)
class ClassPredictor:
    def __init__(self):
        import torch

        torch.set_num_threads(THREADS or len(os.sched_getaffinity(0)))  # Ray makes it one
        from concurrent.futures import ThreadPoolExecutor

        self.job, self.threads = Job(with_index=False), ThreadPoolExecutor(8)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
    async def get_probabilities(self, urls):
        rows = list(self.threads.map(lambda url: self.job.preprocess(self.job.fetch(url)), urls))
        embeddings, probabilities = self.job.predict(rows)
        return list(zip(embeddings, probabilities, strict=True))


@serve.deployment(num_replicas=1, ray_actor_options=CPUS, max_ongoing_requests=64)
class EmbeddingSimilarity:
    def __init__(self):
        self.job = Job(with_model=False)

    def get_top_matches(self, embedding, probabilities, k, n):
        return self.job.answer(embedding, probabilities, k, n)


@serve.deployment(num_replicas=1, ray_actor_options=CPUS, max_ongoing_requests=256)
@serve.ingress(api)
class Doggos:
    def __init__(self, classifier, embedder):
        self.classifier, self.embedder = classifier, embedder

    @api.post("/predict/")
    async def predict(self, request: Request):
        data = await request.json()
        embedding, probabilities = await self.classifier.get_probabilities.remote(data["url"])
        return await self.embedder.get_top_matches.remote(embedding, probabilities, data["k"], data.get("n", 5))


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"  # it would write a token below HOME
    env = {
        name: os.environ[name] for name in ("PYTHONPATH", "MODEL_DIR", "INDEX_DIR", "SETTINGS") if name in os.environ
    }
    ray.init(include_dashboard=False, runtime_env={"env_vars": env}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Doggos.bind(ClassPredictor.bind(), EmbeddingSimilarity.bind()), route_prefix="/")
    while True:
        time.sleep(60)
