"""Load and unload while serving, by callers who have the token, over both protocols and on both servers."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from launch import Server, running
from tests.callers import INFER, RED, binary_body, grpc_request, json_request, pixels_request, read_metrics, wait_until
from tests.stand_ins import MARK, StandIn, running_stand_in, write_index
from tests.traffic import Traffic
from workshop import Workshop

TOKEN = "a-token.of~20/chars="
BEARER = {"authorization": f"Bearer {TOKEN}"}
REPOSITORY = "/v2/repository/models/doggos"
STATUS = health_pb2.HealthCheckResponse
LOST = (503, "UNAVAILABLE", 504, "DEADLINE_EXCEEDED")  # what callers are told of a predictor that is away


@dataclass(frozen=True)
class Loaded:
    """A server with an open repository, the file that spoils its artefacts, and a request to it."""

    server: Server
    artefact: Path
    message: Any

    def post(self, path: str, **headers: str) -> httpx.Response:
        return httpx.post(f"http://{self.server.http}{path}", headers=headers, timeout=120)

    def load(self) -> httpx.Response:
        return self.post(f"{REPOSITORY}/load", **BEARER)

    def infer(self) -> httpx.Response:
        body, headers = binary_body(self.message)
        return httpx.post(f"http://{self.server.http}{INFER}", content=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def predictor(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("predictor")
    shutil.copytree(workshop.model, folder / "model")
    (folder / "token").write_text(f"{TOKEN}\n")
    flags = ["--model_dir", str(folder / "model"), "--repository_token_file", str(folder / "token")]
    with running("predictor", flags, folder / "predictor.log") as server:
        yield Loaded(server, folder / "model" / "head" / "model.pt", pixels_request(1, size=224))


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    with running_stand_in() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def transformer(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("transformer")
    index = write_index(folder / "index")
    flags = ["--predictor_host", stand_in.target, "--index_dir", str(index), "--repository_token", TOKEN]
    with running("transformer", flags, folder / "transformer.log") as server:
        yield Loaded(server, index / "part-00000.parquet", grpc_request([RED]))


@pytest.fixture(params=["predictor", "transformer"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    loaded: Loaded = request.getfixturevalue(request.param)
    return loaded


def count_matches(loaded: Loaded) -> int:
    """How many of 100 similar pictures a search among the reds finds."""
    answer = httpx.post(f"http://{loaded.server.http}{INFER}", json=json_request([RED], k=1, n=100), timeout=60)
    assert answer.status_code == 200, answer.text
    (count,) = next(tensor["data"] for tensor in answer.json()["outputs"] if tensor["name"] == "match_count")
    assert isinstance(count, int)
    return count


def count_matches_or_none(loaded: Loaded) -> int | None:
    """The same; None while nothing is answered."""
    return count_matches(loaded) if loaded.infer().status_code == 200 else None


def grpc_code(call: Any, message: Any, **headers: str) -> str:
    try:
        call(message, timeout=60, metadata=tuple(headers.items()))
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@pytest.mark.parametrize("authorization", [None, "Bearer a-token", f"Basic {TOKEN}", TOKEN, "Bearer \u00e9"])
def test_without_the_token_nothing_opens(loaded: Loaded, authorization: str | None) -> None:
    header = {"authorization": authorization.encode("latin-1")} if authorization else {}
    for path in ("/v2/repository/index", f"{REPOSITORY}/load", f"{REPOSITORY}/unload"):
        answer = httpx.post(f"http://{loaded.server.http}{path}", headers=header)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), answer.text
        assert list(answer.json()) == ["error"]
    metadata = {"authorization": authorization} if authorization and authorization.isascii() else {}
    with grpc.insecure_channel(loaded.server.grpc) as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        for call, message in (
            (stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name="doggos")),
            (stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest(model_name="doggos")),
        ):
            assert grpc_code(call, message, **metadata) == "UNAUTHENTICATED"
    assert loaded.infer().status_code == 200
    requests = [name for name in read_metrics(loaded.server) if name.startswith("doggos_requests_total")]
    assert requests, "inference is counted"
    assert not any("401" in name for name in requests), "what is no inference would make more replicas start"


def test_unload_refuses_work_until_it_is_loaded_again(loaded: Loaded) -> None:
    ready = f"http://{loaded.server.http}/v2/models/doggos/ready"
    with grpc.insecure_channel(loaded.server.grpc) as channel:
        stub, health = services.GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service="doggos")
        unload = messages.RepositoryModelUnloadRequest(model_name="doggos")
        load = messages.RepositoryModelLoadRequest(model_name="doggos")
        assert loaded.post(f"{REPOSITORY}/unload", **BEARER).json() == {"name": "doggos", "unload": True}
        for _ in range(2):  # unloading twice is no error
            answer = loaded.infer()
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), answer.text
            assert "unloaded" in answer.json()["error"]
            assert grpc_code(stub.ModelInfer, loaded.message) == "UNAVAILABLE"
            assert health.Check(check).status == STATUS.NOT_SERVING
            assert httpx.get(ready).status_code == 503
            assert httpx.get(f"http://{loaded.server.http}/v2/models/doggos").status_code == 503
            assert loaded.post("/v2/repository/index", **BEARER).json()[0]["state"] == "UNAVAILABLE"
            assert httpx.get(f"http://{loaded.server.http}/v2/health/live").status_code == 200
            assert stub.RepositoryModelUnload(unload, metadata=tuple(BEARER.items())).isUnloaded
        assert stub.RepositoryModelLoad(load, metadata=tuple(BEARER.items()), timeout=120).isLoaded
        assert health.Check(check).status == STATUS.SERVING
    assert httpx.get(ready).status_code == 200
    assert loaded.infer().status_code == 200
    assert loaded.post("/v2/repository/index", **BEARER).json() == [
        {"name": "doggos", "version": "", "state": "READY", "reason": "serving"}
    ]
    assert loaded.post("/v2/repository/models/cats/load", **BEARER).status_code == 404


def test_a_bad_artefact_leaves_the_old_one_serving(loaded: Loaded) -> None:
    good, answer = loaded.artefact.read_bytes(), loaded.infer()
    try:
        loaded.artefact.write_bytes(good[: len(good) // 2])
        refused = loaded.load()
        assert refused.status_code == 424, refused.text
        assert loaded.artefact.name in refused.json()["error"]
        with grpc.insecure_channel(loaded.server.grpc) as channel:
            call = services.GRPCInferenceServiceStub(channel).RepositoryModelLoad
            request = messages.RepositoryModelLoadRequest(model_name="doggos")
            assert grpc_code(call, request, **BEARER) == "FAILED_PRECONDITION"
        assert loaded.infer().content == answer.content
    finally:
        loaded.artefact.write_bytes(good)
    assert loaded.load().status_code == 200
    assert loaded.infer().content == answer.content


def test_new_artefacts_are_swapped_in_while_requests_run(transformer: Loaded, stand_in: StandIn) -> None:
    """What began with the old index ends with it; one load at a time; nobody is refused meanwhile."""
    counts: list[int] = []
    old = threading.Thread(target=lambda: counts.append(count_matches(transformer)))
    loads: list[httpx.Response] = []
    first = threading.Thread(target=lambda: loads.append(transformer.load()))
    assert count_matches(transformer) == 3
    folder = transformer.artefact.parent
    stand_in.behave(delay=2)
    try:
        old.start()
        wait_until(lambda: stand_in.running == 1, "a request in flight")
        write_index(folder, rows=7)
        first.start()
        wait_until(lambda: stand_in.running == 2, "a load in progress")
        for refused in (transformer.load(), transformer.post(f"{REPOSITORY}/unload", **BEARER)):
            assert (refused.status_code, refused.headers["retry-after"]) == (409, "5"), refused.text
        assert httpx.get(f"http://{transformer.server.http}/v2/health/ready").status_code == 200
        stand_in.behave()
        first.join(60), old.join(60)
        assert (counts, [load.status_code for load in loads]) == ([3], [200])
        assert count_matches(transformer) == 7
    finally:
        stand_in.behave()
        write_index(folder)
    assert transformer.load().status_code == 200
    assert count_matches(transformer) == 3


def test_requests_keep_what_they_began_with_until_they_end(transformer: Loaded, stand_in: StandIn) -> None:
    counts: list[int] = []
    old = threading.Thread(target=lambda: counts.append(count_matches(transformer)))
    stand_in.behave(delay=2)
    old.start()
    wait_until(lambda: stand_in.running == 1, "a request in flight")
    stand_in.behave()
    assert transformer.post(f"{REPOSITORY}/unload", **BEARER).status_code == 200
    assert transformer.load().status_code == 200
    assert stand_in.running == 1, "the request still runs"
    old.join(60)
    assert counts == [3]


def test_an_index_is_replaced_while_the_predictor_is_killed_and_comes_back(
    transformer: Loaded, stand_in: StandIn
) -> None:
    """Callers get answers or 503; the load succeeds or changes nothing, and succeeds once the predictor is back."""
    loads: list[httpx.Response] = []
    load = threading.Thread(target=lambda: loads.append(transformer.load()))
    folder = transformer.artefact.parent
    try:
        with Traffic(transformer.server, workers=1) as traffic:
            traffic.wait_for_more(3)
            write_index(folder, rows=7)
            stand_in.stop()
            refused = transformer.load()
            assert (refused.status_code, count_matches_or_none(transformer)) == (424, None), refused.text
            assert "the predictor is not usable: the predictor cannot be reached" in refused.json()["error"]
            stand_in.start()
            wait_until(lambda: count_matches_or_none(transformer) == 3, "the index before")
            stand_in.behave(delay=600)
            load.start()
            wait_until(lambda: stand_in.running == 3, "two callers and the load at the predictor")
            stand_in.stop()
            stand_in.behave()
            stand_in.start()
            load.join(60)
            assert loads[0].status_code in (200, 424), loads[0].text
            wait_until(lambda: transformer.load().status_code == 200, "a load")
            traffic.wait_for_more(3)
        assert count_matches(transformer) == 7
        assert {reply.code for reply in traffic.replies} <= {200, "OK", *LOST}, traffic.codes
    finally:
        stand_in.behave()
        write_index(folder)
    assert transformer.load().status_code == 200


def test_an_index_of_another_clip_is_not_taken(transformer: Loaded) -> None:
    folder = transformer.artefact.parent
    try:
        write_index(folder, dim=MARK.dim + 1)
        refused = transformer.load()
        assert refused.status_code == 424, refused.text
        assert "the predictor is not usable" in refused.json()["error"]
        assert count_matches(transformer) == 3
    finally:
        write_index(folder)


def test_a_replaced_model_gives_its_threads_and_connections_back(loaded: Loaded) -> None:
    process = psutil.Process(loaded.server.process.pid)

    def load_and_ask() -> tuple[int, int]:
        assert loaded.load().status_code == 200
        assert loaded.infer().status_code == 200
        return process.num_threads(), process.num_fds()

    load_and_ask()
    threads, files = load_and_ask()
    for _ in range(6):
        load_and_ask()
    wait_until(lambda: process.num_threads() <= threads + 2, "the threads of the models before have ended")
    wait_until(lambda: process.num_fds() <= files + 3, "their connections are closed")


def test_the_token_is_in_no_log(loaded: Loaded) -> None:
    loaded.load()
    assert "model unloaded" in loaded.server.log.read_text()
    assert TOKEN not in loaded.server.log.read_text()
