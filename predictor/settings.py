"""The predictor's settings, and those that say which model is meant, which its offline programs share."""

import re
from dataclasses import dataclass
from pathlib import Path

from serving.errors import SettingError
from serving.server_settings import ServerSettings
from serving.settings import at_least, one_of, setting

PREFIX = "PREDICTOR_"
_REGISTERED = re.compile(r"models:/[^/@]+(/\d+|@[^/@]+)")
_RUN = re.compile(r"[0-9a-zA-Z][\w-]*")


def _registered(text: str) -> str:
    if text and not _REGISTERED.fullmatch(text):
        raise ValueError("use models:/NAME@ALIAS or models:/NAME/VERSION")
    return text


def _run(text: str) -> str:
    if text and not _RUN.fullmatch(text):
        raise ValueError("use the id that MLflow gave the run")
    return text


@dataclass(frozen=True)
class ModelSettings:
    """Which CLIP and which head: a folder with both, or each from where it is kept."""

    model_dir: str = setting("/mnt/models", "folder with clip/ and head/; without head/ only embeddings are made")
    clip: str = setting("", "a CLIP instead of MODEL_DIR/clip: a Hugging Face directory or a hub id")
    mlflow_uri: str = setting("", "MLflow's address, for a head instead of MODEL_DIR/head: http://.., sqlite:///FILE..")
    mlflow_experiment: str = setting("", "take the experiment's best finished run by val_loss")
    mlflow_model: str = setting(
        "", "take a registered version: models:/NAME@ALIAS or models:/NAME/VERSION", parse=_registered
    )
    mlflow_run: str = setting("", "take the run of this id", parse=_run)
    cache_dir: str = setting("", "folder for downloads; empty takes Hugging Face's own, and a temporary one for a head")
    allow_unmarked: bool = setting(False, "take a head without clip.json when the dimensions agree")

    def __post_init__(self) -> None:
        given = [flag for flag in ("mlflow_experiment", "mlflow_model", "mlflow_run") if getattr(self, flag)]
        if len(given) > 1:
            raise SettingError(f"--{given[0]} and --{given[1]} both name a head; leave one out")
        if given and not self.mlflow_uri:
            raise SettingError(f"--{given[0]}: name the MLflow that has it with --mlflow_uri")
        if self.mlflow_uri and not given:
            raise SettingError(
                "--mlflow_uri: name a head there with --mlflow_experiment, --mlflow_model or --mlflow_run"
            )
        if not self.model_dir:
            raise SettingError("--model_dir: name the folder that holds clip/")

    @property
    def head_reference(self) -> str:
        """The head in MLflow, as `predictor.registry` takes it; empty without one."""
        best = f"experiment:{self.mlflow_experiment}" if self.mlflow_experiment else ""
        return best or self.mlflow_model or self.mlflow_run

    @property
    def cache(self) -> Path | None:
        return Path(self.cache_dir) if self.cache_dir else None


@dataclass(frozen=True)
class Computing:
    """How the torch engine computes."""

    device: str = "cpu"  # cpu, cuda or auto
    precision: str = "fp32"
    compile: str = "off"  # on, off or auto
    max_batch: int = 8


ON_CPU = Computing()  # the reference that all else is held against


@dataclass(frozen=True)
class PredictorSettings(ModelSettings, ServerSettings):
    """Serve a CLIP, and a head trained on its embeddings, over the V2 inference protocol."""

    engine: str = setting(
        "auto",
        "torch, openvino, or auto: openvino where MODEL_DIR has an export.json, else torch",
        parse=one_of("auto", "torch", "openvino"),
    )
    device: str = setting("auto", "where torch computes: auto, cpu or cuda", parse=one_of("auto", "cpu", "cuda"))
    precision: str = setting(
        "auto",
        "what torch computes the tower in: fp32, bf16, fp16, or auto: fp32; the openvino engine takes export.json's",
        parse=one_of("auto", "fp32", "bf16", "fp16"),
    )
    compile: str = setting(
        "auto",
        "kernels made by torch.compile, which takes minutes at a first start: on, off, or auto: on a GPU with a C "
        "compiler; kept in CACHE_DIR for later starts",
        parse=one_of("auto", "on", "off"),
    )
    max_batch: int = setting(8, "most pictures in one forward", parse=at_least(1))
    max_queue: int = setting(128, "most pictures waiting; above it callers get 429", parse=at_least(1))

    def __post_init__(self) -> None:
        ServerSettings.__post_init__(self)
        ModelSettings.__post_init__(self)
        if self.engine == "openvino" and self.device == "cuda":
            raise SettingError("--device cuda: the openvino engine computes on processors; use --engine torch")
        elsewhere = next((flag for flag in ("clip", "mlflow_uri") if getattr(self, flag)), None)
        if self.engine == "openvino" and elsewhere:
            raise SettingError(
                f"--{elsewhere}: the openvino engine serves a folder that predictor.export wrote; "
                f"give --{elsewhere} to that program"
            )

        if self.choose_engine() == "openvino" and (self.precision != "auto" or self.compile == "on"):
            flag = "compile" if self.precision == "auto" else "precision"
            raise SettingError(f"--{flag} is for torch: the openvino engine serves what export.json says; leave it out")

    @property
    def computing(self) -> Computing:
        """How torch is to compute."""
        precision = "fp32" if self.precision == "auto" else self.precision
        return Computing(self.device, precision, self.compile, self.max_batch)

    def choose_engine(self) -> str:
        """torch or openvino, by the flags and the folder only, so that replicas never differ."""
        if self.engine != "auto":
            return self.engine
        pinned = self.clip or self.mlflow_uri or self.device == "cuda"
        return "openvino" if not pinned and Path(self.model_dir, "export.json").exists() else "torch"
