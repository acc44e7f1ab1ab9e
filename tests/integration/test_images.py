"""`/images/<path>`: only pictures of the index, only from below the root, small, cached and bounded."""

import http.client
import io
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import boto3
import httpx
import numpy as np
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from embeddings import write_embeddings_part
from launch import Server, running
from serving.errors import ArtefactError, NotFound, SettingError, TooLarge
from tests.conftest import Service
from tests.stand_ins import CLASSES, MARK, draw, running_stand_in
from transformer.catalogue import Catalogue
from transformer.gallery import KeptBytes
from transformer.image_store import open_store
from transformer.page import content_policy

SECRET = draw("white", 10)
ODD_NAMES = (
    "100%/a b?c#d;e.png",
    "ünï/犬.png",
    "quo'te\"<b>&.png",
    "a+b=c.png",
    "%2e%2e/x.png",
    "narrow\u202fspace.png",
)
OUTSIDE = ("../secret.png", "a/../../secret.png", "link.png", "folder-link/secret.png", "circle.png", "./red/0.png")
MAX_BYTES = 100_000


def read_raw(server: Server, target: str, **headers: str) -> tuple[int, bytes]:
    """GET with the target as it is: other clients tidy it up."""
    connection = http.client.HTTPConnection(server.http, timeout=30)
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass(frozen=True)
class Album:
    """A transformer whose index has good and hostile paths, and the folders beside its root."""

    server: Server
    root: Path
    secret: Path

    def get(self, path: str, query: str = "") -> httpx.Response:
        return httpx.get(f"http://{self.server.http}/images/{quote(path)}{query}", timeout=30)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Album]:
    folder = tmp_path_factory.mktemp("album")
    root, secret = folder / "root", folder / "secret.png"
    secret.write_bytes(SECRET)
    absolute = str(secret)
    names = ("red/0.png", "inside-link.png", "gone.png", "broken.jpg", "large.png", "pipe.png", "folder", *ODD_NAMES)
    make_pictures(root, secret)
    paths = [*names, *OUTSIDE, absolute, f"/{absolute}"]
    index = folder / "index"
    index.mkdir()
    rows = np.ones((len(paths), MARK.dim), np.float32)
    write_embeddings_part(index / "part-00000.parquet", paths, [CLASSES[0]] * len(paths), rows, MARK)
    with running_stand_in() as stand_in:
        flags = ["--index_dir", str(index), "--predictor_host", stand_in.target, "--image_root", str(root)]
        flags += ["--max_picture_bytes", str(MAX_BYTES), "--page", "off"]
        with running("transformer", flags, folder / "transformer.log") as server:
            yield Album(server, root, secret)


