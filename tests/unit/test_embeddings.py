"""Embeddings that others wrote: every tool's Parquet gives the same rows, and what cannot be used is named."""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract import ClipMark
from embedding_parts import MARK_KEY, Part
from embeddings import Embeddings, read_embeddings, write_embeddings_part
from serving.errors import ArtefactError

ROWS, DIM = 3000, 6  # more rows than are read at a time
PATHS = [f"dog {row}/ä.jpg" for row in range(ROWS)]
CLASSES = [("pug", "akita", "ängström", "corgi")[row % 4] for row in range(ROWS)]
MARK = ClipMark("0123456789abcdef", "acme/clip", DIM, True)
# Halves, so that float16 holds them exactly.
MATRIX = (np.random.default_rng(0).integers(-999, 999, (ROWS, DIM)) / 2).astype(np.float32)


class TensorType(pa.ExtensionType):
    """A fixed-shape tensor as Ray Data describes it: a list whose shape is JSON in the extension's metadata."""

    def __init__(self, storage: Any, name: str, shape: tuple[int, ...] = (DIM,)) -> None:
        self.shape = shape
        super().__init__(storage, name)

    def __arrow_ext_serialize__(self) -> bytes:
        return json.dumps(self.shape).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> "TensorType":
        name = "ray.data.arrow_tensor_v2" if pa.types.is_large_list(storage) else "ray.data.arrow_tensor"
        return cls(storage, name, tuple(json.loads(serialized)))


def ray_tensors(version: int, values: Any = MATRIX) -> Any:
    """A column as version 1 or 2 of Ray Data's tensor type."""
    kind, name = [(pa.list_, "ray.data.arrow_tensor"), (pa.large_list, "ray.data.arrow_tensor_v2")][version - 1]
    item = pa.from_numpy_dtype(values.dtype)
    return pa.ExtensionArray.from_storage(TensorType(kind(item), name), pa.array(list(values), kind(item)))


def arrow_table(vectors: Any = None, **columns: Any) -> Any:
    """A table of all rows, whose columns a test may replace or add to."""
    vectors = pa.array(list(MATRIX), pa.list_(pa.float32())) if vectors is None else vectors
    return pa.table({"path": PATHS, "class": CLASSES, "embedding": vectors, **columns})


def lists(kind: Callable[..., Any], item: Any, *size: int) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        vectors = pa.array(list(MATRIX.astype(item.to_pandas_dtype())), kind(item, *size))
        pq.write_table(arrow_table(vectors), file, row_group_size=700)

    return write


def by_pandas(dtype: Any, **options: Any) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        frame = pd.DataFrame({"path": PATHS, "class": CLASSES, "embedding": list(MATRIX.astype(dtype))})
        frame["class"] = frame["class"].astype("category")
        frame.to_parquet(file, **options)

    return write


def by_polars(dtype: Any, class_type: Any = pl.Categorical) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        schema = {"path": pl.String, "class": class_type, "embedding": dtype}
        pl.DataFrame({"path": PATHS, "class": CLASSES, "embedding": MATRIX.tolist()}, schema).write_parquet(file)

    return write


def by_ray(version: int, dtype: Any) -> Callable[[Path], None]:
    return lambda file: pq.write_table(arrow_table(ray_tensors(version, MATRIX.astype(dtype))), file)


WRITERS: dict[str, Callable[[Path], None]] = {
    "pandas float32": by_pandas(np.float32),
    "pandas float64 with an index": by_pandas(np.float64, index=True),
    "polars list": by_polars(pl.List(pl.Float32)),
    "polars list float64, plain text": by_polars(pl.List(pl.Float64), pl.String),
    "polars array": by_polars(pl.Array(pl.Float32, DIM), pl.Enum(["pug", "akita", "ängström", "corgi", "unused"])),
    **{
        f"pyarrow {kind.__name__} {item}": lists(kind, item)
        for kind in (pa.list_, pa.large_list)
        for item in (pa.float16(), pa.float32(), pa.float64())
    },
    **{f"pyarrow fixed size {item}": lists(pa.list_, item, DIM) for item in (pa.float16(), pa.float32(), pa.float64())},
    "pyarrow tensor": lambda file: pq.write_table(
        arrow_table(pa.FixedShapeTensorArray.from_numpy_ndarray(MATRIX)), file
    ),
    **{f"ray {v} {t.__name__}": by_ray(v, t) for v in (1, 2) for t in (np.float16, np.float32, np.float64)},
}


def check(found: Embeddings, rows: Any = slice(None), mark: ClipMark | None = None) -> None:
    assert found.paths.to_pylist() == np.array(PATHS)[rows].tolist()
    assert found.labels == ("akita", "corgi", "pug", "ängström")
    assert [found.labels[code] for code in found.codes] == np.array(CLASSES)[rows].tolist()
    assert found.codes.dtype == np.int32
    assert found.matrix.dtype == np.float32 and found.matrix.flags.c_contiguous and found.matrix.flags.writeable
    np.testing.assert_array_equal(found.matrix, MATRIX[rows])
    assert found.mark == mark


