"""Pictures written into the URL."""

import asyncio
import base64
import random
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequest, OutOfRange, ServiceError, TooLarge
from transformer.data_url import decode_data_url, is_data_url

PICTURE = random.Random(3).randbytes(200_000)  # some windows long
BASE64 = base64.b64encode(PICTURE).decode()
LIMIT = len(PICTURE)


def decode(url: str, max_bytes: int = LIMIT) -> bytes:
    assert is_data_url(url)
    return asyncio.run(decode_data_url(url, max_bytes))


@pytest.mark.parametrize("header", ["data:image/png;base64,", "DATA:Image/JPEG;Base64,", "data:image/x;a=b;base64,"])
def test_base64_is_decoded(header: str) -> None:
    for size in (0, 1, 2, 3, 65535, 65536, 65537, 98304, LIMIT):
        text = base64.b64encode(PICTURE[:size]).decode()
        for spelling in (text, text.rstrip("="), quote(text, safe=""), " \n".join(text.partition("Q"))):
            assert decode(header + spelling) == PICTURE[:size]


@pytest.mark.parametrize("shift", range(4))  # escapes lie across every cut between windows
def test_percent_encoding_is_decoded(shift: int) -> None:
    escaped = "a" * shift + "".join(f"%{byte:02X}" for byte in PICTURE[: LIMIT - shift])
    assert decode(f"data:image/png,{escaped}") == b"a" * shift + PICTURE[: LIMIT - shift]
    assert decode(f"data:image/png;charset=x,{quote_from_bytes(PICTURE)}") == PICTURE


@given(st.text("%0fFgG ", max_size=12))
def test_percent_encoding_is_decoded_as_the_standard_library_does(text: str) -> None:
    assert decode(f"data:image/png,{text}") == unquote_to_bytes(text)


def test_the_limit_counts_decoded_bytes() -> None:
    with pytest.raises(TooLarge):
        decode(f"data:image/png;base64,{BASE64}", LIMIT - 1)
    with pytest.raises(TooLarge):
        decode(f"data:image/png,{'a' * LIMIT}", LIMIT - 1)
    with pytest.raises(TooLarge):
        decode(f"data:image/png,{'%41' * LIMIT}", LIMIT - 1)
    assert decode("data:image/png;base64," + " " * LIMIT * 5 + BASE64) == PICTURE


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("data:", InvalidRequest),
        ("data:image/png;base64", InvalidRequest),
        ("data:image/png;base64,A", InvalidRequest),
        ("data:image/png;base64,AB=C", InvalidRequest),
        ("data:image/png;base64,AB-_", InvalidRequest),
        (f"data:image/png;base64,{BASE64[:-1]}!", InvalidRequest),
        ("data:image/png,ä", InvalidRequest),
        ("data:" + "x" * 2000 + ",a", InvalidRequest),
        ("data:,a", OutOfRange),
        ("data:;base64,QUJD", OutOfRange),
        ("data:text/plain;base64,QUJD", OutOfRange),
        ("data:imagepng,a", OutOfRange),
    ],
)
def test_what_is_not_a_picture_in_a_url_is_refused(url: str, error: type[ServiceError]) -> None:
    with pytest.raises(ServiceError) as caught:
        decode(url)
    assert type(caught.value) is error
