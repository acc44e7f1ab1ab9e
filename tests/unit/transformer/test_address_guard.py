"""Addresses and URLs, judged without a network."""

from ipaddress import IPv4Address, IPv6Address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.errors import AddressRefused, ServiceError
from tests.unit.transformer.urls import GOOD, HOSTILE
from transformer.address_guard import check_address, check_host, check_url

NETWORKS = """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 168.63.129.16/32
    2001:db8::/32 2002::/16 3fff::/20 2001::/23 ::/3 4000::/2 8000::/1""".split()  # noqa: SIM905
EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def accepts(address: str, *allowed: str) -> bool:
    try:
        check_address(address, [ip_network(text) for text in allowed])
    except AddressRefused:
        return False
    return True


@pytest.mark.parametrize("text", NETWORKS)
def test_a_network_is_refused_to_its_edges_and_not_beyond(text: str) -> None:
    network = ip_network(text)
    first, last = network.network_address, network.broadcast_address
    assert not accepts(str(first))
    assert not accepts(str(last))
    outside = [address for address in (_shift(first, -1), _shift(last, +1)) if address]
    not_refused_by_a_neighbour = [a for a in outside if not any(a in ip_network(n) for n in NETWORKS)]
    assert all(accepts(str(a)) for a in not_refused_by_a_neighbour if a not in ip_network("224.0.0.0/3"))


def _shift(address: IPv4Address | IPv6Address, by: int) -> IPv4Address | IPv6Address | None:
    number = int(address) + by
    return type(address)(number) if 0 <= number < 1 << address.max_prefixlen else None


@given(st.ip_addresses())
@example(IPv6Address("64:ff9b::808:808"))
def test_what_is_accepted_is_public_by_the_standard_library_too(address: IPv4Address | IPv6Address) -> None:
    if accepts(str(address)):
        assert address.is_global
        assert not (address.is_multicast or (address.is_reserved and address not in ip_network("64:ff9b::/96")))
        assert not (isinstance(address, IPv6Address) and (address.is_site_local or address.ipv4_mapped))


@given(st.ip_addresses(v=4))
def test_nat64_is_as_good_as_what_it_embeds(address: IPv4Address) -> None:
    assert accepts(f"64:ff9b::{address}") == accepts(str(address))
    assert accepts(f"64:ff9b::{address}", f"{address}/32") == accepts(str(address), f"{address}/32")


@pytest.mark.parametrize("address", ["", "localhost", "1.2.3", "0x8.8.8.8", "8.8.8.8 ", "8.8.8.8%eth0", "2600::1%1"])
def test_what_is_not_a_plain_address_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(address, EVERYTHING)


def test_allowed_networks_exempt_addresses() -> None:
    assert accepts("127.0.0.1", "127.0.0.1/32")
    assert accepts("10.1.2.3", "192.168.0.0/16", "10.0.0.0/8")
    assert accepts("fd12::1", "fd12::/16")
    assert accepts("64:ff9b::10.1.2.3", "10.0.0.0/8")
    assert not accepts("127.0.0.2", "127.0.0.1/32")
    assert not accepts("::1", "127.0.0.1/32")
    assert not accepts("::ffff:127.0.0.1", "127.0.0.1/32")


METADATA = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192"]
EMBEDDED = ["{}", "::ffff:{}", "::{}", "64:ff9b::{}", "64:ff9b:1::{}"]
METADATA_6 = ["fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe", "2002:a9fe:a9fe::", "2001:0:a9fe:a9fe::"]


@pytest.mark.parametrize("address", [*(form.format(a) for a in METADATA for form in EMBEDDED), *METADATA_6])
def test_nothing_exempts_the_metadata_of_a_cloud(address: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(address, (*EVERYTHING, ip_network("169.254.0.0/16")))


@pytest.mark.parametrize("kept", ["/a%2Fb//../c%7E?x=%2F&y=+&z=a%20b&sig=A/B==", "/%zz?%", "/?a=b?c", "/a;b@c:d"])
def test_path_and_query_stay_as_they_are_because_they_may_be_signed(kept: str) -> None:
    assert str(check_url(f"https://example.com{kept}#fragment")) == f"https://example.com{kept}"


def test_what_may_not_stand_in_a_request_is_quoted() -> None:
    assert str(check_url('http://example.com/ä "<b>\\')) == "http://example.com/%C3%A4%20%22%3Cb%3E%5C"


@given(
    st.text(max_size=40) | st.sampled_from([*GOOD, *(url for url, _ in HOSTILE)]), st.text(max_size=5), st.integers(0)
)
def test_any_text_is_an_error_or_a_url_that_all_read_alike(url: str, inserted: str, where: int) -> None:
    where %= len(url) + 1
    try:
        checked = check_url(url[:where] + inserted + url[where:])
    except ServiceError:
        return
    other = urlsplit(str(checked))
    assert str(checked).isascii()
    assert other.scheme in ("http", "https")
    assert (other.hostname, other.port or {"http": 80, "https": 443}[other.scheme]) == (checked.raw_host, checked.port)
    assert other.username is other.password is None
    assert str(check_url(str(checked))) == str(checked)


def test_a_list_of_allowed_hosts_takes_names_and_subdomains() -> None:
    allowed = ["cdn.example.com", "*.Pictures.example.org"]
    for host in ("cdn.example.com", "cdn.example.com.", "a.pictures.example.org", "a.b.pictures.example.org"):
        check_host(host, allowed)
    for host in (
        "example.com",
        "xcdn.example.com",
        "a.cdn.example.com",
        "pictures.example.org",
        "xpictures.example.org",
    ):
        with pytest.raises(AddressRefused):
            check_host(host, allowed)
    check_host("anything", [])
