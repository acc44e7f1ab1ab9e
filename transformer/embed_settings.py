"""The settings of `python -m transformer.embed`."""

from dataclasses import dataclass

from contract import MODEL_NAME
from serving.errors import SettingError
from serving.settings import at_least, one_of, parse_bool, setting
from serving.threads import cpu_limit
from transformer.limits import MAX_BYTES, MAX_PIXELS
from transformer.settings import Network, parse_networks
from transformer.target import GRPC, REST, check_target

PREFIX = "EMBED_"


@dataclass(frozen=True)
class Shard:
    """Which of `count` equal shares of the parts is ours."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read i/n with 0 <= i < n."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError("use i/n with i from 0 to n-1, such as 0/4")
    return Shard(int(index), int(count))


@dataclass(frozen=True)
class EmbedSettings:
    """Turn many pictures into embeddings, by way of a running predictor, for the index and for training.

    IMAGES is a folder that holds one folder for each class, or a Parquet or CSV file with the columns
    class and path (a file) or url (to download); with both, the url is fetched and the path is its name.
    --output receives Parquet parts with path, class and embedding, and the list of skipped pictures.

    It can be stopped at any moment: the same command goes on where it ended.
    """

    images: str = setting("", "folder of class folders, or a .parquet or .csv file", positional=True)
    image_root: str = setting("", "folder that the paths of a file are relative to; empty: the file's own folder")
    output: str = setting("", "folder for the Parquet parts; made when it is not there")
    predictor_host: str = setting("", "HOST:PORT of a predictor, with or without a head")
    predictor_protocol: str = setting(REST, "how it is called: v2 (REST) or grpc-v2", parse=one_of(REST, GRPC))
    predictor_model_name: str = setting(MODEL_NAME, "name of the predictor's model")
    predictor_timeout: float = setting(60.0, "seconds to wait for a lost predictor", parse=at_least(0, float))
    predictor_concurrency: int = setting(4, "requests to the predictor at the same time", parse=at_least(1))
    request_timeout: float = setting(60.0, "seconds for one request to the predictor", parse=at_least(0.1, float))
    batch_size: int = setting(16, "pictures in one request", parse=at_least(1))
    clip_name: str = setting("", "name of the CLIP, written into the parts beside its fingerprint")
    exif_orientation: bool = setting(True, "turn pictures as their EXIF data say", parse=parse_bool)
    # Two of the batches that the index is loaded by: what a stop can lose stays small.
    rows_per_part: int = setting(8192, "pictures in one Parquet file", parse=at_least(1))
    shard: Shard = setting(  # noqa: RUF009
        Shard(), "i/n: do only share i of n; give all shares the same --output", parse=parse_shard
    )
    threads: int = setting(0, "threads for decoding; 0 takes the CPU limit", parse=at_least(0))
    allow_networks: tuple[Network, ...] = setting(
        (), "networks that pictures may come from although they are not public (CIDR,...)", parse=parse_networks
    )
    fetch_concurrency: int = setting(64, "downloads at the same time", parse=at_least(1))
    fetch_timeout: float = setting(8.0, "seconds for one download in all", parse=at_least(0.01, float))
    max_picture_bytes: int = setting(MAX_BYTES, "largest picture, in bytes", parse=at_least(1))
    max_picture_pixels: int = setting(MAX_PIXELS, "largest picture, in pixels", parse=at_least(1))

    def __post_init__(self) -> None:
        check_target(self.predictor_host, self.predictor_protocol)
        if not self.output:
            raise SettingError("--output: name a folder for the Parquet parts")

    @property
    def decode_threads(self) -> int:
        """Threads for decoding."""
        return self.threads or cpu_limit()

    def window(self, downloads: bool) -> int:
        """Batches under way, which bounds the pictures in memory: those at the predictor and some that get ready.

        Results stay in order, so downloads go far ahead: a slow host must not hold up the others.
        """
        ahead = -(-16 * self.fetch_concurrency // self.batch_size) if downloads else 0
        return ahead + 3 * self.predictor_concurrency
