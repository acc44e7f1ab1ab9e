"""Somebody else's work: embeddings and a head by a script in the tutorial's manner, with none of this project's code.

`python -m tests.tutorial_training CLIP_DIR IMAGES_DIR` writes ./embeddings (by pandas) and ./mlflow/doggos (by MLflow,
to a relative `file:` URI).
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


class ClassificationModel(nn.Module):
    def __init__(self, embedding_dim: int, hidden_dim: int, dropout_p: float, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embedding_dim, hidden_dim)
        self.batch_norm = nn.BatchNorm1d(hidden_dim)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout_p)
        self.fc2 = nn.Linear(hidden_dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.fc2(self.dropout(self.relu(self.batch_norm(self.fc1(x)))))
        return z


def embed(clip_dir: Path, images: Path) -> "pd.DataFrame":
    processor, model = CLIPImageProcessorPil.from_pretrained(clip_dir), CLIPModel.from_pretrained(clip_dir).eval()
    files = sorted(images.glob("*/*.jpg"))[::2]
    vectors = []
    with torch.inference_mode():
        for first in range(0, len(files), 64):
            pictures = [np.array(Image.open(file).convert("RGB")) for file in files[first : first + 64]]
            inputs = processor(images=pictures, return_tensors="pt")
            vectors += list(model.get_image_features(**inputs).pooler_output.numpy())
    return pd.DataFrame(
        {
            "path": [f"s3://bucket/{file.relative_to(images).as_posix()}" for file in files],
            "class": [file.parent.name for file in files],
            "embedding": vectors,
            "width": 224,
        }
    )


def train(frame: "pd.DataFrame", epochs: int) -> None:
    """One run: the best weights by validation loss, logged as the tutorial does."""
    labels = {name: label for label, name in enumerate(sorted(frame["class"].unique(), reverse=True))}
    x = torch.tensor(np.stack(frame["embedding"]))
    y = torch.tensor(frame["class"].map(labels).to_numpy())
    held = torch.arange(len(x)) % 5 == 0
    args: dict[str, Any] = {"embedding_dim": x.shape[1], "hidden_dim": 64, "dropout_p": 0.3, "num_classes": len(labels)}
    model, best = ClassificationModel(**args), float("inf")
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), lr=1e-2), nn.CrossEntropyLoss()
    with mlflow.start_run(), tempfile.TemporaryDirectory() as folder:
        mlflow.log_params({"lr": 1e-2, "epochs": epochs})
        for epoch in range(epochs):
            model.train()
            for rows in torch.randperm(int((~held).sum())).split(64):
                optimizer.zero_grad()
                loss_fn(model(x[~held][rows]), y[~held][rows]).backward()
                optimizer.step()
            model.eval()
            with torch.inference_mode():
                val_loss = loss_fn(model(x[held]), y[held]).item()
            mlflow.log_metrics({"val_loss": val_loss}, step=epoch)
            if val_loss < best:
                best = val_loss
                torch.save(model.state_dict(), Path(folder, "model.pt"))
        Path(folder, "args.json").write_text(json.dumps(args))
        Path(folder, "class_to_label.json").write_text(json.dumps(labels))
        mlflow.log_metrics({"val_loss": best}, step=epochs)
        mlflow.log_artifacts(folder)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the fastest for something as small as this
    data = embed(Path(sys.argv[1]), Path(sys.argv[2]))
    Path("embeddings").mkdir()
    for part in range(3):
        data[part::3].to_parquet(f"embeddings/{part}.parquet")
    mlflow.set_tracking_uri("file:./mlflow/doggos")
    mlflow.set_experiment("doggos")
    for passes in (1, 20, 2):
        train(data, passes)
