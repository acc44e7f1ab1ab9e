"""How each system is started and asked, and what of its answer is compared."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import grpc_load
from benchmarks.agreement import Answer
from benchmarks.http_load import encode_questions
from benchmarks.load import Load, Unavailable, load_by_wrk, load_grpc, load_http
from benchmarks.metering import Meter
from benchmarks.open_loop import OpenLoop
from benchmarks.starting import GRPC, LOGS, PEERS, START_SECONDS, start_bare_servers, start_ours, start_peer
from benchmarks.workload import PRECISIONS, K, N, Workload

WITHOUT_MODEL = "ours without the model"  # what a request costs outside of it
BY_WRK = ", asked by wrk"  # with another client, which shows what ours adds
BARE_SERVERS = "two bare servers, OpenVINO fp32"  # what two processes cost at least
PATIENT = ("--request_timeout", "120")  # the others limit no request's time

LEVEL = 8  # requests at a time: the level of most targets
TRIED, CHOSEN, CHOSEN_WITH_OURS = "tried", "chosen", "chosen_with_our_engine"  # keys of SETTINGS
SETTINGS = PEERS / "settings.json"
EQUALS = ("FastAPI", "LitServe", "BentoML", "MLServer", "KServe sample")  # what is served by one framework alone
IN_BATCHES = ("LitServe", "BentoML", "MLServer")  # of these, the fastest with torch
WITH_OUR_ENGINE = ("FastAPI", "LitServe", "BentoML", "MLServer")
QUERY = f'{{"url": "URL", "k": {K}, "n": {N}}}'


@dataclass(frozen=True)
class System:
    """One row of the table; `body` is what it is asked, with URL where the picture's goes."""

    name: str
    start: "Callable[[System, Workload, Meter], str]"  # gives HOST:PORT
    script: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()  # of both of our servers
    route: str = "/predict/"
    body: str = QUERY
    read: Callable[[Any], Answer] = lambda document: document

    @property
    def exported(self) -> Path | None:
        """The folder of the export that it serves, if it serves one."""
        folder = self.environ.get("MODEL_DIR") or self.environ.get("EXPORTED_DIR")
        return Path(folder) if folder else None

    @contextmanager
    def running(self, workload: Workload) -> Iterator[tuple[str, Meter]]:
        """Its address and its meter, for the time of the block."""
        meter = Meter()
        LOGS.mkdir(parents=True, exist_ok=True)
        try:
            yield self.start(self, workload, meter), meter
        finally:
            meter.stop()

    def wait_until_ready(self, address: str, picture: str, meter: Meter) -> None:
        """Ask until there is an answer: some open their port long before their model is loaded."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask(address, picture)
                return
            except (OSError, ValueError, KeyError) as error:  # an answer may be one that says "not yet"
                if time.monotonic() > end or not any(meter.processes()):
                    raise Unavailable(f"it ended, or gave no answer within {START_SECONDS} s: {error}") from None
            time.sleep(0.5)

    def ask(self, address: str, picture: str, timeout: float = 60) -> Answer:
        """One question, without keeping the connection."""
        if self.name.endswith(GRPC):
            return grpc_load.ask(address, picture, timeout)
        body = self.body.replace("URL", picture).encode()
        request = urllib.request.Request(f"http://{address}{self.route}", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return self.read(json.load(response))

    def load(self, address: str, pictures: Sequence[str], concurrency: int, seconds: float) -> Load:
        """As many questions as it answers."""
        if self.name.endswith(GRPC):
            return load_grpc(address, pictures, concurrency, seconds)
        load = load_by_wrk if self.name.endswith(BY_WRK) else load_http
        return load(address, self.route, self.body, pictures, concurrency, seconds)

    def open_client(self, address: str, pictures: Sequence[str]) -> OpenLoop:
        """Asks the same over HTTP, at a rate or until all have answered."""
        return OpenLoop(address, encode_questions(address, self.route, self.body, pictures))


def list_systems(workload: Workload, flags: tuple[str, ...] = PATIENT) -> dict[str, System]:
    """All of them by name; `flags` are those of both of our servers."""
    fp32, bf16, int8 = ({"MODEL_DIR": str(workload.exported(precision))} for precision in PRECISIONS)
    ours = [
        replace(system, flags=flags)
        for system in (
            System("ours, torch fp32", start_ours, "predictor", {"MODEL_DIR": str(workload.model)}),
            System("ours, OpenVINO fp32", start_ours, "predictor", fp32),
            System("ours, OpenVINO fp32" + GRPC, start_ours, "predictor", fp32),
            System("ours, OpenVINO bf16", start_ours, "predictor", bf16),
            System("ours, OpenVINO int8", start_ours, "predictor", int8),
            System(WITHOUT_MODEL, start_ours, "benchmarks.instant_predictor", fp32),
            System(WITHOUT_MODEL + BY_WRK, start_ours, "benchmarks.instant_predictor", fp32),
        )
    ]
    bare_servers = System(BARE_SERVERS, start_bare_servers, "benchmarks.bare_servers", fp32)
    peers = list_peers()
    with_our_engine = [
        replace(
            peer,
            name=f"{peer.name}, OpenVINO {precision}",
            environ={"EXPORTED_DIR": str(workload.exported(precision).resolve())},
        )
        for precision in ("fp32", "bf16")
        for peer in peers
        if peer.name in WITH_OUR_ENGINE
    ]
    return {system.name: _with_settings(system) for system in (*ours, bare_servers, *peers, *with_our_engine)}


def _with_settings(system: System) -> System:
    """With the best of the settings that were tried for it."""
    name, _, engine = system.name.partition(", OpenVINO")
    entry = read_settings().get(name)
    if not entry:
        return system
    chosen = entry[TRIED][entry[CHOSEN_WITH_OURS if engine else CHOSEN]]
    return replace(system, environ={**system.environ, "SETTINGS": json.dumps(chosen)})


def list_peers() -> list[System]:
    """What one would use instead."""
    return [
        System("FastAPI", start_peer, "fastapi_app"),
        System("LitServe", start_peer, "litserve_app"),
        System("BentoML", start_peer, "bentoml_app", body=_QUERIES, read=lambda document: document[0]),
        System("MLServer", start_peer, "mlserver_app", route="/v2/models/doggos/infer", body=_V2, read=_read_v2),
        System("KServe sample", start_peer, "kserve_app", route="/v1/models/doggos:predict", body=_V1, read=_read_v1),
        System("Ray, mended", start_peer, "ray_mended"),
        System("Ray, as written", start_peer, "ray_tutorial"),
    ]


def read_settings() -> dict[str, Any]:
    """Each peer's settings: those tried, and the position of the chosen ones."""
    return json.loads(SETTINGS.read_text())  # type: ignore[no-any-return]


_QUERIES = f'{{"queries": [{QUERY}]}}'
_V1 = f'{{"instances": [{QUERY}]}}'
_V2 = json.dumps({"inputs": [{"name": "query", "shape": [1, 1], "datatype": "BYTES", "data": [QUERY]}]})


def _read_v1(document: Any) -> Answer:
    return document["predictions"][0]  # type: ignore[no-any-return]


def _read_v2(document: Any) -> Answer:
    return json.loads(document["outputs"][0]["data"][0])  # type: ignore[no-any-return]
