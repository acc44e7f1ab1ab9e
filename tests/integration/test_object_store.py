"""An index in an object store, by a URI: read, searched and served, and its keys are never shown."""

import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import boto3
import numpy as np
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from embeddings import read_embeddings
from launch import running
from serving.errors import ArtefactError
from tests.callers import ask_rest
from tests.programs import program
from tests.stand_ins import running_stand_in, write_index

KEY, SECRET = "AKIAUSER", "topsecret/with+signs"
NOT_TO_BE_SHOWN = re.compile("topsecret|AKIAUSER|endpoint_override|%2F")


@dataclass(frozen=True)
class Store:
    """A bucket `dogs` with an index of two parts at `v1/`, which is also in a folder here."""

    endpoint: str
    local: Path

    def uri(self, path: str, endpoint: str = "", **query: str) -> str:
        options = urlencode({"endpoint_override": endpoint or self.endpoint, "scheme": "http", **query})
        return f"s3://{KEY}:{SECRET.replace('/', '%2F').replace('+', '%2B')}@{path}?{options}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    local = tmp_path_factory.mktemp("index")
    for part in ("a", "b"):
        write_index(local / part)
    (local / "_temporary").mkdir()
    (local / "_temporary" / "x.parquet").write_text("not Parquet")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(proxies={}),
    )
    client.create_bucket(Bucket="dogs")
    for file in local.rglob("*.parquet"):
        client.upload_file(str(file), "dogs", f"v1/{file.relative_to(local).as_posix()}")
    client.put_object(Bucket="dogs", Key="damaged/part.parquet", Body=b"not Parquet")
    yield Store(f"{host}:{port}", local)
    server.stop()


def test_the_rows_are_those_of_the_folder(store: Store) -> None:
    found, expected = read_embeddings(store.uri("dogs/v1")), read_embeddings(str(store.local))
    assert found.paths.to_pylist() == expected.paths.to_pylist()
    assert len(found.codes) == 24 and found.labels == expected.labels and found.mark == expected.mark
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    assert len(read_embeddings(store.uri("dogs/v1/a/part-00000.parquet")).codes) == 12


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("dogs/v2", "s3://dogs/v2 does not exist"),
        ("cats/v1", "s3://cats/v1 does not exist"),
        ("dogs/damaged", "dogs/damaged/part.parquet cannot be read as Parquet"),
    ],
)
def test_what_is_not_there_is_named_without_the_keys(
    path: str, sentence: str, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ArtefactError) as caught:
        read_embeddings(store.uri(path))
    assert sentence in str(caught.value)
    assert not NOT_TO_BE_SHOWN.search(str(caught.value) + "".join(capfd.readouterr()))


def test_a_transformer_serves_from_the_store(store: Store, tmp_path: Path) -> None:
    with running_stand_in() as stand_in:
        flags = ["--index_dir", store.uri("dogs/v1"), "--predictor_host", stand_in.target]
        with running("transformer", flags, tmp_path / "transformer.log") as server:
            assert ask_rest(server).matches == ["red", "red"]
        assert not NOT_TO_BE_SHOWN.search((tmp_path / "transformer.log").read_text())


def test_a_store_that_cannot_be_reached_ends_the_start_with_a_sentence(store: Store, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"127.0.0.1:{gone.getsockname()[1]}"
    with running_stand_in() as stand_in:
        flags = ["--index_dir", store.uri("dogs/v1", endpoint), "--predictor_host", stand_in.target]
        with program("transformer", flags, tmp_path) as started:
            assert started.end() == 1
    assert started.lines[-1].startswith("error: s3://dogs/v1 cannot be opened (")
    assert "Traceback" not in started.log.read_text()
    assert not NOT_TO_BE_SHOWN.search(started.log.read_text() + started.output.read_text())
