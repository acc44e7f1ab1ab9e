"""What every engine does for the server: uint8 pixels in, embedding and probabilities out."""

from typing import Protocol

from contract import Pixels, Prediction, PredictorInfo


class Engine(Protocol):
    """One loaded model; `predict` is synchronous and is called from one thread at a time."""

    @property
    def size(self) -> int:
        """S, the pictures' width and height."""

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""

    @property
    def classes(self) -> tuple[str, ...]:
        """C names in label order; empty without a head."""

    @property
    def info(self) -> PredictorInfo:
        """What travels with every answer."""

    def predict(self, pixels: Pixels) -> Prediction:
        """Answer [N, S, S, 3] uint8, resized and cropped but not normalised."""