@pytest.mark.parametrize("name", WRITERS)
def test_parquet_of_every_tool_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "0.parquet")
    check(read_embeddings(str(tmp_path)))


@pytest.mark.parametrize(("version", "offsets"), [(1, "list"), (2, "large_list")])
def test_rays_tensors_are_read_with_and_without_their_type(version: int, offsets: str, tmp_path: Path) -> None:
    file, column = tmp_path / "0.parquet", ray_tensors(version)
    pq.write_table(arrow_table(column), file)
    field = pq.read_schema(file).field("embedding")  # what a reader without Ray sees
    assert str(field.type).startswith(f"{offsets}<")
    name = b"ray.data.arrow_tensor" + (b"_v2" if version == 2 else b"")
    assert field.metadata == {b"ARROW:extension:name": name, b"ARROW:extension:metadata": b"[6]"}
    check(read_embeddings(str(file)))
    pa.register_extension_type(column.type)
    try:
        assert isinstance(pq.read_schema(file).field("embedding").type, TensorType)
        check(read_embeddings(str(file)))
    finally:
        pa.unregister_extension_type(name.decode())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_every_kind_of_text_is_read(kind: Any, tmp_path: Path) -> None:
    paths, classes = pa.array(PATHS, kind), pa.array(CLASSES, kind)
    pq.write_table(arrow_table(path=paths, **{"class": classes}), tmp_path / "0.parquet")
    if kind != pa.string_view():  # for which pyarrow has no dictionaries
        encoded = [column.dictionary_encode().cast(pa.dictionary(pa.int16(), kind)) for column in (paths, classes)]
        table = arrow_table(path=encoded[0], **{"class": encoded[1]})
        assert pa.types.is_dictionary(table.schema.field("class").type)
        pq.write_table(table.slice(2000), tmp_path / "1.parquet")
        pq.write_table(arrow_table().slice(0, 2000), tmp_path / "0.parquet")
    check(read_embeddings(str(tmp_path)))


def test_a_folder_is_read_in_the_order_of_its_names_with_what_is_not_a_part_left_out(tmp_path: Path) -> None:
    """Parts written by different tools, in nested folders, with other columns and other files among them."""
    (tmp_path / "b" / "deep").mkdir(parents=True)
    table = arrow_table(ray_tensors(1), image=[b"bytes"] * ROWS, score=np.arange(ROWS))
    columns = ["score", "embedding", "image", "class", "path"]
    pq.write_table(table.slice(0, 1000).select(columns), tmp_path / "a.parquet")
    pq.write_table(table.slice(1000, 0), tmp_path / "b" / "0.parquet")  # empty, which is no fault in one of many
    frame = pd.DataFrame({"path": PATHS, "class": CLASSES, "embedding": list(MATRIX), "width": 1})
    frame[1000:2000].to_parquet(tmp_path / "b" / "1.parquet")
    pq.write_table(arrow_table(pa.array(list(MATRIX), pa.list_(pa.float64(), DIM))).slice(2000), tmp_path / "c.PARQUET")
    for ignored in (".hidden.parquet", "_temporary/0/x.parquet", ".git/x.parquet", "b/_SUCCESS", "notes.txt", "x.csv"):
        (tmp_path / ignored).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ignored).write_text("not Parquet")
    (tmp_path / "folder.parquet").mkdir()
    check(read_embeddings(str(tmp_path)))
    check(read_embeddings(str(tmp_path / "b")), slice(1000, 2000))
    check(read_embeddings(str(tmp_path / "b" / "1.parquet")), slice(1000, 2000))
    check(read_embeddings(os.path.relpath(tmp_path)))
    check(read_embeddings(tmp_path.as_uri()))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    strided = np.asfortranarray(MATRIX.astype(np.float64))
    write_embeddings_part(tmp_path / "0.parquet", PATHS[:2000], CLASSES[:2000], strided[:2000], MARK)
    write_embeddings_part(tmp_path / "1.parquet", PATHS[2000:], CLASSES[2000:], strided[2000:], MARK)
    check(read_embeddings(str(tmp_path)), mark=MARK)
    field = pq.read_schema(tmp_path / "0.parquet").field("embedding")
    assert field.type == pa.list_(pa.float32(), DIM)


