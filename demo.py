"""`make demo` and `make serve`: build the artefacts, start both servers, ask about one picture."""

import json
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from launch import Server, StartError, picture_server, running
from serving.errors import ArtefactError
from serving.program import run_program
from serving.settings import load_settings, parse_bool, setting
from workshop import Workshop, check_images

SERVE_PORTS = ("--http_port", "8080", "--grpc_port", "8081", "--metrics_port", "8082")
PICTURE_PORT = 8000
BAR = 24


@dataclass(frozen=True)
class DemoSettings:
    """Build a small service from nothing, or from your own CLIP and pictures, and ask it about one picture."""

    clip: str = setting("", "a CLIP: a Hugging Face directory or a hub id; empty makes a small random one")
    images: str = setting("", "a folder of class folders with pictures; empty draws some")
    demo_folder: str = setting(".demo", "where everything is kept")
    serve: bool = setting(False, "keep serving on ports 8080, 8081 and 8082 until Ctrl-C", parse=parse_bool)


class Steps:
    """Says which step is done and how long it took."""

    def __init__(self, count: int) -> None:
        self._count, self._done = count, 0

    def run(self, title: str, work: Callable[[], None]) -> None:
        self._done += 1
        print(f"[{self._done}/{self._count}] {title}", flush=True)
        begin = time.perf_counter()
        work()
        print(f"      {time.perf_counter() - begin:.1f} s", flush=True)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Build, start, ask; with `--serve on` stay."""
    settings = load_settings(DemoSettings, "python -m demo", "", argv, environ)
    check_images(settings.images)
    workshop = Workshop(settings.demo_folder, settings.clip, settings.images)
    workshop.root.mkdir(parents=True, exist_ok=True)
    steps = Steps(4)
    try:
        steps.run("the pictures and the CLIP", workshop.draw)
        steps.run("embeddings of the pictures, into Parquet", workshop.embed)
        steps.run("a head trained on them, into MLflow", workshop.train)
        with ExitStack() as stack:
            _serve_and_ask(settings, workshop, steps, stack)
    except StartError as error:
        raise ArtefactError(str(error)) from None


def _serve_and_ask(settings: DemoSettings, workshop: Workshop, steps: Steps, stack: ExitStack) -> None:
    addresses: dict[str, str] = {}
    servers: list[Server] = []

    def start() -> None:
        predictor_flags = ["--model_dir", str(workshop.model)]
        predictor = stack.enter_context(running("predictor", predictor_flags, workshop.root / "predictor.log"))
        flags = ["--predictor_host", predictor.http, "--index_dir", str(workshop.index)]
        flags += ["--image_root", str(workshop.images)]
        # The pictures come from this machine, which the address guard would refuse.
        flags += ["--allow_networks", "127.0.0.1/32", *(SERVE_PORTS if settings.serve else ())]
        transformer = stack.enter_context(running("transformer", flags, workshop.root / "transformer.log"))
        servers[:] = predictor, transformer
        port = PICTURE_PORT if settings.serve else 0
        addresses["pictures"] = stack.enter_context(picture_server(workshop.asked, port))
        addresses["service"] = f"http://{transformer.http}/predict/"

    steps.run("predictor, transformer and a web server for the pictures", start)
    url = f"{addresses['pictures']}/{quote(workshop.pick())}"
    begin = time.perf_counter()
    answer = ask(addresses["service"], url)
    show(url, answer, time.perf_counter() - begin)
    if settings.serve:
        stay(addresses["service"], url, servers)
    else:
        print(NEXT)


def ask(service: str, url: str) -> dict[str, Any]:
    """One request by URL."""
    body = json.dumps({"url": url, "k": 4, "n": 5}).encode()
    request = urllib.request.Request(service, body, {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return json.load(response)  # type: ignore[no-any-return]


def show(url: str, answer: Mapping[str, Any], seconds: float) -> None:
    """Print an answer for a person."""
    best = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:4]
    width = max(len(name) for name, _ in best)
    print(f"\n{url}\n\n  most probable classes")
    for name, probability in best:
        bar = "█" * round(probability * BAR)
        print(f"    {name:{width}}  {bar:<{BAR}} {probability:6.1%}")
    print("\n  most similar pictures among them")
    for match in answer["top_matches"]:
        print(f"    {match['similarity']:.4f}  {match['path']}")
    print(f"\nanswered in {seconds * 1000:.0f} ms")


def stay(service: str, url: str, servers: Sequence[Server]) -> None:
    """Until Ctrl-C; raises StartError when a server ends before."""
    body = json.dumps({"url": url, "k": 4})
    page = service.removesuffix("predict/")
    print(f"\nServing. Open {page} in a browser, or ask with")
    print(f"\n  curl -s {service} -H 'content-type: application/json' -d '{body}'")
    print("\nCtrl-C stops it.", flush=True)
    try:
        while not (ended := [server for server in servers if server.process.poll() is not None]):
            time.sleep(1)
    except KeyboardInterrupt:
        print("\nstopped")
        return
    code, log = ended[0].process.returncode, ended[0].log
    raise StartError(f"the {log.stem} ended with exit code {code}; its log is {log}")


NEXT = """
What next
  make serve                                keep it running, and look dogs up at http://127.0.0.1:8080 in a browser
  CLIP=openai/clip-vit-base-patch32 IMAGES=<folder of class folders> make demo
                                            the same with a real CLIP and your own pictures
  less README.md                            the API, your own model and data, Kubernetes"""

if __name__ == "__main__":
    run_program(main)
