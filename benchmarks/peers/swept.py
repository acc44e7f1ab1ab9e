"""The settings that `python -m benchmarks.sweep` tries for a system, from the environment variable SETTINGS (JSON)."""

import json
import os

SETTINGS = json.loads(os.environ.get("SETTINGS", "{}"))
BATCH = SETTINGS.get("batch", 8)  # most pictures
WAIT = SETTINGS.get("wait", 0.01)  # seconds that a batch is gathered
WORKERS = SETTINGS.get("workers", 1)  # processes with a model
THREADS = SETTINGS.get("threads", 0)  # of the model in each; 0 leaves the library's own choice