def test_rows_by_class_keep_the_order_of_the_files_within_each(tmp_path: Path) -> None:
    write_embeddings_part(tmp_path / "0.parquet", PATHS[:2000], CLASSES[:2000], MATRIX[:2000], MARK)
    write_embeddings_part(tmp_path / "1.parquet", PATHS[2000:], CLASSES[2000:], MATRIX[2000:], MARK)
    order = sorted(range(ROWS), key=lambda row: (CLASSES[row], row))
    found = read_embeddings(str(tmp_path), by_class=True)
    check(found, order, MARK)
    assert found.order.tolist() == order
    halved = read_embeddings(str(tmp_path), lambda vectors: (vectors / 2).astype(np.float16), by_class=True)
    assert halved.matrix.dtype == np.float16
    np.testing.assert_array_equal(halved.matrix, MATRIX[order] / 2)


def test_a_damaged_part_is_refused_or_read_whole(tmp_path: Path) -> None:
    """Whatever bit of it is another one: no row is left as it lay in memory, and what is wrong is said."""
    for part in range(2):
        paths, rows = [f"{part}{row}" for row in range(8)], MATRIX[:8]
        write_embeddings_part(tmp_path / f"{part}.parquet", paths, CLASSES[:8], rows, MARK)
    file = tmp_path / "1.parquet"
    whole, refused = file.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found = read_embeddings(str(tmp_path), np.ones_like, by_class=True)
        except ArtefactError:
            refused += 1
        else:
            assert found.matrix.shape[0] == len(found.paths) and (found.matrix == 1).all(), place
    assert refused > len(whole) / 4


def test_a_part_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new vectors would get the old classes."""
    write_embeddings_part(tmp_path / "0.parquet", PATHS, CLASSES, MATRIX, MARK)
    read = Part.embeddings

    def read_late(part: Part) -> Any:
        write_embeddings_part(tmp_path / "0.parquet", PATHS, CLASSES, -MATRIX, MARK)
        return read(part)

    monkeypatch.setattr(Part, "embeddings", read_late)
    check_refused(str(tmp_path), "was changed while it was read")


def test_a_part_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the one before stays as it was."""
    write_embeddings_part(tmp_path / "0.parquet", PATHS, CLASSES, MATRIX, MARK)

    def fill_the_disk(table: Any, where: Path, **options: Any) -> None:
        Path(where).write_bytes(b"PAR1")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", fill_the_disk)
    with suppress(OSError):
        write_embeddings_part(tmp_path / "0.parquet", PATHS[:1], CLASSES[:1], MATRIX[:1], MARK)
    assert [file.name for file in tmp_path.iterdir()] == ["0.parquet"]
    check(read_embeddings(str(tmp_path)), mark=MARK)


def change(column: str, rows: dict[int, Any], kind: Any = None) -> Any:
    """All rows, a few of them with another value in one column."""
    values = {"path": list(PATHS), "class": list(CLASSES), "embedding": MATRIX.tolist()}
    for row, value in rows.items():
        values[column][row] = value
    types = {"path": pa.string(), "class": pa.string(), "embedding": kind or pa.list_(pa.float32())}
    return pa.table({name: pa.array(values[name], types[name]) for name in values})


def vector(*values: Any) -> list[Any]:
    """A good row but for its first values."""
    return [*values, *([1.0] * (DIM - len(values)))]


