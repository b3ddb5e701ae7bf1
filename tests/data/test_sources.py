"""Data sets open by name, folder or file; examples are read when asked for, and a bad one is named."""

import io
import struct
import zipfile

import numpy as np
import pytest

from repsim_jax.data.images import decode_image, open_image
from repsim_jax.data.sources import bad_examples, open_source
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, MissingPackageError, UnknownNameError

Image = pytest.importorskip("PIL.Image")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)


def png(row):
    stream = io.BytesIO()
    Image.fromarray(PIXELS[row]).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    (root / "b").mkdir(parents=True)
    for row, name in enumerate(("b/two.PNG", "a.png", "c.webp", "b/1.bmp")):
        Image.fromarray(PIXELS[row]).save(root / name, lossless=True)
    (root / "notes.txt").write_text("not an image")
    return root


@pytest.fixture
def table(tmp_path):
    columns = {
        "id": [f"p{row}" for row in range(6)],
        "number": list(range(6)),
        "png": [png(row) for row in range(6)],
        "hf": [{"bytes": png(row), "path": None} for row in range(6)],
        "text": ["one", "two", None, " ", "five", "six"],
        "vector": [[float(row), 1.0] for row in range(6)],
        "mixed": [None, "a", "b", "a", "", "c"],
    }
    pq.write_table(pa.table(columns), tmp_path / "table.parquet", row_group_size=4)
    return tmp_path / "table.parquet"


def test_digits_are_real_and_carry_labels():
    source = open_source("digits")
    assert (source.name, source.modality, len(source)) == ("digits", "array", 1797)
    first = source.get(0)
    assert first.dtype == np.float32
    assert first.shape == (64,)
    assert first.min() == 0
    assert first.max() <= 1
    assert source.labels is not None
    assert source.labels[:4].tolist() == [0, 1, 2, 3]


def test_a_folder_gives_its_images_by_sorted_relative_path(folder):
    source = open_source(folder)
    assert source.ids == ("a.png", "b/1.bmp", "b/two.PNG", "c.webp")
    assert source.modality == "image"
    for row, expected in enumerate((1, 3, 0, 2)):
        np.testing.assert_array_equal(np.asarray(source.get(row)), PIXELS[expected])


@pytest.mark.parametrize("column", ["png", "hf"])
def test_a_column_of_encoded_images_is_decoded_row_by_row(table, column):
    source = open_source(table, column=column, id_column="id")
    assert source.modality == "image"
    assert source.ids == tuple(f"p{row}" for row in range(6))
    for row in (5, 0, 3, 4):
        np.testing.assert_array_equal(np.asarray(source.get(row)), PIXELS[row])


def test_a_column_of_text_and_of_numbers(table):
    source = open_source(table, column="text")
    assert (source.modality, source.get(4), source.ids[4]) == ("text", "five", "4")
    source = open_source(table, column="vector", id_column="number")
    assert (source.modality, source.ids[4]) == ("array", "4")
    np.testing.assert_array_equal(source.get(4), [4, 1])


def test_each_of_several_texts_is_an_example_of_its_own(tmp_path):
    spoken = [["a cat", "a tabby"], [], None, ["a dog", "a hound", "a spaniel"]]
    columns = {"file": ["1.jpg", "2.jpg", "3.jpg", "4.jpg"], "captions": pa.array(spoken, pa.list_(pa.string()))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2)
    source = open_source(tmp_path / "t.parquet", column="captions", id_column="file")
    assert source.ids == ("1.jpg#0", "1.jpg#1", "4.jpg#0", "4.jpg#1", "4.jpg#2")
    assert [source.get(i) for i in range(5)] == ["a cat", "a tabby", "a dog", "a hound", "a spaniel"]
    assert source.modality == "text"
    blank = pa.table({"captions": pa.array([["a", " "], [None]], pa.list_(pa.string()))})
    pq.write_table(blank, tmp_path / "blank.parquet")
    assert set(bad_examples(open_source(tmp_path / "blank.parquet"))) == {"0#1", "1#0"}
    pq.write_table(pa.table({"captions": pa.array([[], None], pa.list_(pa.string()))}), tmp_path / "none.parquet")
    with pytest.raises(BadArrayError, match="holds no text in any row"):
        open_source(tmp_path / "none.parquet")


def test_the_only_fitting_column_needs_no_name(tmp_path):
    pq.write_table(pa.table({"number": [1, 2], "sentence": ["a", "b"]}), tmp_path / "t.parquet")
    assert open_source(tmp_path / "t.parquet").get(1) == "b"