def make_pictures(root: Path, secret: Path) -> None:
    for name in ("red/0.png", *ODD_NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(draw("red"))
    (root / "unlisted.png").write_bytes(draw("red"))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (root / "large.png").write_bytes(draw("red") + bytes(MAX_BYTES))
    os.mkfifo(root / "pipe.png")
    (root / "folder").mkdir()
    (root / "inside-link.png").symlink_to(root / "red" / "0.png")
    (root / "link.png").symlink_to(secret)
    (root / "folder-link").symlink_to(secret.parent)
    (root / "circle.png").symlink_to(root / "circle.png")


def test_pictures_of_the_index_come_small(service: Service) -> None:
    path = "rose_retriever/000.jpg"
    original = Image.open(service.workshop.images / path)
    for query, size in (("", 320), ("?size=320", 320), ("?size=640", 640), ("?size=1280", 1280)):
        answer = httpx.get(f"{service.url}/images/{path}{query}")
        picture = Image.open(io.BytesIO(answer.content))
        assert (answer.status_code, answer.headers["content-type"], picture.format) == (200, "image/jpeg", "JPEG")
        assert max(picture.size) == min(size, max(original.size)), "never larger than it is"
        assert picture.width / picture.height == pytest.approx(original.width / original.height, rel=0.02)
        assert answer.headers["x-content-type-options"] == "nosniff"
    for wrong in ("0", "-1", "321", "999999999", "x", ""):
        refused = httpx.get(f"{service.url}/images/{path}?size={wrong}")
        assert (refused.status_code, refused.json()["error"]) == (422, "size must be one of 320, 640, 1280")


def test_tags_spare_the_second_answer(album: Album) -> None:
    first = album.get("red/0.png")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "max-age=3600"
    url = str(first.url)
    for known in (tag, f'"other", W/{tag}'):
        again = httpx.get(url, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert httpx.get(url, headers={"if-none-match": '"other"'}).content == first.content
    assert album.get("red/0.png", "?size=640").headers["etag"] != tag
    head = httpx.head(url)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    assert int(head.headers["content-length"]) == len(first.content)
    (album.root / "red" / "0.png").write_bytes(draw("blue"))
    changed = httpx.get(url, headers={"if-none-match": tag})
    assert changed.status_code == 200, "a picture that was changed has another tag"
    assert Image.open(io.BytesIO(changed.content)).getpixel((5, 5))[2] > 150


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_found(album: Album, name: str) -> None:
    assert album.get(name).status_code == 200


def test_nothing_outside_the_root_whatever_the_path_says(album: Album) -> None:
    """These paths are all in the index, so only the root itself protects what is outside."""
    absolute = str(album.secret)
    for path in (*OUTSIDE, absolute, f"/{absolute}"):
        for target in (quote(path), quote(path, safe=""), quote(path).replace(".", "%2e")):
            status, body = read_raw(album.server, f"/images/{target}")
            assert status == 404, (target, body[:100])
    assert album.get("inside-link.png").status_code == 200, "a link that stays below the root is followed"


@pytest.mark.parametrize(
    "target",
    [
        "unlisted.png", "..%2f..%2fetc%2fpasswd", "../../../etc/passwd", "%2fetc%2fpasswd", "/etc/passwd", "red",
        "red/", "red%2f..%2fred%2f0.png", "red//0.png", "red/0.png/", "red/0.png%00", "red\\0.png", "%ff%fe", "",
        "red/0.PNG", "x" * 5000, "%2e%2e%2fsecret.png%00.png",
    ],
)  # fmt: skip
def test_what_is_not_in_the_index_is_not_found(album: Album, target: str) -> None:
    status, body = read_raw(album.server, f"/images/{target}")
    assert status == 404, body[:200]
    assert b"error" in body and b"/" not in body.replace(b"image_root", b""), "and no place of the machine is told"


def test_pictures_that_cannot_be_shown_say_so(album: Album) -> None:
    for path in ("gone.png", "pipe.png", "folder"):
        answer = album.get(path)
        assert (answer.status_code, answer.json()["error"][:33]) == (404, "the picture is in the index, but "), path
    assert "damaged" in album.get("broken.jpg").json()["error"]
    assert "more than 100000 bytes" in album.get("large.png").json()["error"]


def test_a_burst_is_answered_or_refused(service: Service) -> None:
    paths = [path.relative_to(service.workshop.images) for path in sorted(service.workshop.images.rglob("*.jpg"))]
    urls = [f"{service.url}/images/{path.as_posix()}?size=640" for path in paths] * 2
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=64)) as client, ThreadPoolExecutor(64) as callers:
        codes = [answer.status_code for answer in callers.map(client.get, urls)]
    assert set(codes) <= {200, 429}
    assert codes.count(200) > 300
    assert httpx.get(urls[0]).status_code == 200, "and afterwards it works as before"


def test_both_can_be_switched_off(album: Album, tmp_path: Path) -> None:
    """The album has no page; this one has no pictures either way."""
    html = {"accept": "text/html"}
    assert httpx.get(f"http://{album.server.http}/", headers=html).json() == {"status": "alive"}
    for path in ("/page/app.js", "/page/about.json"):
        assert httpx.get(f"http://{album.server.http}{path}").status_code == 404
    with running_stand_in() as stand_in:
        index = album.root.parent / "index"
        flags = ["--index_dir", str(index), "--predictor_host", stand_in.target]
        flags += ["--url_template", "https://pictures.example.com/{path}?size=1"]
        with running("transformer", flags, tmp_path / "transformer.log") as server:
            assert httpx.get(f"http://{server.http}/images/red/0.png").status_code == 404
            about = httpx.get(f"http://{server.http}/page/about.json").json()
            page = httpx.get(f"http://{server.http}/", headers=html)
    assert about["images"] is False
    assert about["examples"][0]["url"].startswith("https://pictures.example.com/")
    assert "img-src 'self' data: blob: https://pictures.example.com;" in page.headers["content-security-policy"]


