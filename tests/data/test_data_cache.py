import multiprocessing
import os
import time
import zipfile

import numpy as np
import pytest

from jaxai.data import Data, cache, load
from jaxai.data.source import Decoded, Source, split

SIZE = 40


class Counted:
    """A source of one file, that counts how often it is decoded."""

    def __init__(self, folder, **options):
        self.path, self.times, self.options = folder / "raw.bin", 0, options
        if not self.path.exists():
            self.path.write_bytes(b"raw")

    def source(self):
        return Source("counted", (self.path,), self.options, self.decode)

    def decode(self):
        self.times += 1
        random = np.random.default_rng(0)
        images, labels = random.integers(0, 256, (SIZE, 8, 8, 3), np.uint8), random.integers(0, 3, SIZE)
        return Decoded(split(images, labels), split(images[:9], labels[:9]), ("a", "b", "ü"))


def assert_same(got, expected):
    for part, other in zip(got[:2], expected[:2], strict=True):
        assert part.keys() == other.keys()
        for key in part:
            np.testing.assert_array_equal(part[key], other[key])
            assert part[key].dtype == other[key].dtype
    assert got.classes == expected.classes


@pytest.fixture
def place(tmp_path):
    return tmp_path / "cache"


def test_second_load_decodes_nothing_and_gives_the_same(tmp_path, place):
    counted = Counted(tmp_path)
    first, second = (cache.decoded(counted.source(), str(place)) for _ in range(2))
    assert counted.times == 1
    assert_same(second, first)


def test_changed_file_or_option_is_decoded_anew(tmp_path, place):
    counted = Counted(tmp_path, resize=None)
    cache.decoded(counted.source(), str(place))
    counted.path.write_bytes(b"longer")
    cache.decoded(counted.source(), str(place))
    assert counted.times == 2
    os.utime(counted.path, (1, 1))
    cache.decoded(counted.source(), str(place))
    assert counted.times == 3
    counted.options = {"resize": 8}
    cache.decoded(counted.source(), str(place))
    assert counted.times == 4


def test_cache_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAI_CACHE", str(tmp_path / "unused"))
    counted = Counted(tmp_path)
    for _ in range(2):
        cache.decoded(counted.source(), "off")
    assert counted.times == 2
    assert not (tmp_path / "unused").exists()


def test_environment_chooses_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAI_CACHE", str(tmp_path))
    assert cache.folder("auto") == tmp_path / "data"
    assert cache.folder(str(tmp_path / "mine")) == tmp_path / "mine"


@pytest.mark.parametrize("position", [i / 23 for i in range(24)])
def test_flipped_byte_anywhere_is_never_trusted(tmp_path, place, position):
    counted = Counted(tmp_path)
    expected = cache.decoded(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    raw = bytearray(path.read_bytes())
    raw[int(position * (len(raw) - 1))] ^= 0x5A
    path.write_bytes(raw)
    assert_same(cache.decoded(counted.source(), str(place)), expected)


def test_flipped_pixel_is_decoded_anew_and_the_copy_repaired(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.decoded(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    raw = bytearray(path.read_bytes())
    pixels = expected.train["image"].tobytes()
    raw[raw.index(pixels) + 1000] ^= 1
    path.write_bytes(raw)
    for _ in range(2):
        assert_same(cache.decoded(counted.source(), str(place)), expected)
    assert counted.times == 2


def test_shortened_shape_with_the_same_bytes_is_not_trusted(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.decoded(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    path.write_bytes(path.read_bytes().replace(b"'shape': (40, 8", b"'shape': (10, 8"))
    assert_same(cache.decoded(counted.source(), str(place)), expected)
    assert counted.times == 2


@pytest.mark.parametrize("length", [0, 10, 5000])
def test_truncated_copy_is_decoded_anew(tmp_path, place, length):
    counted = Counted(tmp_path)
    expected = cache.decoded(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    path.write_bytes(path.read_bytes()[:length])
    assert_same(cache.decoded(counted.source(), str(place)), expected)
    assert counted.times == 2


def test_copy_without_an_array_is_decoded_anew(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.decoded(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_image.npy", b"")
    assert_same(cache.decoded(counted.source(), str(place)), expected)


def test_failed_write_leaves_no_file_and_costs_only_a_warning(tmp_path, place, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    counted = Counted(tmp_path)
    with pytest.warns(UserWarning, match=r"decoded images are not kept: .*No space left.*--data.cache"):
        assert_same(cache.decoded(counted.source(), str(place)), counted.decode())
    assert list(place.iterdir()) == []


def test_cache_folder_that_is_a_file_costs_only_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="decoded images are not kept"):
        cache.decoded(Counted(tmp_path).source(), str(tmp_path / "file"))


def test_leftovers_of_killed_writers_go_after_a_day(tmp_path, place):
    place.mkdir()
    old, recent = place / "old.tmp", place / "recent.tmp"
    for path in (old, recent):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    cache.decoded(Counted(tmp_path).source(), str(place))
    assert not old.exists()
    assert recent.exists()


def write_slowly_and_die(path):
    def savez(file, **_):
        file.write(b"half of it")
        file.flush()
        os._exit(9)

    cache.np.savez = savez
    cache._write(path, Counted(path.parent.parent).decode())


def test_writer_killed_midway_leaves_the_good_copy(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.decoded(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    process = multiprocessing.get_context("spawn").Process(target=write_slowly_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(list(place.glob("*.tmp"))) == 1
    assert_same(cache.decoded(counted.source(), str(place)), expected)
    assert counted.times == 1


def write_and_read(folder, rounds):
    counted = Counted(folder)
    expected = counted.decode()
    path = folder / "cache" / f"{cache._file_stem(counted.source())}.npz"
    for _ in range(rounds):
        cache._write(path, expected)
        read = cache._read(path)
        assert read is not None, "a half-written copy was seen"
        assert_same(read, expected)


def test_two_processes_may_write_at_once(tmp_path):
    Counted(tmp_path)
    processes = [
        multiprocessing.get_context("spawn").Process(target=write_and_read, args=(tmp_path, 30)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_load_reads_from_the_cache(tmp_path, monkeypatch):
    first = load(Data(cache=str(tmp_path)))
    monkeypatch.setattr("jaxai.data.mnist5k.decode", lambda path: pytest.fail("decoded twice"))
    second = load(Data(cache=str(tmp_path)))
    np.testing.assert_array_equal(first.train["image"], second.train["image"])
    assert len(list(tmp_path.glob("mnist5k-*.npz"))) == 1