def test_a_text_file_gives_a_sentence_a_line(tmp_path):
    (tmp_path / "t.txt").write_text("first\nzweite, größer\n\nfourth\n\n", encoding="utf-8")
    source = open_source(tmp_path / "t.txt")
    assert source.ids == ("1", "2", "3", "4")
    assert source.get(1) == "zweite, größer"
    with pytest.raises(BadArrayError, match="line 3 is blank"):
        source.get(2)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_array_files_give_their_rows(tmp_path, suffix):
    from safetensors.numpy import save_file

    array, path = np.arange(24, dtype=np.float32).reshape(4, 3, 2), tmp_path / f"x{suffix}"
    {".npy": np.save, ".npz": lambda p, a: np.savez(p, x=a), ".safetensors": lambda p, a: save_file({"x": a}, p)}[
        suffix
    ](path, array)
    source = open_source(path)
    assert (source.name, source.modality, source.ids) == ("x", "array", ("0", "1", "2", "3"))
    np.testing.assert_array_equal(source.get(2), array[2])
    np.testing.assert_array_equal(open_source(path, column="x").get(3), array[3])


def test_an_npz_may_hold_ids_and_several_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", photos=PIXELS, y=np.arange(6), ids=np.array(list("abcdef")))
    source = open_source(tmp_path / "x.npz", column="photos")
    assert (source.modality, source.ids) == ("image", tuple("abcdef"))
    with pytest.raises(UnknownNameError, match="holds 2 arrays: photos, y"):
        open_source(tmp_path / "x.npz")


def test_a_limit_takes_the_first_examples():
    source = open_source("digits", limit=3)
    assert source.ids == ("digit_0000", "digit_0001", "digit_0002")
    assert source.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(source.get(2), open_source("digits").get(2))
    assert len(open_source("digits", limit=10**9)) == 1797


def test_a_bad_image_is_named_and_can_be_left_out(folder):
    (folder / "b" / "1.bmp").write_bytes(b"BM this is no image")
    (folder / "c.webp").write_bytes((folder / "c.webp").read_bytes()[:40])
    source = open_source(folder)
    with pytest.raises(CorruptFileError, match=r"b/1\.bmp: cannot be decoded as an image"):
        source.get(1)
    assert set(bad_examples(source)) == {"b/1.bmp", "c.webp"}
    kept = open_source(folder, on_bad="skip")
    assert kept.ids == ("a.png", "b/two.PNG")
    assert set(kept.skipped) == {"b/1.bmp", "c.webp"}
    np.testing.assert_array_equal(np.asarray(kept.get(1)), PIXELS[0])


def test_missing_values_are_named_by_row(table):
    source = open_source(table, column="text")
    for row in (2, 3):
        with pytest.raises(BadArrayError, match=f"column 'text', row {row} is empty"):
            source.get(row)
    assert open_source(table, column="text", on_bad="skip").ids == ("0", "1", "4", "5")


def test_nothing_left_is_an_error(tmp_path):
    pq.write_table(pa.table({"image": [b"no", b"image"]}), tmp_path / "t.parquet")
    with pytest.raises(BadArrayError, match="none of the 2 examples of t can be read"):
        open_source(tmp_path / "t.parquet", on_bad="skip")


def test_an_image_that_claims_too_many_pixels_is_refused():
    def chunk(kind, body):
        import zlib

        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(CorruptFileError, match=r"cannot be decoded as an image .DecompressionBomb"):
        decode_image(bomb, "bomb.png")


def test_a_missing_image_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match="cannot be opened"):
        open_image(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"column": "pgn"}, UnknownNameError, "no column is called 'pgn'. Did you mean 'png'"),
        ({"column": "png", "id_column": "idd"}, UnknownNameError, "Did you mean 'id'"),
        ({}, UnknownNameError, "columns id, png, hf, text, vector, mixed all could hold examples"),
        ({"column": "number"}, BadArrayError, "column 'number' holds int64; expected encoded images"),
        ({"column": "png", "id_column": "mixed"}, BadArrayError, "id column 'mixed' holds None at row 0"),
        ({"column": "png", "id_column": "vector"}, BadArrayError, "expected text or integers"),
        ({"column": "png", "limit": 0}, BadArrayError, "limit must be at least 1"),
        ({"column": "png", "on_bad": "skp"}, UnknownNameError, "Did you mean 'skip'"),
    ],
)
def test_a_wrong_question_about_a_table_is_refused(table, options, error, message):
    with pytest.raises(error, match=message):
        open_source(table, **options)


