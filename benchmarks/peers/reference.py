"""`python benchmarks/peers/reference.py PICTURES...`: the answers of Hugging Face's processor and torch, as JSON."""

import json
import os
import sys
from pathlib import Path

from job import Job
from PIL import Image

if __name__ == "__main__":
    job, answers = Job(), {}
    for path in map(Path, sys.argv[1:]):
        embeddings, probabilities = job.predict([job.preprocess(Image.open(path).convert("RGB"))])
        answers[path.name] = job.answer(embeddings[0], probabilities[0], int(os.environ["K"]), int(os.environ["N"]))
    print(json.dumps(answers))
