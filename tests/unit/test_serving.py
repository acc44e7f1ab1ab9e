"""What the servers share, where no test of a server would see a mistake."""

import asyncio
import json
import logging
import math
import os
from pathlib import Path

import grpc
import pytest
from grpc._cython.cygrpc import ExecuteBatchError

from serving.call import TIMEOUT_MS, Call
from serving.errors import InvalidRequest
from serving.grpc_server import is_no_lost_caller
from serving.logs import JsonFormatter, hide_secrets
from serving.threads import cpu_limit

CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, math.inf),
        ({"cpu.max": "6400000 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "150000"}, math.inf),
        ({}, math.inf),
    ],
)
def test_threads_come_from_the_containers_limit(tmp_path: Path, files: dict[str, str], quota: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_limit(tmp_path) == (CPUS if quota > CPUS else max(1, math.ceil(quota)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET http://user:pass@host/a?b=c#d done", "GET http://host/a done"),
        ("('https://host:1/a?b', 2)", "('https://host:1/a', 2)"),
        ("s3://key@bucket/x and ftp://u@h/?p", "s3://bucket/x and ftp://h/"),
        ("nothing? to @hide", "nothing? to @hide"),
        ("http://host/@path", "http://host/@path"),
    ],
)
def test_user_and_query_parts_of_urls_are_hidden(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


def test_an_exception_is_one_line_without_its_values() -> None:
    try:
        raise ValueError("http://user:pass@host/?token\nsecond line")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "it\nfailed", None, (ValueError, error, None))
    (line,) = JsonFormatter().format(record).splitlines()
    assert json.loads(line)["message"] == "it\nfailed"
    assert json.loads(line)["exception"].startswith("ValueError < test_serving.py:")
    assert "token" not in line


def test_an_error_lets_go_of_what_its_frames_hold() -> None:
    def fail(picture: list[int]) -> None:
        raise InvalidRequest(f"no picture of {len(picture)}")

    try:
        fail([1])
    except InvalidRequest as error:
        frame = error.__traceback__.tb_next.tb_frame  # type: ignore[union-attr]
        assert frame.f_locals["picture"] == [1]
        assert error.without_frames().__traceback__ is None
        assert not frame.f_locals


def test_grpc_says_nothing_of_callers_that_have_left(caplog: pytest.LogCaptureFixture) -> None:
    """What it raises itself where an answer cannot be sent any more; anything else is still told."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(is_no_lost_caller)

    async def call(error: Exception) -> None:
        async def fail(request: bytes, context: object) -> bytes:
            raise error

        handlers = {"Fail": grpc.unary_unary_rpc_method_handler(fail)}
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError):
                await channel.unary_unary("/test/Fail")(b"", timeout=1)
        await server.stop(0)

    asyncio.run(call(ExecuteBatchError("the call is over")))
    assert not caplog.records
    asyncio.run(call(RuntimeError("another")))
    assert "Unexpected [RuntimeError]" in caplog.text


@pytest.mark.parametrize("text", ["", "-1", "1.5", "\u00b2", "9" * 400, "9" * 5000, "soon"])
def test_a_time_that_is_none_leaves_the_budget_as_it_is(text: str) -> None:
    assert 9 < Call.from_headers({TIMEOUT_MS: text}, 10).deadline.remaining() <= 10


def test_a_caller_may_have_less_time_and_not_more() -> None:
    assert Call.from_headers({TIMEOUT_MS: "500"}, 10).deadline.remaining() <= 0.5
    assert Call.from_headers({TIMEOUT_MS: "60000"}, 10).deadline.remaining() <= 10
