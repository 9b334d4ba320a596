"""Where pictures come from: paths that are no files, names that lead out of the data root, objects that are read."""

from __future__ import annotations

import errno
import io
import os
import socket
from pathlib import Path

import pytest
from hostile_images import encoded, jpeg, photo

from omnivision.data.image import ImageError, contained, open_image
from omnivision.errors import DataError


def kind_of(source, **options) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source, **options)
    assert str(source).split("\0")[0][:80] in caught.value.paragraph()
    return caught.value.kind


class Member:
    """A picture in an archive."""

    def __init__(self, content) -> None:
        self.content = content

    def __str__(self) -> str:
        return "shard-0.tar:photo.jpg"

    def read(self):
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def test_a_path_may_be_text_or_path(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert open_image(tmp_path / "a.jpg").tobytes() == open_image(str(tmp_path / "a.jpg")).tobytes()


def test_missing(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"x")
    assert kind_of(tmp_path / "none.png") == kind_of(tmp_path / "dangling") == kind_of(tmp_path / "file" / "below") == "missing"


@pytest.mark.parametrize("name", ["a\0b.png", "n" * 300 + ".png", "d/" * 3000 + "a.png", "half a pair \ud800.png"],
                         ids=["null", "long", "deep", "surrogate"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(ImageError) as caught:
        open_image(f"{tmp_path}/{name}")
    assert caught.value.kind == "missing"
    caught.value.paragraph().encode()  # can be printed
    with pytest.raises(ImageError) as caught:
        contained(tmp_path, name)
    assert caught.value.kind == "missing"
    caught.value.paragraph().encode()


def test_folder_and_device(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *args, **options: pytest.fail("opened: that alone can rewind a tape"))
    assert kind_of(tmp_path) == kind_of("/dev/zero") == kind_of("/dev/null") == "unreadable"


def test_a_ring_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert kind_of(tmp_path / "a") == "unreadable"
    with pytest.raises(ImageError):
        contained(tmp_path, "a")


@pytest.mark.timeout(20)
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert kind_of(tmp_path / "pipe.png") == "unreadable"


@pytest.mark.timeout(20)
def test_a_pipe_that_takes_a_files_place_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "file").write_bytes(b"x")
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **rest: real(tmp_path / "file" if str(path).endswith("pipe.png") else path, **rest))
    assert kind_of(tmp_path / "pipe.png") == "unreadable"


def test_a_socket(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        assert kind_of(tmp_path / "s.png") == "unreadable"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_the_system_refuses(tmp_path, monkeypatch, code):
    """Tests may run as root, whom no permission stops: the system's answer is played."""
    def refuse(name, flags, *rest, **options):
        raise OSError(code, os.strerror(code), str(name))
    (tmp_path / "a.png").write_bytes(jpeg())
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageError, match=os.strerror(code)) as caught:
        open_image(tmp_path / "a.png")
    assert caught.value.kind == "unreadable" and "a.png" in str(caught.value)


def test_objects_that_are_read():
    assert open_image(Member(encoded(photo(), "PNG"))).tobytes() == photo().tobytes()
    assert open_image(io.BytesIO(encoded(photo(), "PNG"))).size == (48, 32)
    assert kind_of(Member(b"")) == "empty"
    assert kind_of(Member(jpeg()[:200])) == "truncated"
    for content in (None, "text", OSError(5, "I/O error"), KeyError("x")):
        assert kind_of(Member(content)) == "unreadable"


def test_an_objects_own_data_error_is_passed_on():
    with pytest.raises(DataError, match="shard is damaged"):
        open_image(Member(DataError("The shard is damaged")))


def test_want_of_memory_is_no_fault_of_the_picture(monkeypatch):
    """The command line has an exit code of its own for it."""
    with pytest.raises(MemoryError):
        open_image(Member(MemoryError()))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        open_image(Member(encoded(photo(), "PNG")))


@pytest.fixture
def tree(tmp_path) -> Path:
    """A root with a picture and links, beside a secret."""
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data-other").mkdir()
    (tmp_path / "data-other" / "a.png").write_bytes(b"x")
    (root / "inside.png").symlink_to("sub/a.png")
    (root / "outside.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to("..")
    return root


@pytest.mark.parametrize("name", ["sub/a.png", "./sub/../sub/a.png", "inside.png", "up/data/sub/a.png", "sub/none.png", "sub/a.png/below",
                                  "../data/sub/a.png"])
def test_names_inside(tree, name):
    path = contained(tree, name)
    assert path.is_relative_to(tree) and not path.is_symlink()
    assert contained(tree, str(tree / name)) == path  # an absolute name inside


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "outside.png", "up/secret.png", "up", "/etc/passwd", "..", "", ".",
                                  "sub/..", "../data-other/a.png", "up/none.png", "/etc/../etc/passwd"])
def test_names_that_lead_out(tree, name):
    with pytest.raises(ImageError) as caught:
        contained(tree, name)
    assert caught.value.kind == "outside" and repr(name) in caught.value.paragraph()


def test_a_folder_that_may_not_be_searched_is_no_fault_of_the_name(tree, monkeypatch):
    monkeypatch.setattr(os, "lstat", lambda name: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied")))
    assert contained(tree, "sub/a.png") == tree / "sub" / "a.png"


def test_a_root_behind_a_link_and_a_relative_one(tree, monkeypatch):
    (tree.parent / "link").symlink_to(tree)
    assert contained(tree.parent / "link", "sub/a.png") == tree / "sub" / "a.png"
    monkeypatch.chdir(tree.parent)
    assert contained("data", "sub/a.png") == tree / "sub" / "a.png"
    with pytest.raises(ImageError):
        contained("data", "../secret.png")
    (tree / "data").mkdir()
    monkeypatch.chdir(tree)  # the same words mean another folder here
    assert contained("data", "a.png") == tree / "data" / "a.png"
