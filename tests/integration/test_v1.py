"""The V1 protocol: `:predict` with the tutorial's fields."""

import httpx
import pytest

from tests.conftest import Service

PREDICT = "/v1/models/doggos:predict"


def test_predictions_have_the_predict_routes_shape(service: Service) -> None:
    first, second = (service.picture_url(path) for path in service.held_out[:2])
    instances = [{"url": first, "k": 1, "n": 2}, {"url": second}]
    answer = httpx.post(service.url + PREDICT, json={"instances": instances}, timeout=30)
    assert answer.status_code == 200, answer.text
    alone = [httpx.post(f"{service.url}/predict/", json=instance, timeout=30).json() for instance in instances]
    for prediction, expected in zip(answer.json()["predictions"], alone, strict=True):
        assert [match["path"] for match in prediction["top_matches"]] == [m["path"] for m in expected["top_matches"]]
        assert prediction["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {}),
        (400, {"instances": "x"}),
        (400, {"instances": [{"k": 1}]}),
        (422, {"instances": []}),
        (422, {"instances": [{"url": "http://127.0.0.1/"}] * 33}),
        (403, {"instances": [{"url": "http://10.0.0.1/"}]}),
    ],
)
def test_bad_instances_get_their_code(service: Service, status: int, body: dict[str, object]) -> None:
    answer = httpx.post(service.url + PREDICT, json=body, timeout=30)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_other_models_are_unknown(service: Service) -> None:
    answer = httpx.post(f"{service.url}/v1/models/cats:predict", json={"instances": []})
    assert answer.status_code == 404
    assert httpx.get(f"{service.url}/v1/models").json() == {"models": ["doggos"]}
