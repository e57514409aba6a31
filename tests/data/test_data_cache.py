import multiprocessing
import os
import re
import shutil
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxai.data import Data, cache, load
from jaxai.data.image_source import ImageSource, Splits, split

SIZE = 40


class Counted:
    """A source of one file, that counts how often it is decoded."""

    def __init__(self, folder, **options):
        self.path, self.times, self.options = folder / "raw.bin", 0, options
        if not self.path.exists():
            self.path.write_bytes(b"raw")

    def source(self):
        return ImageSource("counted", (self.path,), self.options, self.read)

    def read(self):
        self.times += 1
        random = np.random.default_rng(0)
        images, labels = random.integers(0, 256, (SIZE, 8, 8, 3), np.uint8), random.integers(0, 3, SIZE)
        return Splits(split(images, labels), split(images[:9], labels[:9]), ("a", "b", "ü"))


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
    first, second = (cache.read(counted.source(), str(place)) for _ in range(2))
    assert counted.times == 1
    assert_same(second, first)


def test_changed_file_or_option_is_decoded_anew(tmp_path, place):
    counted = Counted(tmp_path, resize=None)
    cache.read(counted.source(), str(place))
    counted.path.write_bytes(b"longer")
    cache.read(counted.source(), str(place))
    assert counted.times == 2
    os.utime(counted.path, (1, 1))
    cache.read(counted.source(), str(place))
    assert counted.times == 3
    counted.options = {"resize": 8}
    cache.read(counted.source(), str(place))
    assert counted.times == 4


def other_pixels(path, value, size=(5, 4)):
    """A grey PNG, whose size in bytes is the same for every value."""
    Image.fromarray(np.full(size, value, np.uint8)).save(path, compress_level=0)


@pytest.fixture
def two_classes(tmp_path):
    for index, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        other_pixels(tmp_path / "images" / name / "0.png", 10 * index)
        os.utime(tmp_path / "images" / name / "0.png", (1_000_000, 1_000_000))
    return tmp_path / "images"


def exchanged_by_mv(cat, dog):
    aside = cat.with_name("aside")
    cat.rename(aside)
    dog.rename(cat)
    aside.rename(dog)


def exchanged_by_cp_p(cat, dog):
    aside = cat.with_name(".aside")
    for source, target in ((cat, aside), (dog, cat), (aside, dog)):
        shutil.copy2(source, target)
    aside.unlink()


@pytest.mark.parametrize("exchange", [exchanged_by_mv, exchanged_by_cp_p])
def test_exchanged_files_of_the_same_size_and_time_are_decoded_anew(two_classes, place, exchange):
    config = Data("folder", dir=str(two_classes), cache=str(place))
    assert load(config).train["image"][:, 0, 0, 0].tolist() == [0, 10]
    cat, dog = (two_classes / "train" / name / "0.png" for name in ("cat", "dog"))
    before = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (cat, dog)]
    exchange(cat, dog)
    assert [(path.stat().st_size, path.stat().st_mtime_ns) for path in (cat, dog)] == before
    assert load(config).train["image"][:, 0, 0, 0].tolist() == [10, 0]


def test_an_added_class_is_seen_though_a_copy_is_kept(two_classes, place):
    config = Data("folder", dir=str(two_classes), cache=str(place))
    load(config)
    (two_classes / "train/ant").mkdir()
    with pytest.raises(ValueError, match=r"train/ant has no images; give class ant some, or remove its folder"):
        load(config)
    other_pixels(two_classes / "train/ant/0.png", 7)
    images = load(config)
    assert images.classes == ("ant", "cat", "dog")
    assert images.train["label"].tolist() == [0, 1, 2]
    assert "no test images of 1 of 3 classes: ant" in images.notes


def test_outdated_copies_of_a_source_are_removed_and_no_other(tmp_path, place):
    counted = Counted(tmp_path, resize=None)
    (tmp_path / "other").mkdir()
    other, resized = Counted(tmp_path / "other", resize=None), Counted(tmp_path, resize=8)
    for each in (counted, other, resized):
        cache.read(each.source(), str(place))
    of_other = {path for path in place.iterdir() if path.name == f"{cache._file_stem(other.source())}.npz"}
    assert len(list(place.iterdir())) == 3
    counted.path.write_bytes(b"changed")
    cache.read(counted.source(), str(place))
    assert {path.stem for path in place.iterdir()} == {cache._file_stem(each.source()) for each in (counted, other)}, (
        "the resized copy is of the old file too"
    )
    assert of_other <= set(place.iterdir())
    cache.read(resized.source(), str(place))
    cache.read(counted.source(), str(place))
    assert len(list(place.iterdir())) == 3
    assert (counted.times, other.times, resized.times) == (2, 1, 2)


