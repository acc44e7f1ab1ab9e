"""The sample and the two servers, made once for the whole run by the programs that a user runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch import Server, picture_server, running
from workshop import Workshop

LOOPBACK_ONLY = ("--allow_networks", "127.0.0.1/32")


@dataclass(frozen=True)
class Service:
    """The running service and what it was made from."""

    predictor: Server
    transformer: Server
    pictures: str  # URL of the held-out pictures
    workshop: Workshop

    @property
    def url(self) -> str:
        return f"http://{self.transformer.http}"

    @property
    def held_out(self) -> list[Path]:
        return sorted(self.workshop.asked.rglob("*.jpg"))

    def picture_url(self, path: Path) -> str:
        return f"{self.pictures}/{path.relative_to(self.workshop.asked).as_posix()}"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Drawn pictures, a small CLIP, their embeddings, and a head trained on them."""
    workshop = Workshop(str(tmp_path_factory.mktemp("demo")))
    workshop.root.mkdir(parents=True)
    workshop.draw()
    workshop.embed()
    workshop.train()
    return workshop


@pytest.fixture(scope="session")
def service(workshop: Workshop) -> Iterator[Service]:
    """Predictor, transformer and a web server for the pictures, each on free ports of loopback."""
    predictor_flags = ["--model_dir", str(workshop.model)]
    with running("predictor", predictor_flags, workshop.root / "predictor.log") as predictor:
        flags = ["--predictor_host", predictor.http, "--index_dir", str(workshop.index), *LOOPBACK_ONLY]
        flags += ["--image_root", str(workshop.images)]
        with (
            running("transformer", flags, workshop.root / "transformer.log") as transformer,
            picture_server(workshop.asked) as pictures,
        ):
            yield Service(predictor, transformer, pictures, workshop)
