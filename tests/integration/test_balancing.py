"""Several predictors behind one DNS name: all work, and none is missed when it goes."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from launch import Server, start_server
from tests.callers import ask_rest, grpc_request, read_metrics, wait_until
from tests.dns_server import NAME, DnsServer, running_dns_server
from tests.stand_ins import COLOURS, draw, write_index
from tests.traffic import Traffic
from transformer.target import GRPC, REST

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
NO_AGE, SHORT_AGE = 3600.0, 1.0  # seconds
BUDGET = 8.0


@dataclass
class Fleet:
    """Predictors that share a port, the name server that knows some of them, and a transformer."""

    protocol: str  # by which the transformer calls them
    port: int
    folder: Path
    names: DnsServer
    transformer: Server
    predictors: dict[str, Server]

    def start(self, host: str, age: float = NO_AGE) -> None:
        self.predictors[host] = start_predictor(self.protocol, host, self.port, self.folder, age)

    def answered(self, host: str) -> float:
        labels = "code=200,protocol=http" if self.protocol == REST else "code=OK,protocol=grpc"
        return read_metrics(self.predictors[host]).get(f"doggos_requests_total{{{labels}}}", 0)


def start_predictor(protocol: str, host: str, port: int, folder: Path, age: float = NO_AGE) -> Server:
    ports = (port, 0) if protocol == REST else (0, port)
    flags = ["--host", host, "--http_port", str(ports[0]), "--grpc_port", str(ports[1]), "--metrics_port", "0"]
    flags += ["--max_connection_age_seconds", str(age), "--forward_seconds", "0.005", "--drain_seconds", "1"]
    flags += ["--max_queue", "1000"]
    return start_server("tests.pretender", flags, folder / f"predictor-{host}.log")


def port_free_on_all() -> int:
    for port in range(18081, 19000):
        with ExitStack() as stack:
            try:
                for host in HOSTS:
                    stack.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            return port
    pytest.skip("no port is free on 127.0.0.1, .2 and .3: loopback has no such addresses here")


@pytest.fixture(scope="module", params=[REST, GRPC])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    protocol = request.param
    folder = tmp_path_factory.mktemp("fleet")
    port = port_free_on_all()
    index = write_index(folder / "index")
    with running_dns_server(*HOSTS[:2]) as names, ExitStack() as stack, ThreadPoolExecutor() as starts:
        starting = {host: starts.submit(start_predictor, protocol, host, port, folder) for host in HOSTS}
        target = f"{NAME}:{port}" if protocol == REST else f"dns://127.0.0.1:{names.port}/{NAME}:{port}"
        flags = ["--http_port", "0", "--grpc_port", "0", "--metrics_port", "0", "--index_dir", str(index)]
        flags += ["--predictor_protocol", protocol, "--predictor_host", target, "--request_timeout", str(BUDGET)]
        module = "tests.named_transformer" if protocol == REST else "transformer"
        resolver = {"GRPC_DNS_RESOLVER": "ares", "DNS_PORT": str(names.port)}
        transformer = start_server(module, flags, folder / "transformer.log", resolver)
        stack.callback(transformer.process.kill)
        fleet = Fleet(
            protocol, port, folder, names, transformer, {host: start.result() for host, start in starting.items()}
        )
        yield fleet
        for server in fleet.predictors.values():
            server.process.kill()


def test_a_predictor_that_is_new_in_the_dns_gets_its_share(fleet: Fleet) -> None:
    """Although no connection ends, which is when gRPC itself asks the DNS again."""
    with Traffic(fleet.transformer) as traffic:
        for host in HOSTS[:2]:
            wait_until(lambda host=host: fleet.answered(host) > 20, f"traffic on {host}")  # type: ignore[misc]
        assert fleet.answered(HOSTS[2]) == 0, "the third is not in the DNS yet"
        fleet.names.addresses.append(HOSTS[2])
        wait_until(lambda: fleet.answered(HOSTS[2]) > 20, "traffic on the third predictor")
        counts = {host: fleet.answered(host) for host in HOSTS}
        traffic.wait_for_more(60)
        shares = [fleet.answered(host) - counts[host] for host in HOSTS]
    assert min(shares) > 0.2 * sum(shares), f"round robin gives each a third, not {shares}"
    assert not traffic.bad, f"that loses no call: {traffic.codes}"


def test_a_predictor_that_stops_loses_no_request(fleet: Fleet) -> None:
    leaving = fleet.predictors[HOSTS[2]]
    with Traffic(fleet.transformer) as traffic:
        traffic.wait_for_more()
        before = fleet.answered(HOSTS[2])
        leaving.process.terminate()
        fleet.names.addresses.remove(HOSTS[2])
        assert leaving.process.wait(30) == 0
        traffic.wait_for_more()
    assert before > 0
    assert not traffic.bad, traffic.codes


@pytest.fixture
def returned(fleet: Fleet) -> None:
    """The third predictor serves, with connections that end soon."""
    if fleet.predictors[HOSTS[2]].process.poll() is not None:
        fleet.start(HOSTS[2], SHORT_AGE)
    if HOSTS[2] not in fleet.names.addresses:
        fleet.names.addresses.append(HOSTS[2])
    before = fleet.answered(HOSTS[2])
    wait_until(
        lambda: ask_rest(fleet.transformer).code == 200 and fleet.answered(HOSTS[2]) > before,
        "traffic on the third predictor",
    )


def connections_to(host: str, port: int) -> set[str]:
    """The callers' ends of the connections that a server has just now."""
    reversed_address = "".join(f"{int(part):02X}" for part in reversed(host.split(".")))
    ends = f"{reversed_address}:{port:04X}"
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    return {remote for _, local, remote, state, *_ in lines if local.endswith(ends) and state == "01"}


