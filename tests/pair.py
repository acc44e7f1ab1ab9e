"""The real transformer in front of the real predictor's server, whose engine only pretends, and a picture host."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch import Server, running
from tests.picture_host import PictureHost, run_picture_host
from tests.stand_ins import COLOURS, draw, write_index


@dataclass(frozen=True)
class Pair:
    """Two server processes and a host with a picture of each colour, such as /red.png."""

    predictor: Server
    transformer: Server
    host: PictureHost

    @property
    def url(self) -> str:
        return f"http://{self.transformer.http}"

    @property
    def servers(self) -> tuple[Server, Server]:
        return self.predictor, self.transformer

    @property
    def output(self) -> str:
        """All that both processes have logged."""
        return "".join(server.log.read_text() for server in self.servers)


@contextmanager
def running_pair(folder: Path, predictor: Sequence[str] = (), transformer: Sequence[str] = ()) -> Iterator[Pair]:
    """Both servers for the time of the block, with these flags more."""
    with ExitStack() as stack:
        back = stack.enter_context(running("tests.pretender", predictor, folder / "predictor.log"))
        flags = ["--predictor_host", back.http, "--index_dir", str(write_index(folder / "index"))]
        flags += ["--allow_networks", "127.0.0.1/32", *transformer]
        front = stack.enter_context(running("transformer", flags, folder / "transformer.log"))
        host = stack.enter_context(run_picture_host({f"/{colour}.png": draw(colour) for colour in COLOURS}))
        yield Pair(back, front, host)


def memory(server: Server) -> int:
    """Resident bytes of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def chunks(size: int, piece: int = 1 << 20) -> Iterator[bytes]:
    """`size` zero bytes in pieces, for bodies of unknown length."""
    return itertools.repeat(bytes(piece), size // piece)  # type: ignore[return-value]
