"""What every peer does for a request, as one writes it with Hugging Face; its file says only how it is served.

Faults that would be the author's and not the framework's are left out: the index is read once and held as one
matrix, connections to the picture's host are kept, and the picture is embedded once.

Environment: MODEL_DIR, INDEX_DIR, and EXPORTED_DIR to compute with OpenVINO instead of torch.
"""

import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import requests
import torch
from PIL import Image
from swept import THREADS
from torch import nn
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


class Head(nn.Module):
    """The tutorial's classifier."""

    def __init__(self, embedding_dim, hidden_dim, dropout_p, num_classes):
        super().__init__()
        self.fc1 = nn.Linear(embedding_dim, hidden_dim)
        self.batch_norm = nn.BatchNorm1d(hidden_dim)
        self.dropout = nn.Dropout(dropout_p)
        self.fc2 = nn.Linear(hidden_dim, num_classes)

    def forward(self, embedding):
        return self.fc2(self.dropout(torch.relu(self.batch_norm(self.fc1(embedding)))))


class TorchModel:
    """CLIPModel and the head."""

    def __init__(self, folder):
        self.processor = CLIPImageProcessorPil.from_pretrained(folder / "clip")
        self.clip = CLIPModel.from_pretrained(folder / "clip").eval()
        self.head = Head(**json.loads((folder / "head/args.json").read_text()))
        self.head.load_state_dict(torch.load(folder / "head/model.pt", weights_only=True))
        self.head.eval()

    def preprocess(self, image):
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @torch.inference_mode()
    def predict(self, rows):
        embeddings = self.clip.get_image_features(pixel_values=torch.stack(list(rows))).pooler_output
        return embeddings.numpy(), torch.softmax(self.head(embeddings), dim=1).numpy()


class OpenVINOModel:
    """The network that `predictor.export` wrote, as our predictor runs it."""

    def __init__(self, folder, exported):
        import openvino

        precision = json.loads((exported / "export.json").read_text())["precision"]
        hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision], "PERFORMANCE_HINT": "LATENCY"}
        hints |= {"INFERENCE_NUM_THREADS": THREADS} if THREADS else {}
        core = openvino.Core()
        network = core.compile_model(core.read_model(exported / "onnx/model.onnx"), "CPU", hints)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder / "clip", do_rescale=False, do_normalize=False)
        self.request, self.turn = network.create_infer_request(), threading.Lock()

    def preprocess(self, image):
        pixels = self.processor(images=image, return_tensors="np")["pixel_values"][0]  # [3, S, S]
        return np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8)

    def predict(self, rows):
        with self.turn:
            outputs = self.request.infer({"pixels": np.stack(rows)})
            return outputs["embedding"], outputs["probabilities"]


class Job:
    """fetch -> preprocess -> predict -> answer."""

    def __init__(self, with_model=True, with_index=True):
        folder, exported = Path(os.environ["MODEL_DIR"]), os.environ.get("EXPORTED_DIR")
        if THREADS:
            torch.set_num_threads(THREADS)
        if with_model:
            self.model = OpenVINOModel(folder, Path(exported)) if exported else TorchModel(folder)
        labels = json.loads((folder / "head/class_to_label.json").read_text())
        self.classes = sorted(labels, key=labels.get)
        if with_index:
            table = pq.read_table(os.environ["INDEX_DIR"])
            self.paths, self.labels = table["path"].to_pylist(), np.array(table["class"].to_pylist())
            matrix = np.stack(table["embedding"].to_numpy())
            self.matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        self.session = requests.Session()

    def fetch(self, url):
        return Image.open(io.BytesIO(self.session.get(url, timeout=10).content)).convert("RGB")

    def preprocess(self, image):
        return self.model.preprocess(image)

    def predict(self, rows):
        return self.model.predict(rows)

    def answer(self, embedding, probabilities, k, n):
        best = np.argsort(-probabilities, kind="stable")[:k]
        rows = np.flatnonzero(np.isin(self.labels, [self.classes[i] for i in best]))
        scores = self.matrix[rows] @ (embedding / np.linalg.norm(embedding))
        order = np.argsort(-scores, kind="stable")[:n]
        matches = [
            {"class": str(self.labels[rows[i]]), "path": self.paths[rows[i]], "similarity": float(scores[i])}
            for i in order
        ]
        named = dict(zip(self.classes, (float(p) for p in probabilities), strict=True))
        return {"probabilities": named, "top_matches": matches}
