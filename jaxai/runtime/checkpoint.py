"""Checkpoints of a State with orbax: asynchronous, the latest separate from the best, checked when restored.

In a loop of your own, which continues where it stopped:

>>> import tempfile, jax, jax.numpy as jnp
>>> from jaxai import State
>>> folder, state = tempfile.mkdtemp(), State(jnp.int32(0), {"w": jnp.zeros(2)}, (), jax.random.key(0))
>>> with Checkpoints(folder) as checkpoints:
...     state = checkpoints.restore(state) or state
...     for step in range(int(state.step), 4):
...         state = state.replace(step=state.step + 1)
...         if state.step % 2 == 0:
...             checkpoints.save(state)
>>> with Checkpoints(folder) as checkpoints:
...     print(checkpoints.steps(), checkpoints.restore(state).step)
[2, 4] 4

Orbax detects neither flipped bytes nor a changed dtype, and it raises on a truncated checkpoint but still counts it as
the latest. So a checkpoint gets its checksums before it gets its name, the shapes and dtypes are saved with the arrays,
and a checkpoint that fails its check is skipped in favour of the previous one.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp

from jaxai.core import PyTree, State, whole
from jaxai.files.paths import is_utf8
from jaxai.files.unwritten import UnwrittenError, reason, writing
from jaxai.runtime.orbax_noise import end_quietly, keep_quiet

__all__ = ["Checkpoints", "Which", "restore_once", "save_once"]

Which = Literal["latest", "best"]

CHECKSUMS = "checksums.json"
NOTES = 40_000
"""Approximate number of bytes of a checkpoint without its arrays."""
KEPT: dict[Which, int] = {"latest": 2, "best": 1}
logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in `directory/latest` (the last two) and `directory/best` (one).

    Use it as a context, which waits at its end until everything is written. Reading changes nothing on the disk, so it
    is possible during a training. The first `save` makes this object the writer: it removes what an earlier writer left
    unfinished.

    Args:
      directory: of the checkpoints.
      stored: state -> the part of it that is saved; see `Workload`.

    Attributes:
      damaged: folders that `restore` has skipped -> their damage.
    """

    def __init__(self, directory: str | os.PathLike[str], stored: Callable[[State], State] = whole):
        self.directory, self._stored = Path(directory).absolute(), stored
        self.damaged: dict[Path, str] = {}
        self._managers: dict[Which, ocp.CheckpointManager] = {}
        self._started: dict[Which, int] = {}

    def save(self, state: State, which: Which = "latest") -> None:
        """Starts saving; returns once the arrays are copied, while the files are still being written.

        The state may be donated afterwards. A step that has a checkpoint already is not saved again.

        Args:
          state: to save, under its `step`; in the layout of `jit`, see `parallel.gather_state`.
          which: "latest" (two are kept) or "best" (one is kept).

        Raises:
          UnwrittenError: this state or the one before could not be written.
        """
        step = int(state.step)
        if step == self._started.get(which) or step in self.steps(which):
            return
        if which == "latest" and "best" in self._managers:
            # Even after a kill, the best of all evaluations up to the latest state has its checkpoint.
            with self._saving("best"):
                self._managers["best"].wait_until_finished()
        with self._saving(which):
            manager = self._manager(which)
            manager.wait_until_finished()
            self._started[which] = step
            self._require_space(which, state)
            manager.save(step, args=_items(self._stored(state)))

    def steps(self, which: Which = "latest") -> list[int]:
        """Steps that have a finished checkpoint, in ascending order."""
        folder = self.directory / which
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []

    def newest(self, which: Which | None = None) -> list[Path]:
        """Folders of the finished checkpoints, the newest first; of `which`, or of both."""
        kinds: tuple[Which, ...] = ("latest", "best") if which is None else (which,)
        found = [(step, kind) for kind in kinds for step in self.steps(kind)]
        return [self.directory / kind / str(step) for step, kind in sorted(found, key=lambda each: -each[0])]

    def restore(self, like: State, which: Which | None = "latest") -> State | None:
        """The newest checkpoint that passes its checks; None if there is none. `damaged` has the skipped ones.

        Args:
          like: a state of the same shapes and dtypes, or of `jax.ShapeDtypeStruct`s with shardings; the
            restored state is placed like it.
          which: the latest, or the best by its evaluation; None: the newest of both.

        Raises:
          ValueError: the checkpoint is of another network or optimizer (the message names the first leaf that differs),
            or its path is not UTF-8.
        """
        if not is_utf8(self.directory):
            name = ascii(str(self.directory))
            raise ValueError(f"{name} is not UTF-8, which checkpoints need; rename the folder, or set a UTF-8 locale")
        tried: list[Path] = []
        # Listed again each time: a training that runs meanwhile replaces old checkpoints by newer ones.
        while untried := [folder for folder in self.newest(which) if folder not in tried]:
            folder = untried[0]
            tried.append(folder)
            state, damage = _read(folder, like)
            if not damage:
                return state
            newer = [other for other in self.newest(which) if int(other.name) > int(folder.name)]
            if folder.exists() and all(other in tried for other in newer):  # and is not being deleted
                self.damaged[folder] = damage
        return None

    def verify(self, which: Which) -> bool:
        """Whether there is an undamaged checkpoint of `which`; damaged ones are added to `damaged`."""
        for folder in self.newest(which)[:1]:
            if damage := self.damaged.get(folder, "") or _damage(folder):
                self.damaged[folder] = damage
                return False
            return True
        return False

    def set_aside(self) -> None:
        """Renames damaged checkpoints, so that a training can save these steps again, and logs it."""
        for folder, damage in self.damaged.items() if jax.process_index() == 0 else ():
            aside = _unused(folder.with_name(f"damaged-{folder.name}"))
            with writing(aside):
                folder.rename(aside)
            logger.warning("checkpoint of step %s is damaged (%s); moved to %s", folder.name, damage, aside)
        self.damaged.clear()

    def inventory(self) -> str:
        """All checkpoints as text: `latest/400 (damaged: ...), best/320`."""
        found = []
        for folder in self.newest():
            damage = f" (damaged: {self.damaged[folder]})" if folder in self.damaged else ""
            found.append(f"{folder.parent.name}/{folder.name}{damage}")
        return ", ".join(found)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          UnwrittenError: something could not be written.
        """
        for which, manager in self._managers.items():
            with self._saving(which):
                manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.wait()
        except UnwrittenError:
            if error is None:
                raise
        finally:
            for manager in self._managers.values():
                with contextlib.suppress(Exception):  # what could not be written was raised above
                    manager.close()
            self._managers.clear()

    def _manager(self, which: Which) -> ocp.CheckpointManager:
        if which not in self._managers:
            keep_quiet()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=KEPT[which],
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=functools.partial(self._seal, which)),
            )
            self._managers[which] = ocp.CheckpointManager(
                self.directory / which, options=options, item_names=("state", "leaves")
            )
        return self._managers[which]

    def _require_space(self, which: Which, state: State) -> None:
        """Raises OSError if a checkpoint certainly does not fit: orbax would fail in many threads at once."""
        if jax.process_count() > 1:  # all hosts raise, or none
            return
        usage = shutil.disk_usage(self.directory / which)
        before = [_size(folder) + NOTES for folder in self.newest(which)[:1]]
        # Zeros are compressed to almost nothing: the size of a first checkpoint is unknown.
        least = NOTES + min(1_000_000, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)))
        needed = max(before, default=least)
        if usage.total and usage.free < needed:
            raise OSError(errno.ENOSPC, f"No space left on device: {usage.free:,} bytes are free, {needed:,} needed")

    def _seal(self, which: Which) -> None:
        """Writes the checksums; orbax calls it in its own thread after writing, before the folder is renamed."""
        step = self._started[which]
        for folder in [*(self.directory / which).glob(f"{step}.*"), self.directory / which / str(step)]:
            if folder.is_dir():
                _seal(folder)

    @contextlib.contextmanager
    def _saving(self, which: Which) -> Iterator[None]:
        """Turns the errors of orbax and its storage into one kind."""
        failed = ""
        try:
            yield
        except Exception as error:
            if os.environ.get("JAXAI_TRACEBACK"):
                raise
            failed = reason(error)
            end_quietly()
        if failed:  # outside of the handler: orbax continues to print while its frames are referenced
            what = self.directory / which / str(self._started.pop(which, ""))
            raise UnwrittenError(None, f"cannot write checkpoint {what}: {failed}")


def save_once(directory: Path, state: State) -> None:
    """Writes one state into one folder, replacing its content, and waits until it is written.

    Raises:
      UnwrittenError: it could not be written.
    """
    directory = directory.absolute()

    def seal() -> None:
        for folder in [*directory.parent.glob(f"{directory.name}.*"), directory]:
            if folder.is_dir():
                _seal(folder)

    keep_quiet()
    handler = ocp.CompositeCheckpointHandler("state", "leaves")
    try:
        with ocp.AsyncCheckpointer(
            handler, async_options=ocp.AsyncOptions(post_finalization_callback=seal)
        ) as checkpointer:
            checkpointer.save(directory, args=_items(state), force=True)
    except Exception as error:  # orbax raises many kinds
        end_quietly()
        raise UnwrittenError(None, f"cannot write {directory}: {reason(error)}") from error


def restore_once(directory: Path, like: State) -> State:
    """The state that `save_once` wrote.

    Raises:
      ValueError: it is damaged, or of another network or optimizer.
    """
    state, damage = _read(directory.absolute(), like)
    if damage:
        raise ValueError(f"{directory} is damaged ({damage}); train again, which leaves a new one")
    return state


def _items(state: State) -> ocp.args.Composite:
    return ocp.args.Composite(state=ocp.args.StandardSave(state), leaves=ocp.args.JsonSave(_describe(state)))


def _read(folder: Path, like: State) -> tuple[Any, str]:
    """The state in a checkpoint and "", or None and a description of the damage."""
    if damage := _damage(folder):
        return None, damage
    if not (folder / CHECKSUMS).exists():
        logger.warning("checkpoint %s has no %s: it cannot be checked for damage", folder, CHECKSUMS)
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            leaves = dict(checkpointer.restore(folder / "leaves"))
    except Exception as error:  # orbax raises many kinds for unreadable files
        return None, f"{type(error).__name__} while reading it"
    _compare(leaves, _describe(like), folder)
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            return checkpointer.restore(folder / "state", args=ocp.args.StandardRestore(like)), ""
    except Exception as error:  # as above; shapes and dtypes fit
        return None, f"{type(error).__name__} while reading its arrays"


def _describe(state: PyTree) -> dict[str, str]:
    """Path of each leaf -> its dtype and shape, as in `.params['Dense_0']['bias']` -> `float32[10]`."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _compare(saved: dict[str, str], expected: dict[str, str], folder: Path) -> None:
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            raise ValueError(
                f"checkpoint {folder} has {name} as {saved.get(name, 'nothing')}, this run as"
                f" {expected.get(name, 'nothing')}; use the configuration and the version of jaxai that it"
                " was made with, or another workdir"
            )