def test_liveness_stays_at_the_root(service: Service) -> None:
    """KServe's probes ask there; only who wants HTML gets the page."""
    for accept in ("*/*", "application/json", ""):
        answer = httpx.get(f"{service.url}/", headers={"accept": accept})
        assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
    page = httpx.get(f"{service.url}/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    known = {"accept": "text/html", "if-none-match": page.headers["etag"]}
    assert httpx.get(f"{service.url}/", headers=known).status_code == 304
    for target in ("/page/../page.py", "/page/%2e%2e%2fpage.py", "/page/nothing.js", "/page/"):
        assert read_raw(service.transformer, target)[0] == 404


def test_a_preview_is_fetched_by_the_same_rules(service: Service) -> None:
    url = f"{service.url}/page/preview"
    good = httpx.post(url, json={"url": service.picture_url(service.held_out[0])})
    assert (good.status_code, good.headers["content-type"]) == (200, "image/jpeg")
    assert max(Image.open(io.BytesIO(good.content)).size) <= 640
    assert httpx.post(url, json={"url": "http://169.254.169.254/"}).status_code == 403
    assert httpx.post(url, json={"url": "http://10.0.0.1/"}).status_code == 403
    assert httpx.post(url, json={"url": f"{service.pictures}/nothing.jpg"}).status_code == 424
    assert httpx.post(url, content=b"<html>", headers={"content-type": "image/png"}).status_code == 400
    assert httpx.post(url, content=bytes(20_000_001), headers={"content-type": "image/png"}).status_code == 413


def test_pictures_in_an_object_store() -> None:
    store = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    store.start()
    try:
        _, port = store.get_host_and_port()
        endpoint = f"http://127.0.0.1:{port}"
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "hidden", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="dogs")
        client.put_object(Bucket="dogs", Key="images/red/a b.png", Body=draw("red"))
        client.put_object(Bucket="dogs", Key="secret.png", Body=SECRET)
        root = f"s3://key:hidden@dogs/images?scheme=http&region=us-east-1&endpoint_override=127.0.0.1%3A{port}"
        pictures = open_store(root)
        found = pictures.find("red/a b.png")
        assert found.read(MAX_BYTES) == draw("red")
        assert found.version == pictures.find("red/a b.png").version
        with pytest.raises(TooLarge):
            found.read(10)
        for path in ("red/none.png", "red", "../secret.png", "/secret.png", "red/../../secret.png", ""):
            with pytest.raises(NotFound):
                pictures.find(path)
    finally:
        store.stop()


def test_a_root_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--image_root: .*none is not a folder"):
        open_store(str(tmp_path / "none"))
    with pytest.raises(ArtefactError, match="--image_root: nowhere://place/x cannot be opened") as refused:
        open_store("nowhere://user:hidden@place/x")
    assert "hidden" not in str(refused.value)
    (tmp_path / "red.png").write_bytes(draw("red"))
    assert open_store(tmp_path.as_uri()).find("red.png").read(MAX_BYTES) == draw("red")


def test_a_mounted_root_may_be_moved(tmp_path: Path) -> None:
    """A volume of Kubernetes is a link that is moved when its content changes."""
    for name, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dog.png").write_bytes(draw(colour))
    (tmp_path / "root").symlink_to("one")
    store = open_store(str(tmp_path / "root"))
    before = store.find("dog.png")
    (tmp_path / "root").unlink()
    (tmp_path / "root").symlink_to("two")
    assert store.find("dog.png").read(MAX_BYTES) == draw("blue")
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(NotFound):
        before.read(MAX_BYTES)


def test_every_path_of_a_catalogue_is_found_and_no_other() -> None:
    paths = ["b", "a", "ü/\U0001f415", "\ufffd", "z" * 300, "a/b", "", "A"]
    catalogue = Catalogue(pa.array(paths))
    assert all(path in catalogue for path in paths)
    assert not any(path in catalogue for path in ("c", "a/", "aa", "\x00", "Z", "zz", "\U0001f415"))
    assert "a" not in Catalogue(pa.array([], pa.string()))


def test_what_is_kept_is_bounded() -> None:
    kept = KeptBytes(10)
    kept.put("a", bytes(4))
    kept.put("b", bytes(4))
    assert kept.get("a") is not None
    kept.put("c", bytes(4))
    assert kept.get("b") is None, "not used for the longest time"
    assert kept.get("a") is not None
    kept.put("large", bytes(11))
    assert kept.get("large") is None
    kept.put("a", bytes(10))
    kept.put("a", bytes(10))
    assert kept.get("a") == bytes(10)


@pytest.mark.parametrize(
    ("template", "sources"),
    [
        ("", "img-src 'self' data: blob:;"),
        ("/images/{path}", "img-src 'self' data: blob:;"),
        ("http://user:secret@cdn.example.com:8080/{path}", "img-src 'self' data: blob: http://cdn.example.com:8080;"),
        ("https://x; script-src *//{path}", "img-src 'self' data: blob:;"),
        ("s3://bucket/{path}", "img-src 'self' data: blob:;"),
    ],
)
def test_pictures_may_come_from_the_template_only(template: str, sources: str) -> None:
    assert sources in content_policy(template)
    assert "default-src 'self'" in content_policy(template)
