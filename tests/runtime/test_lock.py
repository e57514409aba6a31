import contextlib
import errno
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys

import pytest

from jaxai.runtime import lock
from jaxai.runtime.lock import LOCK, only_training

HOLDER = """
import os, sys, time, pathlib
from jaxai.runtime.lock import only_training

with only_training(pathlib.Path(sys.argv[1])):
    if "fork" in sys.argv and not os.fork():
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *arguments], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"held\n"
    return process


def end(process):
    with contextlib.suppress(ProcessLookupError):  # it has ended, and had forked none
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("arguments", [(), ("fork",)])
def test_second_training_is_told_who_trains_and_a_killed_one_leaves_nothing_stuck(tmp_path, arguments):
    process = hold(tmp_path / "run", *arguments)
    try:
        with pytest.raises(ValueError, match="is being trained by") as error, only_training(tmp_path / "run"):
            pass
        assert str(error.value) == (
            f"{tmp_path / 'run'} is being trained by process {process.pid} on {socket.gethostname()};"
            " wait for it, stop it, or give another --workdir"
        )
        # The holder alone: a child that it has forked lives on, and holds nothing.
        process.kill()
        process.wait()
        with only_training(tmp_path / "run"):
            pass
    finally:
        end(process)


def test_one_process_trains_one_after_the_other_but_not_at_once(tmp_path):
    for _ in range(2):
        with only_training(tmp_path):
            assert (tmp_path / LOCK).exists()
            with pytest.raises(ValueError, match=f"by process {os.getpid()} on"), only_training(tmp_path):
                pass
            # The refused one has released nothing.
            with pytest.raises(ValueError, match="is being trained"), only_training(tmp_path):
                pass
        assert [*tmp_path.iterdir()] == []
    with pytest.raises(KeyError), only_training(tmp_path):
        raise KeyError
    with only_training(tmp_path):
        pass


def test_file_that_its_holder_removes_while_another_waits_to_lock_it_is_no_lock(tmp_path, monkeypatch):
    locked, states = lock._locked, []

    def remove_first(handle, folder):
        if not states:
            (folder / LOCK).unlink()
        states.append(locked(handle, folder))
        return states[-1]

    monkeypatch.setattr(lock, "_locked", remove_first)
    with only_training(tmp_path), pytest.raises(ValueError, match="is being trained"), only_training(tmp_path):
        pass
    assert states[:2] == [False, True]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_said_and_training_goes_on(tmp_path, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), only_training(tmp_path):
        pass
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path} is on a file system without locks: do not run a second training in it"


def test_platform_without_fcntl_trains_without_a_lock(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delattr(os, "register_at_fork")
    try:
        importlib.reload(lock)
        with lock.only_training(tmp_path), lock.only_training(tmp_path):
            pass
    finally:
        monkeypatch.undo()
        importlib.reload(lock)


def test_folder_that_cannot_be_made_is_named_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(NotADirectoryError, match="file/run")
    with refused, only_training(tmp_path / "file" / "run"):
        pass