def _unused(path: Path) -> Path:
    """The path, or the first of `path-2`, `path-3`, ... that does not exist."""
    names = itertools.chain([path], (path.with_name(f"{path.name}-{count}") for count in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _size(folder: Path) -> int:
    """Bytes that a folder takes on the disk."""
    found = [path.stat() for path in folder.rglob("*")]
    return sum(512 * getattr(each, "st_blocks", 0) or each.st_size for each in found)


def _seal(folder: Path) -> None:
    """Writes the checksums of a checkpoint, completely or not at all: with half of them it would count as damaged."""
    unfinished = folder / f".{CHECKSUMS}"
    unfinished.write_text(json.dumps(_checksums(folder), indent=1))
    unfinished.replace(folder / CHECKSUMS)


def _checksums(folder: Path) -> dict[str, str]:
    """Checksums of all files in `state` and `leaves`; orbax rewrites the files outside of these when it renames."""
    found = {}
    for file in sorted(path for path in folder.glob("*/**/*") if path.is_file()):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16))
        found[str(file.relative_to(folder))] = digest.hexdigest()
    return found


def _damage(folder: Path) -> str:
    """The damage of a checkpoint's files by its checksums; "" if there is none, or if it has no checksums."""
    if not (folder / CHECKSUMS).exists():
        return ""
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
        actual = _checksums(folder)
    except (OSError, ValueError, RecursionError):
        return f"{CHECKSUMS} is unreadable"
    # Earlier versions also listed files outside of the folders, which are not checked.
    names = [name for name in expected if "/" in name] if isinstance(expected, dict) else []
    if not names:
        return f"{CHECKSUMS} lists no files"
    wrong = sorted(name for name in names if actual.get(name) != expected[name])
    return f"{wrong[0]} differs from what was written" if wrong else ""
