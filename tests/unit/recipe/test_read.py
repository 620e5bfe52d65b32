"""Only a regular file of a sane size, in UTF-8, is a recipe."""

import os
from pathlib import Path

import pytest

from lorafit.errors import RecipeError
from lorafit.recipe.load import load_recipe
from lorafit.recipe.read import MAX_BYTES, read_bytes
from recipe.texts import MINIMAL, Faults


def refused(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        read_bytes(path)
    return str(caught.value)


@pytest.mark.timeout(10)  # of a read that waits for a writer
def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    fifo = tmp_path / "fifo"
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory  [E2-FILE]"
    assert refused(fifo) == f"{fifo}: not a regular file; give the path of a recipe  [E2-FILE]"
    assert "not a regular file" in refused(Path("/dev/zero"))
    assert "a link to a file that is not there" in refused(tmp_path / "dangling")
    assert "cannot be read: Too many levels" in refused(tmp_path / "circle")
    assert "cannot be read: " in refused(Path("a\0b"))
    assert "cannot be read: File name too long" in refused(Path("a" * 300))
    assert "cannot be read: Not a directory" in refused(tmp_path / "fifo" / "recipe.yaml")


def test_a_link_to_a_recipe_is_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    (tmp_path / "link.yaml").symlink_to(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "link.yaml").text == MINIMAL.encode()


def test_the_file_that_was_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(MINIMAL)
    assert f'no such file; did you mean "{tmp_path}/quickstart.yaml"?' in refused(tmp_path / "quikstart.yml")
    assert refused(tmp_path / "zzz") == f"{tmp_path}/zzz: no such file  [E2-FILE]"
    assert "no such file" in refused(tmp_path / "no-folder" / "recipe.yaml")


def test_names_are_shown_plainly(tmp_path: Path) -> None:
    assert "\n" not in refused(tmp_path / "a\n\x1b[31mb")


def test_size(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_bytes(path)) == MAX_BYTES
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "more than 256 KiB; a recipe is a page of text  [E2-SIZE]" in refused(path)


def test_the_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf# \xc3\xa9\r\n" + MINIMAL.replace("\n", "\r\n").encode()
    (tmp_path / "my recipe.v2.yaml").write_bytes(content)
    loaded = load_recipe(tmp_path / "my recipe.v2.yaml")
    assert (loaded.text, loaded.name, loaded.path) == (content, "my recipe.v2", tmp_path / "my recipe.v2.yaml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (MINIMAL.encode("utf-16"), "recipe.yaml: the text is UTF-16; save it as UTF-8  [E2-UTF8]"),
        (MINIMAL.encode("utf-16-be"), "recipe.yaml:1:1: U+0000 (a control character) in the text"),
        (b"a: 1\nb\xc3\xa9: xyz\xe9\n", "recipe.yaml:2:8: the byte 0xE9 is not UTF-8; save the text as UTF-8"),
        (b"\xef\xbb\xbfa: \xff", "recipe.yaml:1:4: the byte 0xFF is not UTF-8"),
        (b"\xef\xbb\xbf\xef\xbb\xbfa: 1", "recipe.yaml:1:1: U+FEFF ZERO WIDTH NO-BREAK SPACE in the text"),
        (b"\xef\xbb\xbfsed: 1\n" + MINIMAL.encode(), "recipe.yaml:1:1: sed: unknown key"),
    ],
)
def test_encodings(faults: Faults, content: bytes, expected: str) -> None:
    said = faults(content)
    assert len(said) == 1
    assert said[0].startswith(expected)
