"""The transformer's settings."""

import sys
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from serving.errors import SettingError
from serving.server_settings import ServerSettings
from serving.settings import at_least, one_of, setting
from transformer.limits import MAX_BYTES, MAX_PIXELS
from transformer.target import GRPC, REST, check_target

PREFIX = "TRANSFORMER_"
Network = IPv4Network | IPv6Network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks separated by commas, such as 127.0.0.1/32."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def parse_names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


def _dtype(text: str) -> str:
    if text not in ("float32", "float16"):
        raise ValueError("use float32 or float16")
    return text


@dataclass(frozen=True)
class TransformerSettings(ServerSettings):
    """Download a picture, let the predictor classify and embed it, and find similar pictures."""

    predictor_host: str = setting(
        "", "HOST, HOST:PORT, a list of them with commas; over gRPC also a gRPC target (dns:///...)"
    )
    predictor_protocol: str = setting(
        REST, "how the predictor is called: v2 (REST with binary tensors, port 8080) or grpc-v2 (port 8081)",
        parse=one_of(REST, GRPC),
    )  # fmt: skip
    predictor_model_name: str = setting("", "name of the predictor's model, where it is not --model_name")
    index_dir: str = setting("/mnt/index", "folder, file or object-store URI of the embeddings Parquet")
    index_dtype: str = setting(
        "float32", "numbers that the index is held in: float32, or float16 in half the memory", parse=_dtype
    )
    allow_unmarked: bool = setting(False, "take an index without the mark of its CLIP when the dimensions agree")
    url_template: str = setting("", "public URL of a match's picture, with {path} in it")
    image_root: str = setting(
        "", "folder or object-store URI that the index's paths are below; serves small versions at /images/"
    )
    page: bool = setting(True, "serve the page for browsers at /")
    allow_networks: tuple[Network, ...] = setting(
        (), "networks that pictures may come from although they are not public (CIDR,...)", parse=parse_networks
    )
    allow_hosts: tuple[str, ...] = setting(
        (), "the only hosts that pictures may come from; *.example.com takes subdomains", parse=parse_names
    )
    egress_proxy: str = setting("", "http proxy for all downloads; it must check addresses itself")
    ca_file: str = setting("", "file with the certificate authorities for https, instead of the system's")
    max_picture_bytes: int = setting(MAX_BYTES, "largest picture, in bytes", parse=at_least(1))
    max_picture_pixels: int = setting(MAX_PIXELS, "largest picture, in pixels", parse=at_least(1))
    fetch_timeout: float = setting(8.0, "seconds for one download in all", parse=at_least(0.01, float))
    max_decodes: int = setting(128, "most pictures waiting for a decode; above it callers get 429", parse=at_least(1))
    max_decode_bytes: int = setting(
        2**30,
        "most memory of the large pictures that are decoded at a time; the others wait, and what needs more gets 413",
        parse=at_least(1, most=sys.maxsize),
    )
    start_timeout: float = setting(300.0, "seconds to wait for the predictor at start", parse=at_least(0, float))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_held_bytes < self.max_picture_bytes:
            raise SettingError("--max_held_bytes: it must be at least --max_picture_bytes, or none could be downloaded")
        check_target(self.predictor_host, self.predictor_protocol)
        if self.url_template and "{path}" not in self.url_template:
            raise SettingError("--url_template: it must contain {path}")