def test_repeated_ids_are_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b", "a"], "text": ["x", "y", "z"]}), tmp_path / "t.parquet")
    with pytest.raises(BadArrayError, match="ids must be unique: 'a' comes again in t"):
        open_source(tmp_path / "t.parquet", column="text", id_column="id")


def test_a_table_without_a_fitting_column_is_refused(tmp_path):
    pq.write_table(pa.table({"number": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(UnknownNameError, match="no column can hold examples"):
        open_source(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("t.parquet", b"PAR1 but not really", CorruptFileError, "is not a whole parquet file"),
        ("t.npy", b"\x93NUMPY\x01", CorruptFileError, "is not a whole .npy file"),
        ("t.npz", b"PK", CorruptFileError, "is not a whole .npz file"),
        ("t.safetensors", b"\x00" * 9, CorruptFileError, "is not a whole .safetensors file"),
        ("t.txt", b"\xff\xfe", CorruptFileError, "is not UTF-8 text"),
        ("t.txt", b"\n\n", FileError, "is empty"),
        ("t.csv", b"a,b", FileError, "not a kind of data that is read"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.array([{"a": 1}], object), CorruptFileError, "Python objects in dtype"),
        (np.array(["a", "b"]), BadArrayError, "expected numbers of shape"),
        (np.arange(4), BadArrayError, r"got int64 \(4,\)"),
        (np.zeros((0, 3)), BadArrayError, r"got float64 \(0, 3\)"),
        (np.zeros((2, 2), complex), BadArrayError, "got complex128"),
    ],
)
def test_arrays_that_hold_no_examples_are_refused(tmp_path, array, error, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(error, match=message):
        open_source(tmp_path / "x.npy")


def test_an_npy_that_claims_more_than_it_holds_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    data = (tmp_path / "x.npy").read_bytes().replace(b"(2, 2), }          ", b"(999999999, 999), }")
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"is not a whole .npy file"):
        open_source(tmp_path / "x.npy")


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(80 * 2**20))
    with pytest.raises(CorruptFileError, match="would expand to 83886080 bytes"):
        open_source(tmp_path / "x.npz")


def test_wrong_names_and_ids_of_array_files_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 2)), ids=np.array(["a"]))
    with pytest.raises(UnknownNameError, match="no array is called 'y'"):
        open_source(tmp_path / "x.npy", column="y")
    with pytest.raises(UnknownNameError, match="no array is called 'y'"):
        open_source(tmp_path / "x.npz", column="y")
    with pytest.raises(BadArrayError, match="1 ids, 2 examples"):
        open_source(tmp_path / "x.npz")
    with pytest.raises(UnknownNameError, match="leave the id column out"):
        open_source(tmp_path / "x.npy", id_column="id")


def test_what_does_not_exist_and_what_has_no_columns_is_refused(tmp_path, folder):
    with pytest.raises(FileError, match='no such file; expected "digits", a folder of images'):
        open_source(tmp_path / "nothing.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds no images"):
        open_source(tmp_path / "empty")
    with pytest.raises(UnknownNameError, match="has no columns, so column 'png' does not exist"):
        open_source(folder, column="png")
    with pytest.raises(UnknownNameError, match="has no columns, so id column 'id' does not exist"):
        open_source("digits", id_column="id")


@pytest.mark.parametrize(
    ("package", "ask", "extra"),
    [
        ("sklearn.datasets", lambda _: open_source("digits"), "digits"),
        ("PIL", lambda _: decode_image(b"", "x.png"), "images"),
        ("pyarrow.parquet", open_source, "table"),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, table, package, ask, extra):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'repsim_jax\[{extra}\]'"):
        ask(table)


def test_a_damaged_row_group_is_named(table):
    data = bytearray(table.read_bytes())
    footer = struct.unpack("<I", data[-8:-4])[0]
    data[4 : len(data) - footer - 8] = bytes(len(data) - footer - 12)
    table.write_bytes(data)
    source = open_source(table, column="text")
    with pytest.raises(CorruptFileError, match="row group 0 of column 'text' cannot be read"):
        source.get(0)


def test_a_large_array_stays_on_the_disk(tmp_path):
    path = tmp_path / "x.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(2**20, 256))  # 1 GiB, sparse
    array[7] = 3
    del array
    source = open_source(path)
    assert source.get(7).sum() == 3 * 256
    assert len(source) == 2**20
