"""LitServe: batches and workers as its guides to batching and to workers show."""

import os
from concurrent.futures import ThreadPoolExecutor

import litserve as ls
from job import Job
from swept import BATCH, WAIT, WORKERS


class Doggos(ls.LitAPI):
    def setup(self, device):
        self.job = Job()
        self.threads = ThreadPoolExecutor(8)

    def decode_request(self, request):
        return request

    def batch(self, requests):
        return requests

    def predict(self, requests):
        """Batched by LitServe; pictures are fetched side by side, or they would be fetched one after the other."""
        rows = list(self.threads.map(lambda r: self.job.preprocess(self.job.fetch(r["url"])), requests))
        embeddings, probabilities = self.job.predict(rows)
        answers = zip(embeddings, probabilities, requests, strict=True)
        return [self.job.answer(e, p, r.get("k", 4), r.get("n", 5)) for e, p, r in answers]

    def unbatch(self, answers):
        return answers

    def encode_response(self, answer):
        return answer


if __name__ == "__main__":
    api = Doggos(max_batch_size=BATCH, batch_timeout=WAIT, api_path="/predict/")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, timeout=60)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