BAD: dict[str, tuple[Any, str]] = {
    "null path": (change("path", {0: None, 2999: None}), "column path is null in 2 rows"),
    "null class": (change("class", {1500: None}), "column class is null in 1 rows"),
    "null embedding": (change("embedding", {7: None, 8: None}), "column embedding is null in 2 rows"),
    "null in a fixed-size list": (
        change("embedding", {7: None}, pa.list_(pa.float32(), DIM)),
        "column embedding is null",
    ),
    "all null": (change("embedding", dict.fromkeys(range(ROWS))), "column embedding is null in 3000 rows"),
    "null inside": (change("embedding", {2: vector(None), 9: vector(1, None)}), "2 embeddings have values"),
    "nan": (change("embedding", {2: vector(float("nan"))}), "1 embeddings have values that are not finite"),
    "inf": (change("embedding", {2: vector(float("-inf"))}), "1 embeddings have values that are not finite"),
    "too large": (change("embedding", {2: vector(1e39)}, pa.list_(pa.float64())), "not finite"),
    "uneven": (change("embedding", {5: [1.0] * 5}), "must all have the same length, and have 5 to 6"),
    "uneven far apart": (change("embedding", {row: [1.0] * 7 for row in range(2048, ROWS)}), "have 6 to 7"),
    "no values": (change("embedding", {row: [] for row in range(ROWS)}), "same length, and have 0 to 0"),
    "no rows": (arrow_table().slice(0, 0), "has no rows; embed some pictures first"),
    "no class": (arrow_table().drop_columns(["class"]), "must have one column class; it has path, embedding"),
    "two paths": (
        pa.Table.from_arrays([PATHS, PATHS, CLASSES, list(MATRIX)], ["path", "path", "class", "embedding"]),
        "must have one column path; it has path, path, class, embedding",
    ),
    "classes as numbers": (arrow_table(**{"class": np.arange(ROWS)}), "column class must be text, and is int64"),
    "paths as bytes": (arrow_table(path=pa.array(PATHS, pa.binary())), "column path must be text, and is binary"),
    "whole numbers": (arrow_table(pa.array(MATRIX.astype(int).tolist())), "must be lists of floats, and is list<"),
    "one number": (arrow_table(MATRIX[:, 0]), "column embedding must be lists of floats, and is float"),
    "lists of lists": (arrow_table(pa.array([[[1.0]]] * ROWS)), "must be lists of floats, and is list<"),
    "ragged tensors": (
        arrow_table(pa.array([{"data": [1.0], "shape": [1]}] * ROWS)),  # how Ray writes those
        "must be lists of floats, and is struct<",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    table, sentence = BAD[name]
    pq.write_table(table, tmp_path / "0.parquet")
    check_refused(str(tmp_path), sentence)


def check_refused(location: str, *sentences: str) -> str:
    with pytest.raises(ArtefactError) as caught:
        read_embeddings(location)
    said = str(caught.value)
    for sentence in sentences:
        assert sentence in said, said
    assert "\n" not in said
    return said


def good(file: Path, mark: ClipMark | None = MARK, rows: int = 10) -> bytes:
    write_embeddings_part(file, PATHS[:rows], CLASSES[:rows], MATRIX[:rows], mark or MARK)
    if mark is None:
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: data[: len(data) // 2], "cannot be read as Parquet: it is damaged, cut short or something else"),
        (lambda data: b"", "cannot be read as Parquet"),
        (lambda data: b"path,class,embedding\n" * 100, "cannot be read as Parquet"),
        (lambda data: data[:4] + bytes(len(data) - 200) + data[-196:], "cannot be read as Parquet"),
    ],
    ids=["cut short", "no bytes", "a CSV", "zeros"],
)
def test_a_damaged_part_is_named(spoil: Callable[[bytes], bytes], sentence: str, tmp_path: Path) -> None:
    data = good(tmp_path / "0.parquet")
    (tmp_path / "1.parquet").write_bytes(spoil(data))
    check_refused(str(tmp_path), sentence, str(tmp_path / "1.parquet"))


def test_rows_that_are_not_text_are_named(tmp_path: Path) -> None:
    """Parquet's footer may call anything UTF-8."""
    table = pa.table({"path": pa.array([b"\xff\xfe"] * 2), "class": ["a", "b"], "embedding": [[1.0], [2.0]]})
    raw = pa.Array.from_buffers(pa.string(), 2, table["path"].chunk(0).buffers())
    pq.write_table(table.set_column(0, "path", raw), tmp_path / "0.parquet", use_dictionary=False)
    check_refused(str(tmp_path), "0.parquet")


def test_parts_of_different_clips_are_refused_naming_both(tmp_path: Path) -> None:
    good(tmp_path / "0.parquet")
    for other, sentence in [
        (replace(MARK, fingerprint="f" * 16), "f" * 16),
        (replace(MARK, exif_orientation=False), "exif_orientation=False"),
        (None, "has None"),
    ]:
        good(tmp_path / "1.parquet", other)
        check_refused(str(tmp_path), "all parts must come from one CLIP", MARK.fingerprint, sentence)


def test_a_mark_that_cannot_be_right_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "0.parquet"
    good(file, replace(MARK, dim=7))
    check_refused(str(file), "has 6 values a row, but its mark says 7")
    for text in (b"{", b"[]", b"{}", b'{"fingerprint": 1, "name": "x", "dim": 6, "exif_orientation": true}'):
        pq.write_table(arrow_table().replace_schema_metadata({MARK_KEY: text}), file)
        check_refused(str(file), "0.parquet: the mark of the CLIP is not valid")


def missing(folder: Path) -> str:
    return str(folder / "nowhere")


def empty(folder: Path) -> str:
    return str(folder)


def unreadable(folder: Path) -> str:
    (folder / "0.parquet").symlink_to(folder / "gone.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (missing, "nowhere does not exist; give a Parquet file, a folder of them, or a URI"),
        (empty, "has no Parquet files (their names end in .parquet)"),
        (unreadable, "has no Parquet files"),
        (lambda _: "ftp://ann:secret@host/index?token=secret", "ftp://host/index cannot be opened"),
        (lambda _: "s3://key:secret@bucket/index?nonsense=secret", "s3://bucket/index cannot be opened"),
    ],
)
def test_a_wrong_place_is_named_without_its_keys(
    make: Callable[[Path], str], sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = check_refused(make(tmp_path), sentence)
    assert not re.search("secret|token", said + "".join(capfd.readouterr()))
