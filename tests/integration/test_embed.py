"""`python -m transformer.embed` with a real predictor: stopped, shared, resumed, and given bad pictures."""

import csv
import functools
import http.server
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddings import Embeddings, read_embeddings
from launch import PictureServer, picture_server
from serving.errors import ArtefactError, NotReady, SettingError
from tests.conftest import LOOPBACK_ONLY, Service
from tests.relay import Relay
from transformer.embed import find_pictures, main

SMALL = ("--rows_per_part", "16", "--batch_size", "4", "--clip_name", "sample")


@pytest.fixture(scope="module")
def images(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of the sample's classes: 96 pictures, six small parts."""
    folder = tmp_path_factory.mktemp("images")
    for source in sorted(service.workshop.images.iterdir())[:4]:
        (folder / source.name).symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(service: Service, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    output = tmp_path_factory.mktemp("embed") / "whole"
    embed(service, images, output)
    return read_embeddings(str(output))


def arguments(service: Service, source: Path, output: Path, *flags: str) -> list[str]:
    return [str(source), "--predictor_host", service.predictor.http, "--output", str(output), *SMALL, *flags]


def embed(service: Service, source: Path, output: Path, *flags: str) -> None:
    main(arguments(service, source, output, *flags), {})


@contextmanager
def started(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """The program as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "transformer.embed", *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def write_list(file: Path, rows: Sequence[Sequence[str]], *columns: str) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


def assert_same(found: Embeddings, expected: Embeddings) -> None:
    assert found.paths.to_pylist() == expected.paths.to_pylist()
    assert [found.labels[code] for code in found.codes] == [expected.labels[code] for code in expected.codes]
    # The predictor batches what comes at the same time, and sums of another order differ in the last digits.
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-5)
    assert found.mark == expected.mark


def test_every_picture_of_a_folder_is_in_the_parts(service: Service, images: Path, uninterrupted: Embeddings) -> None:
    assert uninterrupted.paths.to_pylist() == find_pictures(images)
    assert uninterrupted.mark and uninterrupted.mark.name == "sample" and uninterrupted.mark.exif_orientation
    index = read_embeddings(str(service.workshop.index))  # of all classes, in other batches
    rows = [index.paths.to_pylist().index(path) for path in find_pictures(images)]
    np.testing.assert_allclose(uninterrupted.matrix, index.matrix[rows], atol=1e-5)


class Gate(http.server.SimpleHTTPRequestHandler):
    """Serves the early pictures at once, and the others when the gate is open."""

    def __init__(self, *arguments: Any, early: Set[str], is_open: threading.Event, directory: str) -> None:
        self.early, self.is_open = early, is_open
        super().__init__(*arguments, directory=directory)

    def do_GET(self) -> None:
        if self.path not in self.early:
            self.is_open.wait(60)
        with suppress(ConnectionError):  # who asked may have been killed
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def gated(images: Path) -> Iterator[tuple[str, threading.Event]]:
    """A URL of the pictures, of which all but the first 40 are held back, and what lets them go."""
    is_open = threading.Event()
    early = {f"/{path}" for path in find_pictures(images)[:40]}
    handler = functools.partial(Gate, early=early, is_open=is_open, directory=str(images))
    server = PictureServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", is_open
    is_open.set()
    server.shutdown()
    server.server_close()


def wait_for_part(process: "subprocess.Popen[str]", part: Path) -> None:
    while not part.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [("SIGKILL", -9), ("SIGTERM", 143), ("SIGINT", 130)])
def test_a_run_that_was_stopped_goes_on_without_a_duplicate_or_a_hole(
    service: Service, images: Path, uninterrupted: Embeddings, gated: tuple[str, threading.Event], tmp_path: Path,
    number: str, code: int,
) -> None:  # fmt: skip
    url, gate = gated
    rows = [(path, f"{url}/{path}", path.split("/")[0]) for path in find_pictures(images)]
    source, output = write_list(tmp_path / "list.csv", rows, "path", "url", "class"), tmp_path / "out"
    flags = (*LOOPBACK_ONLY, "--fetch_timeout", "60")
    with started(arguments(service, source, output, *flags)) as process:
        wait_for_part(process, output / "part-00001.parquet")
        process.send_signal(signal.Signals[number])
        said = process.communicate(timeout=30)[1]
    assert process.returncode == code
    if code > 0:
        assert said.strip().endswith("stopped: the same command goes on where this one ended")
    before = {file: file.stat().st_mtime_ns for file in output.glob("*.parquet")}
    assert len(before) == 2
    gate.set()
    embed(service, source, output, *flags)
    assert_same(read_embeddings(str(output)), uninterrupted)
    assert {file: file.stat().st_mtime_ns for file in before} == before  # nothing was done twice


def test_a_finished_run_says_so_and_another_plan_is_refused(
    service: Service, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    embed(service, images, output)
    assert capsys.readouterr().out == f"{output}: 96 pictures embedded, none skipped\n"
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*")}
    embed(service, images, output, "--shard", "1/4", "--batch_size", "7")  # neither decides what is in a part
    embed(service, images, output)
    assert capsys.readouterr().out.splitlines() == [
        f"shard 1/4 of {output} is finished already: 32 pictures embedded, none skipped",
        f"{output} is finished already: 96 pictures embedded, none skipped",
    ]
    for flags, says in [
        (["--rows_per_part", "10"], "was begun with --rows_per_part 16, and this run has --rows_per_part 10"),
        (["--exif_orientation", "off"], "--exif_orientation on, and this run has --exif_orientation off"),
        (["--clip_name", "other"], "--clip_name sample, and this run has --clip_name other"),
    ]:
        with pytest.raises(ArtefactError, match=says):
            embed(service, images, output, *flags)
    with pytest.raises(ArtefactError, match="a list of 96 pictures, and this run has a list of 384 pictures"):
        embed(service, service.workshop.images, output)
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*")} == before


def test_shards_share_the_work_in_one_folder(
    service: Service, images: Path, uninterrupted: Embeddings, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    commands = [arguments(service, images, output, "--shard", f"{i}/2") for i in range(2)]
    with started(commands[0]) as first, started(commands[1]) as second:
        said = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert said[0][0] == f"shard 0/2 of {output}: 48 pictures embedded, none skipped\n"
    assert_same(read_embeddings(str(output)), uninterrupted)


def test_one_shard_makes_its_own_parts_only(
    service: Service, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(service, images, tmp_path, "--shard", "1/4")
    assert sorted(file.name for file in tmp_path.glob("*.parquet")) == ["part-00001.parquet", "part-00005.parquet"]
    embed(service, images, tmp_path, "--shard", "6/7")
    assert "there are fewer parts than shards" in capsys.readouterr().out


def test_bad_pictures_are_listed_and_the_others_embedded(
    service: Service, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, folder = find_pictures(images)[:20], tmp_path / "images"
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((images / path).read_bytes())
    (folder / paths[3]).write_bytes((images / paths[3]).read_bytes()[:500])
    (folder / paths[17]).write_text("<html>not found</html>")
    output = tmp_path / "out"
    embed(service, folder, output)
    assert f"18 pictures embedded, 2 skipped (see {output}/_skipped)" in capsys.readouterr().out
    listed = [list(csv.DictReader(file.open())) for file in sorted((output / "_skipped").iterdir())]
    assert [[row["path"] for row in rows] for rows in listed] == [[paths[3]], [paths[17]]]
    assert all(row["reason"].startswith("400 the picture ") for rows in listed for row in rows)
    assert read_embeddings(str(output)).paths.to_pylist() == [p for p in paths if p not in (paths[3], paths[17])]
    # The side file is itself a list: mended pictures are embedded from it.
    (folder / paths[3]).write_bytes((images / paths[3]).read_bytes())
    mended = tmp_path / "mended"
    embed(service, output / "_skipped" / "part-00000.csv", mended, "--image_root", str(folder))
    assert read_embeddings(str(mended)).paths.to_pylist() == [paths[3]]


def test_urls_are_fetched_behind_the_address_guard(service: Service, images: Path, tmp_path: Path) -> None:
    paths = find_pictures(images)[::12]
    with picture_server(images) as url:
        rows = [*((f"{url}/{path}", path.split("/")[0]) for path in paths), (f"{url}/gone.jpg", "amber_akita")]
        table = pa.table({"url": [row[0] for row in rows], "class": [row[1] for row in rows]})
        pq.write_table(table, tmp_path / "list.parquet")
        command = arguments(service, tmp_path / "list.parquet", tmp_path / "refused")
        with started(command) as process:
            said = process.communicate(timeout=60)[1]
        embed(service, tmp_path / "list.parquet", tmp_path / "allowed", *LOOPBACK_ONLY, "--fetch_concurrency", "2")
    last = said.strip().splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("error: no picture could be embedded, 9 skipped") and "403 the picture's address" in last
    listed = list(csv.DictReader((tmp_path / "refused" / "_skipped" / "part-00000.csv").open()))
    assert [row["url"] for row in listed] == [row[0] for row in rows]
    assert {row["reason"][:3] for row in listed} == {"403"}
    assert not list((tmp_path / "refused").glob("*.parquet"))
    assert read_embeddings(str(tmp_path / "allowed")).paths.to_pylist() == [f"{url}/{path}" for path in paths]
    (gone,) = csv.DictReader((tmp_path / "allowed" / "_skipped" / "part-00000.csv").open())
    assert gone["reason"] == "424 the picture's host answered 404"


def test_a_predictor_that_is_not_there_ends_the_run_after_the_timeout(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--predictor_host", "127.0.0.1:9", "--output", str(tmp_path / "out"), "--predictor_timeout", "0.5"]
    with pytest.raises(NotReady, match=r"no answer from the predictor for 0\.5 s \(the predictor cannot be reached\)"):
        main([str(images), *flags], {})
    assert "waiting for the predictor: the predictor cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_predictor_that_is_lost_in_the_middle_is_waited_for(
    service: Service, images: Path, uninterrupted: Embeddings, gated: tuple[str, threading.Event], tmp_path: Path
) -> None:
    url, gate = gated
    relay, output = Relay(service.predictor.http), tmp_path / "out"
    rows = [(path, f"{url}/{path}", path.split("/")[0]) for path in find_pictures(images)]
    source = write_list(tmp_path / "list.csv", rows, "path", "url", "class")
    command = arguments(service, source, output, *LOOPBACK_ONLY, "--fetch_timeout", "60")
    command[command.index(service.predictor.http)] = relay.address
    with started([*command, "--predictor_timeout", "1"]) as process:
        wait_for_part(process, output / "part-00001.parquet")
        relay.cut()
        gate.set()
        last = process.communicate(timeout=60)[1].strip().splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("error: no answer from the predictor for 1 s") and "same command goes on" in last
    with started(command) as process:
        assert process.stderr
        while "waiting for the predictor" not in process.stderr.readline():
            assert process.poll() is None
        relay.mend()
        said = process.communicate(timeout=60)
    relay.cut()
    assert process.returncode == 0, said
    assert_same(read_embeddings(str(output)), uninterrupted)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--predictor_host: say where the predictor is"),
        (["--predictor_host", "h:1"], "--output: name a folder"),
        (["--predictor_host", "h:1", "--output", "o", "--shard", "2/2"], "--shard: '2/2' cannot be used: use i/n"),
        (["--predictor_host", "h:1", "--output", "o", "--shard", "1"], "use i/n"),
        (["--predictor_host", "h:1", "--output", "o", "--rows_per_part", "0"], "use 1 or more"),
        (["--predictor_host", "h:1", "--output", "o", "--allow_networks", "all"], "--allow_networks: 'all'"),
        (["--predictor_host", "h:p", "--output", "o"], "is not HOST or HOST:PORT"),
    ],
)
def test_wrong_settings_are_refused_before_anything_else(flags: list[str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        main([*flags, str(Path(__file__).parent / "missing")], {})


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="has no pictures; a folder must hold <class>/<picture>"):
        main([str(tmp_path), "--predictor_host", "127.0.0.1:9", "--output", str(tmp_path / "out")], {})
