"""--predictor_host: what it may be, and a sentence for everything else."""

import pytest

from serving.errors import SettingError
from transformer.target import GRPC, REST, check_target, grpc_target, rest_hosts


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("doggos-predictor", [("doggos-predictor", 8080)]),
        ("a.b.svc:80, 10.0.0.1", [("a.b.svc", 80), ("10.0.0.1", 8080)]),
        ("[::1]:9080,[fd00::2]", [("::1", 9080), ("fd00::2", 8080)]),
    ],
)
def test_hosts_of_rest(text: str, hosts: list[tuple[str, int]]) -> None:
    assert rest_hosts(text) == hosts


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("doggos-predictor", "dns:///doggos-predictor:8081"),
        ("10.0.0.1,10.0.0.2:81", "ipv4:10.0.0.1:8081,10.0.0.2:81"),
        ("dns://10.0.0.9:53/a:8081", "dns://10.0.0.9:53/a:8081"),
        ("[::1]", "dns:///[::1]:8081"),
    ],
)
def test_targets_of_grpc(text: str, target: str) -> None:
    assert grpc_target(text) == target


@pytest.mark.parametrize("protocol", [REST, GRPC])
@pytest.mark.parametrize(
    "text",
    ["", " , ", "a:b", "a:0", "a:65536", "h:" + "0" * 5000 + "80", "::1", "[::1", "[]:80", "]", "[", "[::1]x:80", "[a]",
     "a b:80", "h :80", "h/v2:80", "user@h:80", "h?x:80", "*:80", "http://h:80", "https://h", "h]:80"],
)  # fmt: skip
def test_what_is_no_host_is_refused(text: str, protocol: str) -> None:
    with pytest.raises(SettingError, match="--predictor_host: "):
        check_target(text, protocol)
