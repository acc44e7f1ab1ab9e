"""Downloads over TLS and through an egress proxy."""

import asyncio
import datetime
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.deadline import Deadline
from serving.errors import AddressRefused, NotReady, SettingError
from tests.picture_host import PictureHost
from tests.unit.transformer.fetching import PICTURE, Run, both_loops, fail, loopback
from transformer.download import Downloader, FetchLimits

PICTURES = {"/dog.jpg": PICTURE}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and good.test, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("good.test")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(signed.public_bytes(form[0]) + key.private_bytes(*form))
    return file


def tls_host(certificate: Path) -> PictureHost:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return PictureHost(PICTURES, context)


def downloader(ca_file: Path | None = None, proxy: str | None = None) -> Downloader:
    return Downloader(
        FetchLimits(connect_timeout=20, total_timeout=20),
        None if proxy else loopback,
        [] if proxy else [ip_network("127.0.0.1/32")],
        proxy=proxy,
        ca_file=str(ca_file) if ca_file else None,
    )


@both_loops
def test_a_certificate_must_be_trusted_and_of_that_name(run: Run, certificate: Path) -> None:
    async def main() -> None:
        async with tls_host(certificate) as host:
            trusting, wary = downloader(certificate), downloader()
            for name in ("127.0.0.1", "good.test", "good.test."):
                assert await trusting.fetch(host.url("/dog.jpg", host=name), Deadline.after(20)) == PICTURE
                assert "TLS" in str(await fail(wary, host.url("/dog.jpg", host=name)))
            assert "TLS" in str(await fail(trusting, host.url("/dog.jpg", host="evil.test")))
            await trusting.close()
            await wary.close()

    run(main())


def test_a_redirect_may_go_to_https_but_not_back(certificate: Path) -> None:
    async def main() -> None:
        async with tls_host(certificate) as safe, PictureHost(PICTURES) as plain:
            trusting = downloader(certificate)
            up, down = plain.url("/redirect/302/" + safe.url("/dog.jpg")), safe.url("/redirect/302/" + plain.url("/"))
            assert await trusting.fetch(up, Deadline.after(20)) == PICTURE
            before = plain.connections
            assert "from https to http" in str(await fail(trusting, down))
            assert plain.connections == before
            await trusting.close()

    asyncio.run(main())


@both_loops
def test_a_proxy_gets_every_request_and_the_names_with_it(run: Run) -> None:
    async def main() -> None:
        async with PictureHost({"http://unknown.test/dog.jpg": PICTURE}) as proxy:
            through = downloader(proxy=proxy.url(""))
            proxy.answers["unknown.test:443"] = b"HTTP/1.1 403 Forbidden\r\n\r\n"
            proxy.answers["http://unknown.test/out"] = b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n"
            assert await through.fetch("http://unknown.test/dog.jpg", Deadline.after(20)) == PICTURE
            assert "egress proxy answered 403" in str(await fail(through, "https://unknown.test/dog.jpg"))
            assert [target for target, _ in proxy.requests] == ["http://unknown.test/dog.jpg", "unknown.test:443"]
            for literal in ("http://127.0.0.1/", "https://[::1]/", "http://unknown.test/out"):
                assert isinstance(await fail(through, literal), AddressRefused)
            assert [target for target, _ in proxy.requests][2:] == ["http://unknown.test/out"]
            await through.close()

    run(main())


def test_a_proxy_that_is_away_is_not_blamed_on_the_host() -> None:
    async def main() -> None:
        away = downloader(proxy="http://127.0.0.1:1")
        assert isinstance(await fail(away, "http://unknown.test/"), NotReady)
        assert isinstance(await fail(away, "https://unknown.test/"), NotReady)
        await away.close()

    asyncio.run(main())


def test_settings_that_cannot_work_end_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for ca_file in ("empty.pem", "missing.pem"):
        with pytest.raises(SettingError):
            downloader(ca_file=tmp_path / ca_file)
    for proxy in ("proxy:3128", "socks5://proxy:1080", "http://", "http://[::1", "http://proxy:99999"):
        with pytest.raises(SettingError):
            downloader(proxy=proxy)
