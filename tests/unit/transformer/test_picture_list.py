"""Folders and tables of pictures, as people have them."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.errors import ArtefactError, SettingError
from transformer.picture_list import Row, find_pictures, measure, open_picture_list


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def rows(location: Path, image_root: str = "") -> list[Row]:
    return list(open_picture_list(str(location), image_root))


def test_a_folder_is_read_in_order_without_what_is_hidden_or_no_picture(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/10.jpg", "b/deep/er/1.png", "b/notes.txt", "b/._2.jpg", "b/.thumbs/2.jpg")
    touch(tmp_path, "a c/1.webp", "a/1.tiff", "README.md", ".hidden/1.jpg")
    (tmp_path / "empty").mkdir()
    expected = ["a/1.tiff", "a c/1.webp", "b/10.jpg", "b/2.JPG", "b/deep/er/1.png"]
    assert find_pictures(tmp_path) == expected
    assert [row.label for row in rows(tmp_path)] == ["a", "a c", "b", "b", "b"]


def test_linked_classes_and_pictures_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "store", "a/1.jpg")
    images = tmp_path / "images"
    images.mkdir()
    (images / "linked").symlink_to(tmp_path / "store" / "a")
    touch(images, "own/1.jpg")
    (images / "own" / "2.jpg").symlink_to(tmp_path / "store" / "a" / "1.jpg")
    (images / "own" / "circle").symlink_to(images)
    assert find_pictures(images) == ["linked/1.jpg", "own/1.jpg", "own/2.jpg"]


def test_a_picture_in_no_class_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "stray.jpg")
    with pytest.raises(ArtefactError, match=r"stray\.jpg is in no class folder"):
        rows(tmp_path)


def test_a_csv_is_read_as_text_with_any_other_columns(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(
        '\ufeffclass,note,path,number\n007,"two\nlines, and a ""quote""",dogs/ä 1.jpg,1\nNA,,"a,b.jpg",2\n,,x.jpg,\n'
    )
    assert rows(file) == [Row("dogs/ä 1.jpg", "", "007"), Row("a,b.jpg", "", "NA"), Row("x.jpg", "", "")]
    packed = tmp_path / "list.csv.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert rows(packed) == rows(file)


def test_a_csv_longer_than_a_block_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    caption = '"' + "a line of a caption\n" * 20 + '"'
    row = f"1,0123456789,1,{caption}\n"
    # The types of the other columns are guessed from the first block, and this one is not always a number.
    file.write_text("class,path,number,caption\n" + 10_000 * row + "one,p,not a number,\n")
    found = rows(file)
    assert [len(found), found[0].path, found[-1].label] == [10_001, "0123456789", "one"]


def test_url_and_path_may_both_be_given_and_the_path_is_the_name(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("url,path,class\nhttp://a/1?key=3,1.jpg,x\nhttp://a/2,,x\n")
    found = rows(file)
    assert found == [Row("1.jpg", "http://a/1?key=3", "x"), Row("", "http://a/2", "x")]
    assert [row.name for row in found] == ["1.jpg", "http://a/2"]


def test_parquet_of_any_text_type_is_read(tmp_path: Path) -> None:
    columns = {
        "class": pa.array(["a", "b", None]).dictionary_encode(),
        "path": pa.array(["1", "2", "3"], pa.large_string()),
        "url": pa.array([None, "http://h/2", None]),
        "extra": pa.array([[1], [2], [3]]),
    }
    pq.write_table(pa.table(columns), tmp_path / "l.parquet", row_group_size=2)
    assert rows(tmp_path / "l.parquet") == [Row("1", "", "a"), Row("2", "http://h/2", "b"), Row("3", "", "")]
    pq.write_table(pa.table({"class": [3, 14], "path": ["1", "2"]}), tmp_path / "n.parquet")
    assert [row.label for row in rows(tmp_path / "n.parquet")] == ["3", "14"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\n1,a\n", "must have the columns path or url, and class; it has path, label"),
        ("class,file\na,1\n", "must have the columns"),
        ("path;class\n1;a\n", "it has path;class"),
        ("path,class\n1,a\n2\n", "cannot be read: .*Expected 2 columns, got 1"),
        ("", "cannot be read: Empty CSV file"),
        ("path,class\n1,\xe9\n", "cannot be read: .*UTF8"),
    ],
)
def test_a_table_that_is_no_list_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "l.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ArtefactError, match=says) as refused:
        rows(tmp_path / "l.csv")
    assert str(tmp_path / "l.csv") in str(refused.value) and "\n" not in str(refused.value)


def test_damaged_parquet_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "l.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ArtefactError, match=r"l\.parquet cannot be read"):
        rows(tmp_path / "l.parquet")


def test_paths_are_relative_to_the_file_or_to_image_root(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,class\n1,a\n")
    (tmp_path / "pictures").mkdir()
    assert open_picture_list(str(tmp_path / "l.csv")).root == tmp_path
    assert open_picture_list(str(tmp_path / "l.csv"), str(tmp_path / "pictures")).root == tmp_path / "pictures"
    for location, image_root in [
        (tmp_path / "l.csv", tmp_path / "missing"),
        (tmp_path / "pictures", tmp_path),
        (tmp_path / "missing.csv", ""),
        (Path(__file__), ""),
    ]:
        with pytest.raises(SettingError):
            open_picture_list(str(location), str(image_root) if image_root else "")


def test_the_digest_sees_order_names_and_classes() -> None:
    base = [Row("1", "", "a"), Row("2", "", "b")]
    others = [base[::-1], base[:1], [base[0], Row("2", "", "c")], [base[0], Row("", "2", "b")], [Row("1", "", "a2b")]]
    digests = {measure(iter(other)).digest for other in (base, *others)}
    assert len(digests) == 6
    assert measure(iter(base)) == measure(iter(list(base)))
    assert [measure(rows).urls for rows in (base, [Row("a", "http://h/a", "c"), *base])] == [0, 1]
    assert measure([Row("\udcff.jpg", "", "a")]).rows == 1  # names of files need not be UTF-8
