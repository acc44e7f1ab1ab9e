"""What all requests together may hold: bodies, messages, downloads and decodes, on both processes."""

import asyncio
import io
import select
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from launch import Server
from serving.receiving import OTHER_PLACES, OTHER_SECONDS, STREAM_PLACES
from serving.stubs import method_path
from tests.callers import INFER, RED, ask_both, ask_grpc, ask_rest, leave_rest, read_metrics, wait_until
from tests.http2 import StalledCall
from tests.pair import Pair, memory, running_pair

HELD, BODY, TIMEOUT = 8_000_000, 4_000_000, 8
LINE = f"POST {INFER} HTTP/1.1".encode()
FLAGS = ("--max_held_bytes", str(HELD), "--max_body_bytes", str(BODY), "--request_timeout", str(TIMEOUT))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two servers that hold little."""
    flags = (*FLAGS, "--max_receiving", "2")
    front = ("--max_picture_bytes", str(BODY), "--max_decode_bytes", "420000000", "--threads", "4")
    with running_pair(tmp_path_factory.mktemp("bounds"), flags, (*flags, *front)) as pair:
        yield pair


@pytest.fixture(autouse=True)
def all_given_back(pair: Pair) -> Iterator[None]:
    """After every test a body of half of what may be held is taken, and a question answered."""
    yield
    with ThreadPoolExecutor(2) as callers:
        bodies = [callers.submit(post, server, bytes(BODY)) for server in pair.servers]
    assert [body.result().status_code for body in bodies] == [400, 400]
    assert [answer.code for answer in ask_both(pair.transformer)] == [200, "OK"]


def post(server: Server, body: bytes) -> httpx.Response:
    return httpx.post(f"http://{server.http}{INFER}", content=body, timeout=60)


@pytest.mark.parametrize("part", ["predictor", "transformer"])
def test_bodies_that_do_not_end_are_not_all_held(pair: Pair, part: str) -> None:
    server: Server = getattr(pair, part)
    with ExitStack() as stack:
        callers = [leave_rest(server, LINE, bytes(BODY - 1000), "application/json", 1000) for _ in range(3)]
        for caller in callers:
            stack.enter_context(closing(caller))
        (caller, *_), _, _ = select.select(callers, [], [], 60)
        refused = caller.recv(1000)
        while b"}" not in refused:  # the body may come by itself
            refused += caller.recv(1000)
        assert refused.startswith(b"HTTP/1.1 429"), refused
        assert b"retry-after: 1" in refused
        assert b"room" in refused
        assert httpx.get(f"http://{server.http}/v2/health/ready", timeout=60).status_code == 200
        caller.sendall(bytes(1000))  # the rest, and the next request: the connection is as good as before
        caller.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        assert caller.recv(1000).startswith(b"HTTP/1.1 200")


def test_messages_count_as_bodies_do(pair: Pair) -> None:
    """Over gRPC as well, with the code, the time and the count of every refusal."""
    before = read_metrics(pair.transformer).get("doggos_requests_total{code=RESOURCE_EXHAUSTED,protocol=grpc}", 0)

    def refused() -> bool:
        """Whether a message was, beside two bodies; it may have come before them."""
        with ExitStack() as stack:
            for _ in range(2):
                caller = leave_rest(pair.transformer, LINE, bytes(BODY - 1000), "application/json", 1000)
                stack.enter_context(closing(caller))
            answer = ask_grpc(pair.transformer, RED + bytes(5000))
        return (answer.code, answer.retry_after) == ("RESOURCE_EXHAUSTED", "1")

    wait_until(refused, "no room left")
    after = read_metrics(pair.transformer)["doggos_requests_total{code=RESOURCE_EXHAUSTED,protocol=grpc}"]
    assert after > before


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady"])
def test_only_a_few_messages_are_received_at_a_time(pair: Pair, method: str) -> None:
    """The others send no more than a window; all are given up as soon as their callers are gone."""
    server, places = pair.transformer, 2 if method == "ModelInfer" else OTHER_PLACES
    with ExitStack() as stack:
        calls = [StalledCall(server, method_path(method), BODY - 1, BODY - 1000) for _ in range(places + 10)]
        for call in calls:
            stack.callback(call.close)
        wait_until(lambda: sum(call.sent > BODY // 2 for call in calls) >= places, "messages that are received")
        assert sum(call.sent > BODY // 2 for call in calls) < len(calls)


def test_downloads_that_do_not_end_are_not_all_held(pair: Pair) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY

    async def main() -> list[httpx.Response]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + bytes(BODY - 1))
            await reader.read()  # until the other side has had enough
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, httpx.AsyncClient(timeout=60) as client:
            port = server.sockets[0].getsockname()[1]
            urls = [f"http://127.0.0.1:{port}/{number}" for number in range(6)]
            return await asyncio.gather(*[client.post(f"{pair.url}/predict/", json={"url": url}) for url in urls])

    answers = asyncio.run(main())
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {424, 429}, codes
    assert codes.count(424) <= 2
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)


def test_large_pictures_are_decoded_one_after_the_other(pair: Pair) -> None:
    """Each takes 400 MB, as some hundred bytes say; small ones are answered while the large ones wait."""
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 4000)).save(buffer, "WEBP", lossless=True, method=0)
    assert len(buffer.getvalue()) < 2000
    before, largest = memory(pair.transformer), 0

    def send(path: str) -> httpx.Response:
        headers = {"content-type": "image/webp"}
        return httpx.post(f"{pair.url}{path}", content=buffer.getvalue(), headers=headers, timeout=60)

    with ThreadPoolExecutor(4) as callers:
        large = [callers.submit(send, path) for path in ["/predict/", "/page/preview"] * 2]
        while not all(future.done() for future in large):
            largest = max(largest, memory(pair.transformer))
            assert ask_rest(pair.transformer).code == 200
    codes = [future.result().status_code for future in large]
    assert set(codes) <= {200, 504}
    assert 200 in codes
    assert largest - before < 600_000_000


def test_what_needs_more_memory_than_there_is_is_too_large(pair: Pair) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (6000, 5000)).save(buffer, "WEBP", lossless=True, method=0)
    answer = httpx.post(
        f"{pair.url}/predict/", content=buffer.getvalue(), headers={"content-type": "image/webp"}, timeout=60
    )
    assert answer.status_code == 413
    assert "memory" in answer.json()["error"]


def test_reflection_may_be_asked_again_after_a_while(pair: Pair) -> None:
    """As tools with a window do it; nobody else's turn is taken meanwhile."""

    async def main() -> None:
        async with grpc.aio.insecure_channel(pair.transformer.grpc) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            streams = [stub.ServerReflectionInfo() for _ in range(STREAM_PLACES)]
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            for pause in (0.0, 1.5 * OTHER_SECONDS):
                await asyncio.sleep(pause)
                for stream in streams:
                    await stream.write(question)
                    assert (await stream.read()).list_services_response.service
                    assert ask_grpc(pair.transformer, RED).code == "OK"
            for stream in streams:
                stream.cancel()

    asyncio.run(main())
