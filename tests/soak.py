"""`python -m tests.soak`: good and bad traffic on both protocols; nothing may grow, nothing may surprise."""

import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import httpx
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from launch import Server
from serving.errors import SettingError
from serving.program import run_program
from serving.settings import at_least, load_settings, setting
from tests.callers import INFER, binary_body, grpc_request, json_request, leave_rest
from tests.pair import Pair, descriptors, memory, running_pair, threads
from tests.pictures import hostile_files
from tests.stand_ins import draw

CALLERS = 3  # for each protocol
EVERY = 1.0  # seconds between two samples
SLACK = {"memory_mb": 30.0, "descriptors": 12.0, "threads": 6.0}  # what may come and go with connections


@dataclass(frozen=True)
class SoakSettings:
    """Send good and bad traffic to both servers, and watch whether they grow."""

    seconds: float = setting(120.0, "how long", parse=at_least(10, float))
    output: str = setting(".soak", "folder for soak.json and soak.png")

    def __post_init__(self) -> None:
        if not self.output:
            raise SettingError("--output: name a folder")


@dataclass(frozen=True)
class Sample:
    """One look at a process."""

    seconds: float
    memory_mb: float
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Case:
    """A request, and the codes that may come back: HTTP's or gRPC's."""

    name: str
    send: Callable[[httpx.Client, Any], int | str]
    codes: Sequence[int | str]


def cases(pair: Pair) -> list[Case]:
    """Requests of every kind, each over one protocol."""
    hostile = {name: data for name, data in hostile_files().items() if len(data) < 2_000_000}
    large = draw("green", 1500)
    rest = [
        ("url", "/predict/", {"json": {"url": pair.host.url("/red.png")}}, 200),
        ("picture", "/predict/?k=2", {"content": large, "headers": {"content-type": "image/png"}}, 200),
        ("form", "/predict/", {"files": {"file": large}}, 200),
        ("V2, 8 pictures", INFER, {"json": json_request([draw("red"), draw("blue")] * 4)}, 200),
        ("V1", "/v1/models/doggos:predict", {"json": {"instances": [{"url": pair.host.url("/blue.png")}] * 3}}, 200),
        ("no JSON", INFER, {"content": b"\xff" * 1000}, 400),
        ("millions of values", INFER, {"content": b'{"inputs": [' + b"1," * 2_000_000 + b"1]}"}, 413),
        ("too many bytes", "/predict/", {"content": bytes(33 * 2**20)}, 413),
        ("another type", "/predict/", {"content": b"x", "headers": {"content-type": "text/html"}}, 415),
        ("n 0", INFER, {"json": json_request([large], n=0)}, 422),
        ("refused address", "/predict/", {"json": {"url": "http://10.0.0.1/"}}, 403),
        *(
            (f"host {path}", "/predict/", {"json": {"url": pair.host.url(path)}}, code)
            for path, code in (("/none", 424), ("/reset", 424), ("/drip", 424), ("/huge", 413), ("/garbage", 424))
        ),
        *(
            (name, "/predict/", {"content": data, "headers": {"content-type": "image/png"}}, (400, 413))
            for name, data in hostile.items()
        ),
    ]
    found = [Case(f"http {name}", _poster(pair, path, kwargs), _codes(code)) for name, path, kwargs, code in rest]
    body, headers = binary_body(grpc_request([large] * 3))
    found.append(Case("http binary", _poster(pair, INFER, {"content": body, "headers": headers}), [200]))
    found.append(Case("http leaves", lambda client, stub: _leave(pair.transformer), ["left"]))
    unknown = messages.ModelInferRequest(model_name="cats")
    calls = [
        ("3 pictures", grpc_request([large] * 3), "OK"),
        ("bad picture", grpc_request([b"no picture" * 100_000]), "INVALID_ARGUMENT"),
        ("half a picture", grpc_request([large[:3000]]), "INVALID_ARGUMENT"),
        ("too large", grpc_request([bytes(33 * 2**20)]), "RESOURCE_EXHAUSTED"),
        ("another model", unknown, "NOT_FOUND"),
        ("33 pictures", grpc_request([b""] * 33), "INVALID_ARGUMENT"),
    ]
    found += [Case(f"grpc {name}", _caller(message), [code]) for name, message, code in calls]
    found.append(Case("grpc leaves", _caller(calls[0][1], timeout=0.002), ["OK", "DEADLINE_EXCEEDED"]))
    return found


def _codes(code: int | tuple[int, ...]) -> Sequence[int | str]:
    return code if isinstance(code, tuple) else [code]


def _poster(pair: Pair, path: str, arguments: Mapping[str, Any]) -> Callable[[httpx.Client, Any], int | str]:
    return lambda client, stub: client.post(pair.url + path, **arguments).status_code


def _caller(message: Any, timeout: float = 60) -> Callable[[httpx.Client, Any], int | str]:
    def call(client: httpx.Client, stub: Any) -> int | str:
        try:
            stub.ModelInfer(message, timeout=timeout)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    return call


def _leave(server: Server) -> str:
    leave_rest(server, b"POST /predict/ HTTP/1.1", draw("red"), "image/png", missing=9).close()
    return "left"


