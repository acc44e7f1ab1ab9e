"""What the environment of a process says of proxies and passwords is neither followed nor told."""

from pathlib import Path

import httpx

from launch import running
from tests.callers import ask_both
from tests.picture_host import run_picture_host
from tests.stand_ins import draw, running_stand_in, write_index

SECRET = "s3cr3t"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY", "NO_GRPC_PROXY", "NO_PROXY")


def test_neither_downloads_nor_the_hop_go_by_the_environment(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login dog password {SECRET}\n")
    netrc.chmod(0o600)
    with (
        running_stand_in() as stand_in,
        run_picture_host({}) as proxy,
        run_picture_host({"/r.png": draw("red")}) as host,
    ):
        through = f"http://user:{SECRET}@127.0.0.1:{proxy.port}"
        environ = {name: "" if name.startswith("NO_") else through for name in VARIABLES}
        environ |= {name.lower(): value for name, value in environ.items()}
        environ |= {"NETRC": str(netrc), "SSL_CERT_FILE": str(tmp_path / "none.pem"), "HOME": str(tmp_path)}
        flags = ["--predictor_host", f"localhost:{stand_in.port}", "--index_dir", str(write_index(tmp_path / "index"))]
        flags += ["--allow_networks", "127.0.0.1/32"]
        with running("transformer", flags, tmp_path / "log", environ=environ) as server:
            assert [answer.code for answer in ask_both(server)] == [200, "OK"]
            for url, code in ((host.url("/r.png"), 200), (host.url("/r.png").replace("http", "https"), 424)):
                answer = httpx.post(f"http://{server.http}/predict/", json={"url": url}, timeout=60, trust_env=False)
                assert answer.status_code == code, answer.text
            (_, headers), *_ = host.requests
            assert "Authorization" not in headers and "Proxy-Authorization" not in headers
        assert proxy.connections == 0
        assert SECRET not in server.log.read_text()
        assert SECRET not in str(stand_in.received)