def test_a_reader_whose_copy_is_removed_reads_on(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.read(counted.source(), str(place))
    (path,) = place.iterdir()
    with zipfile.ZipFile(path) as archive:
        counted.path.write_bytes(b"changed")
        cache.read(counted.source(), str(place))
        assert not path.exists()
        np.testing.assert_array_equal(cache._read_array(archive, "test_image"), expected.test["image"])
    assert cache._read_copy(path) is None


def test_every_part_of_a_set_is_kept(tmp_path, place):
    counted = Counted(tmp_path)
    whole = counted.read()
    notes = ("1 ä image was turned", "another")
    for decoded in (
        whole._replace(validation=split(whole.train["image"][:3], whole.train["label"][:3]), notes=notes),
        whole._replace(test=None),
    ):
        counted.path.write_bytes(counted.path.read_bytes() + b"+")
        source = counted.source()._replace(read=lambda decoded=decoded: decoded)
        cache.read(source, str(place))
        read = cache.read(source._replace(read=lambda: pytest.fail("decoded twice")), str(place))
        assert read.notes == decoded.notes
        assert read.named().keys() == decoded.named().keys()
        for name, arrays in decoded.named().items():
            np.testing.assert_array_equal(read.named()[name]["image"], arrays["image"])


def test_cache_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAI_CACHE", str(tmp_path / "unused"))
    counted = Counted(tmp_path)
    for _ in range(2):
        cache.read(counted.source(), "off")
    assert counted.times == 2
    assert not (tmp_path / "unused").exists()


def test_environment_chooses_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAI_CACHE", str(tmp_path))
    assert cache.folder("auto") == tmp_path / "data"
    assert cache.folder(str(tmp_path / "mine")) == tmp_path / "mine"


def test_user_without_a_home_is_told_what_to_give(monkeypatch):
    monkeypatch.setenv("JAXAI_CACHE", "~nobody-of-that-name")
    with pytest.raises(ValueError, match="JAXAI_CACHE '~nobody-of-that-name' cannot be a path here"):
        cache.folder("auto")
    monkeypatch.delenv("JAXAI_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.Path, "home", lambda: cache.Path("~nobody-of-that-name").expanduser())
    with pytest.raises(ValueError, match=r"no place for decoded images: .*; give --data.cache a folder, or off"):
        cache.folder("auto")


@pytest.mark.parametrize("position", [i / 23 for i in range(24)])
def test_flipped_byte_anywhere_is_never_trusted(tmp_path, place, position):
    counted = Counted(tmp_path)
    expected = cache.read(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    raw = bytearray(path.read_bytes())
    raw[int(position * (len(raw) - 1))] ^= 0x5A
    path.write_bytes(raw)
    assert_same(cache.read(counted.source(), str(place)), expected)


def test_flipped_pixel_is_decoded_anew_and_the_copy_repaired(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.read(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    raw = bytearray(path.read_bytes())
    pixels = expected.train["image"].tobytes()
    raw[raw.index(pixels) + 1000] ^= 1
    path.write_bytes(raw)
    for _ in range(2):
        assert_same(cache.read(counted.source(), str(place)), expected)
    assert counted.times == 2


def test_shortened_shape_with_the_same_bytes_is_not_trusted(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.read(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    path.write_bytes(path.read_bytes().replace(b"'shape': (40, 8", b"'shape': (10, 8"))
    assert_same(cache.read(counted.source(), str(place)), expected)
    assert counted.times == 2


@pytest.mark.parametrize("length", [0, 10, 5000])
def test_truncated_copy_is_decoded_anew(tmp_path, place, length):
    counted = Counted(tmp_path)
    expected = cache.read(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    path.write_bytes(path.read_bytes()[:length])
    assert_same(cache.read(counted.source(), str(place)), expected)
    assert counted.times == 2


def test_copy_without_an_array_is_decoded_anew(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.read(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_image.npy", b"")
    assert_same(cache.read(counted.source(), str(place)), expected)


def test_failed_write_leaves_no_file_and_costs_only_a_note(tmp_path, place, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    counted = Counted(tmp_path)
    found = cache.read(counted.source(), str(place))
    assert_same(found, counted.read())
    (note,) = found.notes
    assert re.match(r"decoded images are not kept: .*No space left.*--data.cache", note)
    assert list(place.iterdir()) == []


def test_cache_folder_that_is_a_file_costs_only_a_note(tmp_path):
    (tmp_path / "file").write_text("")
    (note,) = cache.read(Counted(tmp_path).source(), str(tmp_path / "file")).notes
    assert note.startswith("decoded images are not kept")


def test_leftovers_of_killed_writers_go_after_a_day(tmp_path, place):
    place.mkdir()
    old, recent = place / "old.tmp", place / "recent.tmp"
    for path in (old, recent):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    cache.read(Counted(tmp_path).source(), str(place))
    assert not old.exists()
    assert recent.exists()


def write_slowly_and_die(path):
    def savez(file, **_):
        file.write(b"half of it")
        file.flush()
        os._exit(9)

    cache.np.savez = savez
    cache._write(path, Counted(path.parent.parent).read())


def test_writer_killed_midway_leaves_the_good_copy(tmp_path, place):
    counted = Counted(tmp_path)
    expected = cache.read(counted.source(), str(place))
    (path,) = place.glob("*.npz")
    process = multiprocessing.get_context("spawn").Process(target=write_slowly_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(list(place.glob("*.tmp"))) == 1
    assert_same(cache.read(counted.source(), str(place)), expected)
    assert counted.times == 1


def write_and_read(folder, rounds):
    counted = Counted(folder)
    expected = counted.read()
    path = folder / "cache" / f"{cache._file_stem(counted.source())}.npz"
    for _ in range(rounds):
        cache._write(path, expected)
        read = cache._read_copy(path)
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
    monkeypatch.setattr("jaxai.data.mnist5k.read", lambda path: pytest.fail("decoded twice"))
    second = load(Data(cache=str(tmp_path)))
    np.testing.assert_array_equal(first.train["image"], second.train["image"])
    assert len(list(tmp_path.glob("mnist5k-*.npz"))) == 1