def drive(pair: Pair, chosen: Sequence[Case], end: float, answers: Counter[tuple[str, int | str]], seed: int) -> None:
    """One caller: cases by chance until the end, over connections that it opens anew now and then."""
    chance = random.Random(seed)
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    while time.monotonic() < end:
        with httpx.Client(timeout=60) as client, grpc.insecure_channel(pair.transformer.grpc, options) as channel:
            stub = services.GRPCInferenceServiceStub(channel)
            for _ in range(20):
                if time.monotonic() > end:
                    return
                case = chance.choice(chosen)
                try:
                    code = case.send(client, stub)
                except httpx.TransportError as lost:  # a refused body that is still being written
                    code = 413 if 413 in case.codes else repr(lost)
                answers[case.name, code] += 1


def watch(pair: Pair, seconds: float) -> dict[str, list[Sample]]:
    """Look at both processes until the end."""
    begin, samples = time.monotonic(), {"predictor": list[Sample](), "transformer": list[Sample]()}
    while (now := time.monotonic() - begin) < seconds:
        for (_, seen), server in zip(samples.items(), pair.servers, strict=True):
            seen.append(Sample(round(now, 1), memory(server) / 1e6, descriptors(server), threads(server)))
        time.sleep(EVERY)
    return samples


def growth(samples: Sequence[Sample], field: str) -> tuple[float, float]:
    """The median after the warm-up (the second quarter), and at the end (the last quarter)."""
    values = [float(getattr(sample, field)) for sample in samples]
    quarter = len(values) // 4
    return median(values[quarter : 2 * quarter]), median(values[-quarter:])


def unexpected(chosen: Sequence[Case], answers: Mapping[tuple[str, int | str], int]) -> dict[str, int]:
    """Answers of codes that their case does not have; a full queue is one that any may have."""
    codes = {case.name: {*case.codes, 429} for case in chosen}
    return {f"{name}: {code}": count for (name, code), count in answers.items() if code not in codes[name]}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Soak, tell, and leave with 1 when something grew or surprised."""
    settings = load_settings(SoakSettings, "python -m tests.soak", "SOAK_", argv, environ)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_pair(Path(folder), transformer=["--fetch_timeout", "5"]) as pair,
    ):
        chosen, answers = cases(pair), Counter[tuple[str, int | str]]()
        end = time.monotonic() + settings.seconds
        kinds = [[case for case in chosen if case.name.startswith(kind)] for kind in ("http", "grpc")]
        callers = [
            threading.Thread(target=drive, args=(pair, kind, end, answers, seed), daemon=True)
            for seed, kind in enumerate(kinds * CALLERS)
        ]
        for caller in callers:
            caller.start()
        samples = watch(pair, settings.seconds)
        for caller in callers:
            caller.join(60)
        bad = [line for line in pair.output.splitlines() if '"level": "error"' in line]
    surprises = unexpected(chosen, answers)
    rows = [(name, field, *growth(seen, field)) for name, seen in samples.items() for field in SLACK]
    grown = [f"{name} {field}" for name, field, early, late in rows if late - early > SLACK[field]]
    _tell(settings, rows, answers, surprises, bad)
    _write(Path(settings.output), samples, answers, surprises)
    sys.exit(1 if grown or surprises or bad else 0)


def _tell(
    settings: SoakSettings,
    rows: Sequence[tuple[str, str, float, float]],
    answers: Counter[tuple[str, int | str]],
    surprises: Mapping[str, int],
    bad: Sequence[str],
) -> None:
    print(f"{sum(answers.values())} requests of {len({name for name, _ in answers})} kinds in {settings.seconds:g} s\n")
    codes = Counter[str]()
    for (_, code), count in answers.items():
        codes[str(code)] += count
    print("  " + "  ".join(f"{code}: {count}" for code, count in sorted(codes.items())) + "\n")
    print(f"  {'':24}{'warm':>10}{'end':>10}{'change':>10}{'allowed':>10}")
    for name, field, early, late in rows:
        print(f"  {name + ' ' + field:24}{early:10.1f}{late:10.1f}{late - early:+10.1f}{SLACK[field]:+10.1f}")
    print(f"\n  unexpected answers: {dict(surprises) or 'none'}\n  errors in the logs: {len(bad)}")
    for line in bad[:5]:
        print(f"    {line[:300]}")


def _write(
    folder: Path,
    samples: Mapping[str, Sequence[Sample]],
    answers: Counter[tuple[str, int | str]],
    surprises: Mapping[str, int],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = {f"{name}: {code}": count for (name, code), count in sorted(answers.items(), key=str)}
    seen = {name: [asdict(sample) for sample in rows] for name, rows in samples.items()}
    text = json.dumps({"answers": told, "unexpected": surprises, "samples": seen}, indent=1)
    (folder / "soak.json").write_text(text)
    from matplotlib.figure import Figure  # only here: it takes a second

    figure = Figure(figsize=(8, 7), layout="constrained")
    for axes, field in zip(figure.subplots(len(SLACK), sharex=True), SLACK, strict=True):
        for name, rows in samples.items():
            axes.plot([row.seconds for row in rows], [getattr(row, field) for row in rows], label=name)
        axes.set_ylabel(field)
        axes.set_ylim(bottom=0)
        axes.legend()
    axes.set_xlabel("seconds")
    figure.savefig(folder / "soak.png")
    print(f"\n  {folder}/soak.json, {folder}/soak.png")


if __name__ == "__main__":
    run_program(main)
