"""The Ray Serve tutorial's application as it is written: Ray Data pipelines in every request, the picture twice."""

import io
import os
import time
from pathlib import Path

import numpy as np
import ray
import requests
from fastapi import FastAPI
from job import TorchModel
from PIL import Image
from ray import serve
from starlette.requests import Request

FOLDER = Path(os.environ["MODEL_DIR"])
CPUS = {"num_cpus": 0}  # the tutorial's one CPU for each of three deployments leaves none of two for Ray Data

api = FastAPI(title="doggos")


def url_to_array(url):
    return np.array(Image.open(io.BytesIO(requests.get(url, timeout=10).content)).convert("RGB"))


class EmbeddingGenerator:
    def __init__(self):
        self.model = TorchModel(FOLDER)

    def __call__(self, batch):
        import torch

        rows = [self.model.preprocess(Image.fromarray(np.uint8(image))) for image in batch["image"]]
        with torch.inference_mode():
            embeddings = self.model.clip.get_image_features(pixel_values=torch.stack(rows)).pooler_output
        batch["embedding"] = embeddings.numpy()
        return batch


@serve.deployment(num_replicas=1, ray_actor_options=CPUS)
class ClassPredictor:
    def __init__(self):
        import json

        self.head = TorchModel(FOLDER).head
        labels = json.loads((FOLDER / "head/class_to_label.json").read_text())
        self.classes = sorted(labels, key=labels.get)

    def _predict(self, batch, device):
        import torch

        with torch.inference_mode():
            rows = torch.softmax(self.head(torch.tensor(np.stack(batch["embedding"]))), dim=1).numpy()
        return {"probabilities": [dict(zip(self.classes, map(float, row), strict=True)) for row in rows]}

    def get_probabilities(self, url):
        ds = ray.data.from_items([{"image": url_to_array(url=url), "url": url}])
        ds = ds.map_batches(EmbeddingGenerator, concurrency=1, batch_size=1)
        ds = ds.drop_columns(["image"])
        ds = ds.map_batches(self._predict, fn_kwargs={"device": "cpu"}, concurrency=1, batch_size=1)
        return ds.take_all()[0]["probabilities"]


@serve.deployment(num_replicas=1, ray_actor_options=CPUS)
class EmbeddingSimilarity:
    def __init__(self):
        self.embedding_generator = EmbeddingGenerator()
        self.embeddings_ds = ray.data.read_parquet(os.environ["INDEX_DIR"])

    def get_top_matches(self, url, probabilities, k, n):
        from scipy.spatial.distance import cdist

        best = [name for name, _ in sorted(probabilities.items(), key=lambda x: x[1], reverse=True)[:k]]
        embedding = self.embedding_generator({"image": [url_to_array(url=url)]})["embedding"][0]
        rows = [row for row in self.embeddings_ds.take_all() if row["class"] in best]
        scores = 1 - cdist([embedding], np.vstack([row["embedding"] for row in rows]), metric="cosine").flatten()
        top = np.argpartition(scores, -n)[-n:]
        top = top[np.argsort(scores[top])[::-1]]
        return [{"class": rows[i]["class"], "path": rows[i]["path"], "similarity": float(scores[i])} for i in top]


@serve.deployment(num_replicas=1, ray_actor_options=CPUS)
@serve.ingress(api)
class Doggos:
    def __init__(self, classifier, embedder):
        self.classifier, self.embedder = classifier, embedder

    @api.post("/predict/")
    async def predict(self, request: Request):
        data = await request.json()
        probabilities = await self.classifier.get_probabilities.remote(url=data["url"])
        matches = await self.embedder.get_top_matches.remote(
            url=data["url"], probabilities=probabilities, k=data["k"], n=data.get("n", 5)
        )
        return {"probabilities": probabilities, "top_matches": matches}


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"  # it would write a token below HOME
    env = {name: os.environ[name] for name in ("PYTHONPATH", "MODEL_DIR", "INDEX_DIR") if name in os.environ}
    ray.init(include_dashboard=False, runtime_env={"env_vars": env}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Doggos.bind(ClassPredictor.bind(), EmbeddingSimilarity.bind()), route_prefix="/")
    while True:
        time.sleep(60)
