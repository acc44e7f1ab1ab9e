"""The stream of batches: its order and bounds, a predictor that is busy, away or exchanged."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from contract import ClipMark, Pixels, Prediction, PredictorInfo
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import ArtefactError, DeadlineExceeded, NotReady, QueueFull, ServiceError
from transformer.batches import Batch, BatchEmbedder, cut_batches, run_in_order
from transformer.limits import PictureLimits
from transformer.patience import PatientPredictor
from transformer.picture_list import Extent, Row
from transformer.picture_reader import PictureReader
from transformer.plan import Plan

INFO = PredictorInfo("first", 1, "bicubic")


class ScriptedPredictor:
    """Answers with its script, one entry a request; the last entry stays."""

    def __init__(self, *script: ServiceError | PredictorInfo, value: float = 1.0) -> None:
        self.script, self.value, self.requests, self.at_once, self.most_at_once = list(script), value, 0, 0, 0

    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        self.requests += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        outcome = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(outcome, ServiceError):
            raise outcome
        return Prediction(np.full((len(pixels), 2), self.value, np.float32), None, (), outcome)


def patient(
    predictor: ScriptedPredictor, patience: float = 60.0, batches: int = 4
) -> tuple[PatientPredictor, list[str]]:
    said: list[str] = []
    return PatientPredictor(predictor, batches, 60.0, patience, said.append), said


async def no_fetch(url: str, deadline: Deadline) -> bytes:
    raise AssertionError(url)


def rows(count: int) -> list[Row]:
    return [Row(f"a/{i}.jpg", "", "a") for i in range(count)]


def cut(count: int, rows_per_part: int, wanted: set[int], size: int) -> list[tuple[int, list[str]]]:
    plan = Plan(Extent(count, ""), rows_per_part, ClipMark("", "", 2, True))
    batches = cut_batches(iter(rows(count)), plan, wanted, size)
    return [(batch.part, [row.path[2:-4] for row in batch.rows]) for batch in batches]


def test_batches_stay_within_their_part_and_other_parts_are_passed_over() -> None:
    assert cut(7, 3, {0, 1, 2}, 2) == [
        (0, ["0", "1"]),
        (0, ["2"]),
        (1, ["3", "4"]),
        (1, ["5"]),
        (2, ["6"]),
    ]
    assert cut(7, 3, {1}, 16) == [(1, ["3", "4", "5"])]
    assert cut(7, 3, set(), 16) == []


async def collect(items: Iterator[int], window: int, delays: Sequence[int]) -> tuple[list[int], int]:
    taken = finished = most = 0

    def counted() -> Iterator[int]:
        nonlocal taken, most
        for item in items:
            taken += 1
            most = max(most, taken - len(results))
            yield item

    async def work(item: int) -> int:
        for _ in range(delays[item % len(delays)]):
            await asyncio.sleep(0)
        return item

    results: list[int] = []
    async with aclosing(run_in_order(counted(), work, window)) as stream:
        async for result in stream:
            results.append(result)
            finished += 1
    return results, most


def test_results_come_in_order_and_a_long_list_is_taken_a_window_at_a_time() -> None:
    results, most = asyncio.run(collect(iter(range(2000)), 7, delays=[9, 0, 3, 30, 1]))
    assert results == list(range(2000))
    assert most == 7


def test_leaving_the_stream_early_cancels_what_is_under_way() -> None:
    async def leave() -> set["asyncio.Task[None]"]:
        delays = (0 if i == 0 else 3600 for i in range(100))
        async with asyncio.timeout(10), aclosing(run_in_order(delays, asyncio.sleep, 5)) as stream:
            async for _ in stream:
                break
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(leave()) == set()


def test_a_busy_predictor_is_waited_out_in_silence_and_a_lost_one_is_announced_once() -> None:
    async def ask(*script: ServiceError | PredictorInfo) -> tuple[int, list[str]]:
        predictor = ScriptedPredictor(*script)
        waiting, said = patient(predictor)
        await waiting.predict(np.zeros((1, 2, 2, 3), np.uint8))
        return predictor.requests, said

    assert asyncio.run(ask(QueueFull("full"), QueueFull("full"), INFO)) == (3, [])
    lost = [NotReady("gone"), DeadlineExceeded("slow"), NotReady("gone")]
    assert asyncio.run(ask(*lost, INFO)) == (4, ["waiting for the predictor: gone"])


def test_patience_ends_with_a_sentence() -> None:
    waiting, _ = patient(ScriptedPredictor(NotReady("it cannot be reached")), patience=0.2)
    with pytest.raises(NotReady, match=r"no answer .* for 0\.2 s \(it cannot be reached\); .* same command goes on"):
        asyncio.run(waiting.predict(np.zeros((1, 2, 2, 3), np.uint8)))


def test_an_answer_in_between_renews_patience() -> None:
    async def ask() -> None:
        predictor = ScriptedPredictor(NotReady("x"), INFO)
        waiting, said = patient(predictor, patience=0.05)  # one pause is longer than half of it
        for _ in range(4):
            predictor.script = [NotReady("x"), INFO]
            await waiting.predict(np.zeros((1, 2, 2, 3), np.uint8))
        assert len(said) == 4

    asyncio.run(ask())


def test_no_more_requests_at_a_time_than_asked_for() -> None:
    predictor = ScriptedPredictor(INFO)

    async def ask() -> None:
        waiting, _ = patient(predictor, batches=3)
        await asyncio.gather(*(waiting.predict(np.zeros((1, 2, 2, 3), np.uint8)) for _ in range(20)))

    asyncio.run(ask())
    assert [predictor.requests, predictor.most_at_once] == [20, 3]


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    from PIL import Image

    (tmp_path / "a").mkdir()
    for i in range(4):
        Image.new("RGB", (20, 30), (i, 0, 0)).save(tmp_path / "a" / f"{i}.jpg")
    return tmp_path


async def embed_all(folder: Path, predictor: ScriptedPredictor, batches: Sequence[Sequence[Row]]) -> list[list[str]]:
    with ThreadPoolExecutor(1) as threads:
        reader = PictureReader(folder, no_fetch, 1, threads, 8, True, PictureLimits(10_000, 1000))
        embedder = BatchEmbedder(reader, patient(predictor)[0], INFO.fingerprint)
        found = [await embedder.embed(Batch(0, batch)) for batch in batches]
    return [[f"{error.status} {row.name}: {error.sentence}" for row, error in batch.skipped] for batch in found]


def test_each_bad_row_is_skipped_with_its_reason(picture_folder: Path) -> None:
    (picture_folder / "a" / "bad.jpg").write_text("not a picture")
    (picture_folder / "a" / "long.jpg").write_bytes(bytes(10_001))
    bad = [
        Row("a/bad.jpg", "", "a"),
        Row("a/none.jpg", "", "a"),
        Row("a", "", "a"),
        Row("a/long.jpg", "", "a"),
        Row("a/0.jpg", "", ""),
        Row("", "", "a"),
        Row("\udcff.jpg", "", "a"),
        Row("a\0b", "", "a"),
    ]
    predictor = ScriptedPredictor(INFO)
    mixed, only_bad = asyncio.run(embed_all(picture_folder, predictor, [[*bad, *rows(4)], bad]))
    assert mixed == only_bad
    assert predictor.requests == 1
    assert [line[:3] for line in mixed] == ["400", "424", "424", "413", "400", "400", "400", "424"]
    assert mixed[1] == "424 a/none.jpg: the file cannot be read: No such file or directory"
    assert mixed[4:6] == ["400 a/0.jpg: the row has no class", "400 : the row has neither a path nor a url"]


@pytest.mark.parametrize(
    ("predictor", "says"),
    [
        (ScriptedPredictor(INFO, PredictorInfo("second", 1, "bicubic")), "changed its CLIP from first to second"),
        (ScriptedPredictor(INFO, PredictorInfo("first", 7, "bicubic")), "speaks contract 7"),
        (ScriptedPredictor(INFO, PredictorInfo("first", 1, "nearest")), "with resize 'nearest'"),
        (ScriptedPredictor(INFO, value=float("nan")), "not finite"),
    ],
)
def test_a_predictor_that_does_not_belong_to_the_run_ends_it(
    picture_folder: Path, predictor: ScriptedPredictor, says: str
) -> None:
    with pytest.raises(ArtefactError, match=says):
        asyncio.run(embed_all(picture_folder, predictor, [rows(2), rows(2)]))
