"""Plain FastAPI and Hugging Face: a function for the route, which FastAPI runs in its threads; no batching."""

import os
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from swept import WORKERS


@asynccontextmanager
async def load(app: FastAPI):
    from job import Job  # not where uvicorn only starts its workers

    app.state.job = Job()
    yield


app = FastAPI(lifespan=load)


class Query(BaseModel):
    url: str
    k: int = 4
    n: int = 5


@app.post("/predict/")
def predict(query: Query):
    job = app.state.job
    embeddings, probabilities = job.predict([job.preprocess(job.fetch(query.url))])
    return job.answer(embeddings[0], probabilities[0], query.k, query.n)


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_app:app",
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        workers=WORKERS,
        timeout_worker_healthcheck=60,  # one that still loads torch would be replaced after 5 seconds
    )
