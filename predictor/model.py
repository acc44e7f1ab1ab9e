"""The torch engine: CLIP's vision tower and the head in one forward pass, as Hugging Face computes it."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import contract
from contract import Pixels, Prediction, PredictorInfo
from predictor.clip import Clip, load_clip
from predictor.fixed_sizes import Answer, FixedSizes, Forward, list_warm_ups
from predictor.head import ARGUMENTS_FILE, MARK_FILE, TrainedHead, load_head
from predictor.hub import find_clip
from predictor.settings import ON_CPU, Computing
from serving.errors import ArtefactError, SettingError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Network(nn.Module):
    """Pixels [N, S, S, 3] uint8 -> embedding [N, D] and probabilities [N, C]; normalises inside.

    Only the tower may be of another dtype than float32: the head and the softmax are too little work to be rounded.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, clip: Clip, head: TrainedHead | None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        mean, std = torch.tensor(clip.mean, dtype=torch.float64), torch.tensor(clip.std, dtype=torch.float64)
        # (x / 255 - mean) / std in one multiplication and one addition
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())
        self.tower = clip.tower.to(dtype)
        self.head = head.network if head else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        normalised = (pixels * self.scale + self.shift).permute(0, 3, 1, 2)  # [N, 3, S, S] float32
        embedding: Tensor = self.tower(pixel_values=normalised.to(self.dtype)).image_embeds.float()
        if self.head is None:
            return embedding, None
        return embedding, torch.softmax(self.head(embedding), dim=1)


class TorchEngine:
    """Runs the network on one device; see `predictor.engine.Engine`."""

    def __init__(self, clip: Clip, head: TrainedHead | None, computing: Computing) -> None:
        self.clip = clip
        self.head = head
        self.size = clip.size
        self.dim = clip.dim
        self.classes = head.classes if head else ()
        self.info = PredictorInfo(clip.fingerprint, contract.CONTRACT_VERSION, contract.RESIZE_BICUBIC)
        self.device = torch.device(_choose_device(computing.device))
        self.precision = _check_precision(computing.precision, self.device)
        self.network = Network(clip, head, DTYPES[self.precision]).eval().to(self.device)
        self.compiled = _choose_compiled(computing.compile, self.device)
        forward = self._compile() if self.compiled else self.network
        fixed, most = self.compiled or self.device.type == "cuda", computing.max_batch
        # Plain torch prepares nothing for a size; a lone picture and a full batch touch all that there is.
        self.warm_ups = list_warm_ups(most) if fixed else sorted({1, most})
        self._fixed = FixedSizes(forward, self.size, most, self.device) if fixed else None

    def _compile(self) -> Forward:
        # Kernels of its own: the entries of engines that were loaded before would count against the most there may be.
        options: dict[str, Any] = {"isolate_recompiles": True}  # torch's annotations do not have it yet
        compiled: Forward = torch.compile(self.network, fullgraph=True, dynamic=False, **options)
        return compiled

    @torch.inference_mode()
    def predict(self, pixels: Pixels) -> Prediction:
        """Answer [N, S, S, 3] uint8."""
        answer = self._fixed.predict(pixels) if self._fixed else self._predict_any(pixels)
        return Prediction(*answer, self.classes, self.info)

    def _predict_any(self, pixels: Pixels) -> Answer:
        owned = pixels if pixels.flags.writeable else pixels.copy()  # torch warns of what it might write to
        embedding, probabilities = self.network(torch.from_numpy(owned))
        return embedding.numpy(), None if probabilities is None else probabilities.numpy()


def load_engine(
    model_dir: Path,
    *,
    clip: str | None = None,
    head_dir: Path | None = None,
    allow_unmarked: bool,
    threads: int | None,
    computing: Computing = ON_CPU,
    cache_dir: Path | None = None,
) -> TorchEngine:
    """Load MODEL_DIR/clip and, where there is one, MODEL_DIR/head (or the head's files in MODEL_DIR itself).

    `clip` (a directory or a model id) and `head_dir` stand in for those two. Raises ArtefactError or SettingError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    found = find_clip(clip or model_dir / "clip", cache_dir)
    loaded = load_clip(found, None if clip is None or Path(clip).is_dir() else clip)
    directory = head_dir or find_head(model_dir)
    head = load_head(directory) if directory else None
    if head and directory:
        _check_head(head, directory, loaded, allow_unmarked)
    return TorchEngine(loaded, head, computing)


def find_head(model_dir: Path) -> Path | None:
    """Where the head's files are: in `head/`, or at the top as in an MLflow run; None for embeddings only."""
    if (model_dir / "head").is_dir():
        return model_dir / "head"
    return model_dir if (model_dir / ARGUMENTS_FILE).exists() else None


def _choose_device(device: str) -> str:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise SettingError("--device cuda: torch sees no GPU here; use cpu or auto")
    return "cuda" if available and device != "cpu" else "cpu"


def _check_precision(precision: str, device: torch.device) -> str:
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise SettingError("--precision bf16: this GPU cannot compute in it; use fp16 or fp32")
    return precision


def _choose_compiled(wanted: str, device: torch.device) -> bool:
    """Whether torch.compile makes kernels: by itself only for a GPU, and where there is the C compiler it needs."""
    found = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    if wanted == "on" and not found:
        raise SettingError("--compile on: torch.compile needs a C compiler, and there is none here; use --compile off")
    return wanted == "on" or (wanted == "auto" and device.type == "cuda" and found)


def _check_head(head: TrainedHead, directory: Path, clip: Clip, allow_unmarked: bool) -> None:
    """Refuse a head that was trained on another CLIP's embeddings."""
    mark, dim = head.mark, head.arguments.embedding_dim
    if mark is None and not allow_unmarked:
        raise ArtefactError(
            f"{directory} has no {MARK_FILE}, so nothing says which CLIP this head was trained on; "
            "if it was this one, pass --allow_unmarked"
        )
    if mark is not None and mark.fingerprint != clip.fingerprint:
        raise ArtefactError(
            f"{directory} was trained on the CLIP {mark.name} ({mark.fingerprint}), "
            f"but this one is {clip.name} ({clip.fingerprint}); serve the head with its own CLIP or train it again"
        )
    if dim != clip.dim:
        raise ArtefactError(f"{directory} takes embeddings of {dim} numbers, but the CLIP {clip.name} makes {clip.dim}")
