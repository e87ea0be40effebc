import io
import os
import stat

import pytest

from gloro_fast.files import atomic


@pytest.fixture
def synced(monkeypatch):
    """The sizes of the files, and the folders, that reach the disk, in order, beside the renames."""
    events = []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor):
        status = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(status.st_mode) else status.st_size)
        sync(descriptor)

    def noted_replace(old, new):
        events.append("replaced")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return events


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, "old"])
def test_the_new_file_takes_the_place_whole(tmp_path, before):
    path = tmp_path / "x.txt"
    if before is not None:
        path.write_text(before)
    with atomic.replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert (path.read_text() if path.exists() else None) == before
    assert path.read_text() == "new"
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path, before, error):
    path = tmp_path / "x.txt"
    if before is not None:
        path.write_text(before)

    def half(temporary):
        temporary.write_text("ne")
        raise error

    with pytest.raises(error):
        atomic.write_with(path, half)
    assert (path.read_text() if path.exists() else None) == before
    assert names(tmp_path) == ([] if before is None else ["x.txt"])


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, synced):
    atomic.write_text(tmp_path / "x.txt", "12345")
    assert synced == [5, "replaced", "folder"]


def test_a_disk_that_refuses_the_bytes_keeps_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    (tmp_path / "x.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    sync = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    atomic.write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "new"


def test_a_writer_that_writes_nothing_keeps_the_old_file(tmp_path):
    (tmp_path / "x.txt").write_text("old")
    with pytest.raises(FileNotFoundError):
        atomic.write_with(tmp_path / "x.txt", lambda temporary: None)
    assert (tmp_path / "x.txt").read_text() == "old"


def test_text_is_utf_8(tmp_path):
    atomic.write_text(tmp_path / "x.txt", "\u03b5 \u2264 \u00bd")
    assert (tmp_path / "x.txt").read_bytes().decode("utf-8") == "\u03b5 \u2264 \u00bd"


def test_leftovers_are_those_of_the_file(tmp_path):
    path = tmp_path / "x[1].txt"
    with atomic.replacing(path) as temporary:
        temporary.write_text("half")
        for other in (".x1.txt.7.tmp", ".y.txt.7.tmp", "x[1].txt", ".x[1].txt"):
            (tmp_path / other).write_text("another")
        (tmp_path / ".x[1].txt.7.tmp").write_text("half")
        assert atomic.leftovers(path) == sorted([temporary, tmp_path / ".x[1].txt.7.tmp"])


def test_a_growing_file_takes_its_place_at_the_end(tmp_path, synced):
    path = tmp_path / "x.csv"
    path.write_text("old")
    with atomic.growing(path) as add:
        add("a\n")
        add("b\n")
        assert atomic.partial(path).read_text() == "a\nb\n"
        assert path.read_text() == "old"
    assert path.read_text() == "a\nb\n"
    assert names(tmp_path) == ["x.csv"]
    assert synced == [4, "replaced", "folder"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_a_growing_file_has_stays(tmp_path, error):
    path = tmp_path / "x.csv"

    def stopped():
        with atomic.growing(path) as add:
            add("a\n")
            raise error

    with pytest.raises(error):
        stopped()
    assert names(tmp_path) == ["x.csv.partial"]
    assert atomic.partial(path).read_text() == "a\n"
    with atomic.growing(path) as add:
        add("b\n")
    assert path.read_text() == "b\n"
    assert names(tmp_path) == ["x.csv"]


def test_a_text_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    class Small(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 5:
                if self.tell() == 5:
                    raise OSError(28, "No space left on device")
                data = data[: 5 - self.tell()]
            return super().write(data)

    monkeypatch.setattr(atomic.io, "FileIO", Small)
    path = tmp_path / "x.csv"
    with atomic.growing(path) as add:
        add("abc\n")
        with pytest.raises(OSError, match="No space"):
            add("def\n")
        assert atomic.partial(path).read_text() == "abc\n"


def test_a_file_that_nothing_was_added_to_is_none(tmp_path):
    with atomic.growing(tmp_path / "x.csv"):
        pass
    assert names(tmp_path) == []
