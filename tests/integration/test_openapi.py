"""The OpenAPI document against the running servers: true, complete enough to generate requests from, and shown."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from launch import Server, running
from tests.conftest import Service
from tests.stand_ins import write_index

EXAMPLES = 15  # generated for each operation in each phase


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Both servers, around an engine that does not compute; no host but one is ever looked up."""
    folder = tmp_path_factory.mktemp("openapi")
    closed = ["--repository_token", "a-token-that-nobody-has"]
    with running("tests.pretender", closed, folder / "predictor.log") as predictor:
        flags = ["--predictor_host", predictor.http, "--index_dir", str(write_index(folder / "index"))]
        flags += ["--allow_hosts", "pictures.invalid"]
        with running("transformer", [*flags, *closed], folder / "transformer.log") as transformer:
            yield {"predictor": predictor, "transformer": transformer}


@pytest.fixture(params=["predictor", "transformer"])
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


def test_the_document_is_valid_and_its_examples_work(server: Server) -> None:
    document = httpx.get(f"http://{server.http}/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    infer = document["paths"]["/v2/models/doggos/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    metadata = httpx.get(f"http://{server.http}/v2/models/doggos").json()
    described = infer["properties"]["outputs"]["items"]["properties"]["name"]["enum"]
    assert described == [tensor["name"] for tensor in metadata["outputs"]]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = httpx.request(method, f"http://{server.http}{path}")
            assert str(answer.status_code) in operation["responses"], f"{method} {path}: {answer.status_code}"
            for example in examples(operation):
                answer = httpx.request(method, f"http://{server.http}{path}", json=example, timeout=30)
                assert answer.status_code == 200, answer.text


def examples(operation: dict[str, Any]) -> list[Any]:
    content = operation.get("requestBody", {}).get("content", {})
    return [example["value"] for kind in content.values() for example in kind.get("examples", {}).values()]


def test_every_route_of_the_documentation_is_described(service: Service) -> None:
    """docs/api.md and the document name the same routes."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    named = set(re.findall(r"`(?:GET |POST )?(/(?:predict|v1|v2)[^`\s]*)`", page))
    described = set(httpx.get(f"{service.url}/openapi.json").json()["paths"])
    assert named == described - {"/"}


def test_requests_generated_from_the_document(server: Server, tmp_path: Path) -> None:
    """Good and bad ones: what is answered is what the document says, and nothing fails."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"http://{server.http}/openapi.json"]
    # A URL can be of the right form and lead nowhere: the document cannot say which requests must succeed.
    command += ["--exclude-checks", "positive_data_acceptance", "--phases", "examples,coverage,fuzzing"]
    command += ["--generation-deterministic", "--max-examples", str(EXAMPLES), "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:]
    assert re.search(r"[1-9]\d\d generated, [1-9]\d\d passed", done.stdout), done.stdout[-2000:]
    assert "unexpected error" not in server.log.read_text()


def test_the_page_needs_no_other_host(service: Service) -> None:
    for server in (service.transformer, service.predictor):
        url = f"http://{server.http}/docs"
        page = httpx.get(url)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(assets) == 4
        for asset in assets:
            assert not urlsplit(asset).netloc
            answer = httpx.get(urljoin(url, asset))
            assert answer.status_code == 200, asset
            assert answer.content
        assert "<script>" not in page.text


def test_a_browser_shows_the_page(service: Service) -> None:
    """With the policy in force, and without a request to anywhere else."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    asked, problems = [], []
    with playwright.sync_playwright() as run:
        chromium = run.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(f"{service.url}/docs")
        tab.get_by_text("/v2/models/doggos/infer").wait_for(timeout=30_000)
        assert tab.locator(".opblock").count() > 10
        chromium.close()
    assert problems == []
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {service.transformer.http}
