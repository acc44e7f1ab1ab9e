"""`/predict/` in all its forms, with real servers and real sockets."""

import httpx
import pytest

from tests.conftest import Service


def post(service: Service, **arguments: object) -> httpx.Response:
    return httpx.post(f"{service.url}/predict/", timeout=30, **arguments)  # type: ignore[arg-type]


def test_all_forms_give_the_same_answer(service: Service) -> None:
    picture = service.held_out[0]
    url, data = service.picture_url(picture), picture.read_bytes()
    by_url = post(service, json={"url": url, "k": 2, "n": 3})
    assert by_url.status_code == 200, by_url.text
    expected = by_url.json()
    assert [len(expected["probabilities"]), len(expected["top_matches"])] == [16, 3]
    as_body = post(service, params={"k": 2, "n": 3}, content=data, headers={"content-type": "image/jpeg"})
    as_form = post(service, params={"k": 2}, data={"n": "3"}, files={"file": ("dog.jpg", data, "image/jpeg")})
    url_in_form = post(service, files={"url": (None, url), "k": (None, "2"), "n": (None, "3")})
    without_type = post(service, content=by_url.request.content)
    # curl -d says that its JSON is a form, and the Ray application did not mind.
    from_curl = post(
        service, content=by_url.request.content, headers={"content-type": "application/x-www-form-urlencoded"}
    )
    without_slash = httpx.post(f"{service.url}/predict", json={"url": url, "k": 2, "n": 3}, timeout=30)
    for answer in (as_body, as_form, url_in_form, without_type, from_curl, without_slash):
        assert answer.status_code == 200, answer.text
        assert answer.json() == expected


def test_k_and_n_may_also_be_in_the_query_but_not_twice(service: Service) -> None:
    url = service.picture_url(service.held_out[0])
    expected = post(service, json={"url": url, "k": 1, "n": 2}).json()
    assert post(service, params={"k": 1, "n": 2}, json={"url": url}).json() == expected
    for body in ({"json": {"url": url, "k": 1}}, {"files": {"url": (None, url), "k": (None, "1")}}):
        answer = post(service, params={"k": 1}, **body)
        assert answer.status_code == 400
        assert "leave one out" in answer.json()["error"]


def test_k_limits_the_classes_that_are_searched(service: Service) -> None:
    url = service.picture_url(service.held_out[0])
    one = post(service, json={"url": url, "k": 1, "n": 100}).json()
    best = max(one["probabilities"], key=lambda name: one["probabilities"][name])
    assert {match["class"] for match in one["top_matches"]} == {best}
    assert len(one["top_matches"]) == 24  # all there are, fewer than n
    every = post(service, json={"url": url, "k": 10_000, "n": 100}).json()
    assert len(every["top_matches"]) == 100
    similarities = [match["similarity"] for match in every["top_matches"]]
    assert similarities == sorted(similarities, reverse=True)


def test_defaults_are_four_classes_and_five_matches(service: Service) -> None:
    url = service.picture_url(service.held_out[3])
    default = post(service, json={"url": url}).json()
    assert default == post(service, json={"url": url, "k": 4, "n": 5}).json()
    assert len(default["top_matches"]) == 5
    assert set(default["top_matches"][0]) == {"class", "path", "similarity"}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, "not json"),
        (400, "[1]"),
        (400, "{}"),
        (400, '{"url": 3}'),
        (400, '{"url": "http://127.0.0.1/x", "k": "4"}'),
        (400, '{"url": "http://127.0.0.1/x", "k": 1.5}'),
        (400, '{"url": "http://127.0.0.1/x", "k": true}'),
        (400, '{"url": "http://127.0.0.1/x", "top_k": 3}'),
        (422, '{"url": "http://127.0.0.1/x", "k": 0}'),
        (422, '{"url": "http://127.0.0.1/x", "n": 0}'),
        (422, '{"url": "http://127.0.0.1/x", "n": 101}'),
        (422, '{"url": "ftp://127.0.0.1/x"}'),
        (403, '{"url": "http://169.254.169.254/latest/meta-data"}'),
        (403, '{"url": "http://10.0.0.1/x.jpg"}'),
        (424, '{"url": "http://127.0.0.1:9/x.jpg"}'),
    ],
)
def test_bad_requests_get_their_code_and_a_sentence(service: Service, status: int, body: str) -> None:
    answer = post(service, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert len(answer.json()["error"]) > 10


def test_what_is_no_picture_is_refused_in_every_form(service: Service) -> None:
    cut = service.held_out[0].read_bytes()[:2000]
    for content in (b"", b"hello", cut):
        answer = post(service, content=content, headers={"content-type": "image/jpeg"})
        assert answer.status_code == 400, answer.text
    assert post(service, content=b"x", headers={"content-type": "application/pdf"}).status_code == 415
    assert post(service, data={"k": "1"}, files={"other": (None, "x")}).status_code == 400
    missing = post(service, json={"url": f"{service.pictures}/nothing.jpg"})
    assert missing.status_code == 424
    assert "404" in missing.json()["error"]


def test_large_bodies_and_pictures_are_refused(service: Service) -> None:
    picture = {"content-type": "image/jpeg"}
    assert post(service, content=bytes(21_000_000), headers=picture).status_code == 413  # one picture
    assert post(service, content=bytes(33 * 2**20), headers=picture).status_code == 413  # any body

    def endless() -> object:
        for _ in range(40):
            yield bytes(2**20)

    answer = post(service, content=endless(), headers=picture)
    assert answer.status_code == 413, "a body of unknown length is capped while it is read"
    assert "bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    ("status", "allow", "method", "path"),
    [
        (404, None, "GET", "/nowhere"),
        (404, None, "POST", "/predict/nowhere"),
        (404, None, "POST", "/v2/models/doggos/infer/"),
        (404, None, "GET", "/metrics"),  # they have a port of their own
        (405, "POST", "GET", "/predict/"),
        (405, "POST", "HEAD", "/predict/"),
        (405, "POST", "OPTIONS", "/predict/"),
        (405, "POST", "GET", "/v1/models/doggos:predict"),
        (405, "POST", "DELETE", "/v2/models/doggos/infer"),
        (405, "GET, HEAD", "POST", "/v2/health/live"),
        (405, "GET, HEAD", "OPTIONS", "/v2"),
        (404, None, "GET", "/v2/models/doggos/versions/1"),
        (404, None, "GET", "/v2/models/doggos/versions/1/ready"),
        (404, None, "POST", "/v2/models/doggos/versions/1/infer"),
        (404, None, "GET", "/v2/models/cats/versions/1"),
        (404, None, "POST", "/v2/models/cats/infer"),
    ],
)
def test_unknown_routes_and_methods_have_the_same_form(
    service: Service, status: int, allow: str | None, method: str, path: str
) -> None:
    answer = httpx.request(method, service.url + path)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
    assert method == "HEAD" or list(answer.json()) == ["error"]


def test_head_is_answered_like_get_without_a_body(service: Service) -> None:
    with httpx.Client() as client:
        for path in ("/", "/v2", "/v2/health/ready", "/v2/models/doggos", "/docs"):
            get, head = client.get(service.url + path), client.head(service.url + path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == get.headers["content-length"]
