"""The settings of `python -m predictor.export`."""

from dataclasses import dataclass
from pathlib import Path

from predictor.exported import REDUCED, Thresholds
from predictor.settings import ModelSettings
from serving.errors import SettingError
from serving.settings import at_least, one_of, setting
from serving.threads import cpu_limit

PREFIX = "EXPORT_"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("use a number from 0 to 1")
    return value


@dataclass(frozen=True)
class ExportSettings(ModelSettings):
    """Write clip/, head/, onnx/ and export.json into one new folder, which both engines of the predictor serve.

    int8 is calibrated with half of the pictures that --calibration names, and checked on the other half. Below
    --min_cosine or --min_same_top the folder is written with all figures, but no server takes it.
    """

    output: str = setting("", "the folder to make; it must not be there yet")
    precision: str = setting(
        "auto",
        "what the openvino engine computes in: fp32, bf16, fp16, int8, or auto: the fastest on this processor that "
        "agrees, int8 only with --calibration",
        parse=one_of("auto", "fp32", *REDUCED),
    )
    calibration: str = setting(
        "", "your own pictures, to calibrate and to check with: a folder, or an index, .parquet or .csv with their path"
    )
    image_root: str = setting("", "folder that the paths of a file are relative to; empty: the file's own folder")
    index_dir: str = setting("", "embeddings Parquet of this CLIP; the matches of the held-out pictures are compared")
    min_cosine: float = setting(0.99, "least median cosine to fp32 on held-out pictures", parse=_share)
    min_same_top: float = setting(0.98, "least share of held-out pictures with fp32's best class", parse=_share)
    threads: int = setting(0, "threads for computing; 0 takes the CPU limit", parse=at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output:
            raise SettingError("--output is missing")
        if Path(self.output).exists():
            raise SettingError(f"--output: {self.output} is there already; name a new folder")
        if self.precision == "int8" and not self.calibration:
            raise SettingError("--precision int8: name your own pictures with --calibration")
        if self.precision == "fp32" and self.calibration:
            raise SettingError("--calibration: fp32 needs none; leave it out, or choose another --precision")
        if (self.image_root or self.index_dir) and not self.calibration:
            flag = "image_root" if self.image_root else "index_dir"
            raise SettingError(f"--{flag} goes with --calibration")

    @property
    def thresholds(self) -> Thresholds:
        """What held-out pictures must show."""
        return Thresholds(self.min_cosine, self.min_same_top)

    @property
    def cpu_threads(self) -> int:
        """Threads for computing."""
        return self.threads or cpu_limit()