@pytest.mark.parametrize("fleet", [GRPC], indirect=True)  # HTTP's have no age
@pytest.mark.usefixtures("returned")
def test_connections_that_end_by_age_lose_no_request(fleet: Fleet) -> None:
    seen: set[str] = set()

    def ended() -> bool:
        seen.update(connections_to(HOSTS[2], fleet.port))
        return len(seen) > 3

    with Traffic(fleet.transformer) as traffic:
        wait_until(ended, "new connections in place of old ones")
        traffic.wait_for_more(10)
    assert not traffic.bad, traffic.codes


@pytest.mark.usefixtures("returned")
def test_a_killed_predictor_loses_no_request(fleet: Fleet) -> None:
    """Requests of 32 pictures: what gRPC's own retries refuse to send again."""
    message = grpc_request([draw(colour) for colour in COLOURS] * 8)
    with Traffic(fleet.transformer, message) as traffic:
        for host in HOSTS[1:]:
            traffic.wait_for_more(10)
            os.kill(fleet.predictors[host].process.pid, signal.SIGKILL)
        traffic.wait_for_more(10)
    assert not traffic.bad, traffic.codes


def test_no_predictor_is_503_at_once_and_over_by_itself(fleet: Fleet) -> None:
    os.kill(fleet.predictors[HOSTS[0]].process.pid, signal.SIGKILL)
    fleet.predictors[HOSTS[0]].process.wait()
    with Traffic(fleet.transformer, workers=2) as traffic:
        traffic.wait_for_more(5)
    assert {reply.code for reply in traffic.replies} <= {503, "UNAVAILABLE"}, traffic.codes
    assert max(reply.seconds for reply in traffic.replies) < BUDGET / 2
    assert httpx.get(f"http://{fleet.transformer.http}/v2/models/doggos/ready").status_code == 200
    assert read_metrics(fleet.transformer)["doggos_predictor_up"] == 0
    fleet.start(HOSTS[1])
    wait_until(lambda: ask_rest(fleet.transformer).code == 200, "recovery")
    assert read_metrics(fleet.transformer)["doggos_predictor_up"] == 1
