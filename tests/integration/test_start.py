"""A start that cannot succeed ends with its code and one sentence; until then the server is not ready."""

import asyncio
import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from contract import CONTRACT_VERSION
from embeddings import write_embeddings_part
from launch import running
from predictor import __main__ as predictor
from serving.errors import ArtefactError, SettingError
from serving.held import ByteBudget
from serving.metrics import TransformerMetrics
from serving.settings import load_settings
from tests.callers import ask_rest, wait_until
from tests.programs import free_port, program
from tests.stand_ins import CLASSES, INFO, MARK, StandIn, running_stand_in, write_index
from transformer import __main__ as transformer
from transformer.decode_pool import DecodeMemory
from transformer.server import TransformerModel
from transformer.settings import TransformerSettings
from transformer.startup import load_transformer
from transformer.target import GRPC
from workshop import Workshop

START_TIMEOUT = 1.0  # seconds


@dataclass
class Ground:
    """What the starts are made of: folders to spoil, and predictors of all kinds."""

    folder: Path
    stack: ExitStack
    workshop: Workshop

    def new(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def index(self, name: str) -> Path:
        return write_index(self.folder / name)

    def predictor(self, **behaviour: object) -> str:
        stand_in: StandIn = self.stack.enter_context(running_stand_in())
        stand_in.behave(**behaviour)
        return stand_in.target


@dataclass(frozen=True)
class Case:
    """A start that must end: with this code, and a last line that matches."""

    module: str
    code: int
    sentence: str
    flags: Callable[[Ground], Sequence[str]]


def transformer_flags(ground: Ground, index: Path, predictor_host: str = "", *more: str) -> list[str]:
    host = predictor_host or ground.predictor()
    return ["--index_dir", str(index), "--predictor_host", host, "--start_timeout", str(START_TIMEOUT), *more]


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def missing_index(ground: Ground) -> Sequence[str]:
    return transformer_flags(ground, ground.folder / "none")


def cut_index(ground: Ground) -> Sequence[str]:
    index = ground.index("cut")
    cut(index / "part-00000.parquet")
    return transformer_flags(ground, index)


def index_without_files(ground: Ground) -> Sequence[str]:
    return transformer_flags(ground, ground.new("no-files"))


def index_without_rows(ground: Ground) -> Sequence[str]:
    index = ground.new("no-rows")
    write_embeddings_part(index / "part-00000.parquet", [], [], np.zeros((0, MARK.dim), np.float32), MARK)
    return transformer_flags(ground, index)


def unmarked(index: Path) -> Path:
    part = index / "part-00000.parquet"
    pq.write_table(pq.read_table(part).replace_schema_metadata(None), part)
    return index


def unmarked_index(ground: Ground) -> Sequence[str]:
    return transformer_flags(ground, unmarked(ground.index("unmarked")))


def index_of_other_dim(ground: Ground) -> Sequence[str]:
    index = unmarked(write_index(ground.folder / "narrow", dim=3))
    return transformer_flags(ground, index, "", "--allow_unmarked", "on")


def index_of_other_clip(ground: Ground) -> Sequence[str]:
    other = write_index(ground.folder / "other", mark=replace(MARK, fingerprint="fedcba9876543210", name="other"))
    return transformer_flags(ground, other, "", "--allow_unmarked", "on")


def index_of_unknown_class(ground: Ground) -> Sequence[str]:
    return transformer_flags(ground, write_index(ground.folder / "unknown", classes=(*CLASSES, "zebra")))


def no_predictor(ground: Ground) -> Sequence[str]:
    return transformer_flags(ground, ground.index("alone"), f"127.0.0.1:{free_port()}")


def hanging_predictor(ground: Ground) -> Sequence[str]:
    listener = ground.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return transformer_flags(ground, ground.index("hanging"), f"127.0.0.1:{listener.getsockname()[1]}")


def headless_predictor(ground: Ground) -> Sequence[str]:
    return transformer_flags(ground, ground.index("headless"), ground.predictor(classes=()))


def newer_predictor(ground: Ground) -> Sequence[str]:
    newer = ground.predictor(info=replace(INFO, contract=CONTRACT_VERSION + 1))
    return transformer_flags(ground, ground.index("newer"), newer)


def taken_port(flag: str) -> Callable[[Ground], Sequence[str]]:
    def flags(ground: Ground) -> Sequence[str]:
        listener = ground.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return [f"--{flag}", str(listener.getsockname()[1])]

    return flags


def unforeseen_error(ground: Ground) -> Sequence[str]:
    return ["--load_error", "no luck"]


def spoilt(spoil: Callable[[Path], None]) -> Callable[[Ground], Sequence[str]]:
    """The flags of a predictor with a spoilt copy of the sample's model."""

    def flags(ground: Ground) -> Sequence[str]:
        model = Path(shutil.copytree(ground.workshop.model, ground.folder / "model"))
        spoil(model)
        return ["--model_dir", str(model)]

    return flags


def cut_clip(model: Path) -> None:
    cut(model / "clip" / "model.safetensors")


def head_of_other_clip(model: Path) -> None:
    mark = model / "head" / "clip.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "fingerprint": "fedcba9876543210"}))


def head_of_other_class_count(model: Path) -> None:
    labels = model / "head" / "class_to_label.json"
    labels.write_text(json.dumps(dict(list(json.loads(labels.read_text()).items())[:-1])))


# Starts of whole processes: how each kind of failure ends.
PROCESSES = {
    "artefact": Case("transformer", 1, "part-00000.parquet cannot be read as Parquet", cut_index),
    "time": Case(
        "transformer", 1, r"--start_timeout: .* CLIP fedcba9876543210 \(other\), .* 0123", index_of_other_clip
    ),
    "HTTP port": Case("predictor", 2, "--http_port: cannot listen on port", taken_port("http_port")),
    "gRPC port": Case("predictor", 2, "--grpc_port: cannot listen on port", taken_port("grpc_port")),
    "metrics port": Case("predictor", 2, "--metrics_port: cannot listen", taken_port("metrics_port")),
    "unforeseen": Case("tests.pretender", 1, "failed with an unexpected RuntimeError: no luck", unforeseen_error),
    "cut CLIP": Case("predictor", 1, "model.safetensors cannot be loaded", spoilt(cut_clip)),
    "other CLIP": Case("predictor", 1, "was trained on .*, but this one is", spoilt(head_of_other_clip)),
    "other class count": Case("predictor", 1, "class_to_label.json", spoilt(head_of_other_class_count)),
}
# What else a transformer does not start with, without a process each.
REFUSED = {
    "missing index": (missing_index, "none does not exist"),
    "index without files": (index_without_files, "has no Parquet files"),
    "index without rows": (index_without_rows, "has no rows; embed some pictures first"),
    "unmarked index": (unmarked_index, "pass --allow_unmarked on to take it"),
    "other dimension": (index_of_other_dim, "embeddings of 3 numbers, the predictor's have 4"),
    "unknown class": (index_of_unknown_class, "1 classes .* does not know, such as 'zebra'"),
    "no predictor": (no_predictor, "not usable within --start_timeout: the predictor cannot be reached"),
    "hanging predictor": (hanging_predictor, "not usable within --start_timeout"),
    "headless predictor": (headless_predictor, "--start_timeout: the predictor has no head"),
    "newer predictor": (newer_predictor, f"--start_timeout: the predictor speaks contract {CONTRACT_VERSION + 1}"),
}


@dataclass(frozen=True)
class End:
    code: int
    output: str
    lines: list[str]


@pytest.fixture(scope="module")
def ends(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Future[End]"]]:
    """All processes, a few at a time."""

    def start(case: Case) -> End:
        folder = tmp_path_factory.mktemp("start")
        with ExitStack() as stack:
            ground = Ground(folder, stack, workshop)
            with program(case.module, case.flags(ground), folder) as started:
                return End(started.end(120), started.output.read_text(), started.lines)

    with ThreadPoolExecutor(3) as starts:
        yield {name: starts.submit(start, case) for name, case in PROCESSES.items()}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_start_that_cannot_succeed_ends_with_its_code_and_one_sentence(
    ends: dict[str, "Future[End]"], name: str
) -> None:
    case, end = PROCESSES[name], ends[name].result(180)
    assert end.code == case.code, end.lines
    assert end.output == "", "it never was ready"
    *log, last = end.lines
    assert last.startswith("error: ")
    assert re.search(case.sentence, last), last
    for line in log:
        json.loads(line)
    assert "Traceback" not in "".join(end.lines)


@pytest.mark.parametrize("name", REFUSED)
def test_a_transformer_refuses_what_does_not_belong_together(workshop: Workshop, tmp_path: Path, name: str) -> None:
    flags, sentence = REFUSED[name]
    with ExitStack() as stack:
        argv = flags(Ground(tmp_path, stack, workshop))
        settings = load_settings(TransformerSettings, "test", "", argv, {})
        model = TransformerModel(settings.model_name, settings.max_pictures)
        begin = time.monotonic()
        with pytest.raises(ArtefactError, match=sentence):
            asyncio.run(load_transformer(settings, model, TransformerMetrics(), ByteBudget(0), DecodeMemory(0)))
        assert time.monotonic() - begin < START_TIMEOUT + 3
        assert not asyncio.run(model.healthy())


def test_not_ready_until_the_predictor_fits(tmp_path: Path) -> None:
    """While it waits it says why, refuses work, and starts by itself when the right predictor is there."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running_stand_in() as stand_in:
        stand_in.behave(info=replace(INFO, fingerprint="fedcba9876543210"))
        flags = ["--index_dir", str(write_index(tmp_path / "index")), "--predictor_host", stand_in.target]
        with program("transformer", [*flags, "--http_port", str(port)], tmp_path) as started:
            wait_until(lambda: "waiting for the predictor" in started.log.read_text(), "the reason in the log")
            assert "the predictor has the CLIP fedcba9876543210" in started.log.read_text()
            assert httpx.get(f"{url}/v2/health/live").status_code == 200
            for path in ("/v2/health/ready", "/v2/models/doggos/ready", "/v1/models/doggos"):
                assert httpx.get(url + path).status_code == 503, path
            refused = httpx.post(f"{url}/predict/", json={"url": "http://127.0.0.1/"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert started.output.read_text() == ""
            stand_in.behave()
            wait_until(lambda: httpx.get(f"{url}/v2/models/doggos/ready").status_code == 200, "readiness")
            wait_until(lambda: started.output.read_text().startswith("ready "), "the ready line")


def test_an_index_without_mark_is_taken_when_allowed(tmp_path: Path) -> None:
    index = unmarked(write_index(tmp_path / "index"))
    with running_stand_in() as stand_in:
        flags = ["--index_dir", str(index), "--predictor_host", stand_in.target, "--allow_unmarked", "on"]
        with running("transformer", flags, tmp_path / "transformer.log") as server:
            assert ask_rest(server).matches == ["red", "red"]


@pytest.mark.parametrize(
    ("main", "flags", "sentence"),
    [
        (transformer.main, [], "--predictor_host: say where the predictor is"),
        (transformer.main, ["--predictor_host", "a:b"], "'a:b' is not HOST or HOST:PORT"),
        (transformer.main, ["--predictor_host", "a,b", "--predictor_protocol", GRPC], "a list takes IPv4 addresses"),
        (transformer.main, ["--predictor_host", "dns:///a:8081"], "'dns:///a:8081' is a target of gRPC"),
        (transformer.main, ["--predictor_host", "http://a:8080"], "as HOST:PORT, without a scheme"),
        (transformer.main, ["--predictor_host", "a", "--predictor_protocol", "v1"], "use v2 or grpc-v2"),
        (transformer.main, ["--predictor_host", "a", "--workers", "2"], "--workers: this flag of KServe has no effect"),
        (transformer.main, ["--predictor_host", "a", "--model", "x"], "unrecognized arguments: --model (see"),
        (transformer.main, ["--predictor_host", "a", "--allow_networks", "1.2.3.4/33"], "--allow_networks"),
        (predictor.main, ["--http_port", "81", "--grpc_port", "81"], "must differ"),
        (predictor.main, ["--http_port", "70000"], "use a port from 0"),
        (predictor.main, ["--max_batch", "0"], "use 1 or more"),
        (predictor.main, ["--request_timeout", "nan"], "use 0.01 or more"),
        (predictor.main, ["--device", "tpu"], "use auto, cpu or cuda"),
        (predictor.main, ["--model_name", "a/b"], "use a name without a slash"),
    ],
)
def test_wrong_settings_are_named(
    main: Callable[[Sequence[str], dict[str, str]], None], flags: list[str], sentence: str
) -> None:
    with pytest.raises(SettingError, match=re.escape(sentence)):
        main(flags, {})


@pytest.mark.parametrize("module", ["predictor", "transformer"])
def test_a_wrong_setting_ends_the_process_with_2(module: str, tmp_path: Path) -> None:
    with program(module, ["--drain_seconds", "-1"], tmp_path) as started:
        assert started.end() == 2
        assert started.lines == ["error: --drain_seconds: '-1' cannot be used: use 0 or more"]
