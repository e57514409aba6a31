"""Checkpoints of a State with orbax: asynchronous, the latest kept apart from the best, checked when restored.

Orbax notices neither flipped bytes nor a changed dtype, and raises on a truncated checkpoint while still calling it
the latest. So each finished checkpoint gets a file of checksums, the shapes and dtypes are saved beside the arrays,
and what fails its check is set aside in favour of the one before.
"""

import hashlib
import itertools
import json
import logging
from pathlib import Path
from typing import Literal

import jax
import orbax.checkpoint as ocp

from jaxai.core import PyTree, State

Which = Literal["latest", "best"]

CHECKSUMS = "checksums.json"
logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in `directory/latest` (the last two) and `directory/best` (one)."""

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self._managers = {name: _manager(self.directory / name, keep) for name, keep in (("latest", 2), ("best", 1))}

    def save(self, state: State, which: Which = "latest") -> None:
        """Starts saving; returns once the arrays are copied, while the files are still being written."""
        manager, step = self._managers[which], int(state.step)
        if step in manager.all_steps():
            return
        manager.wait_until_finished()
        self._seal(which)
        manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), leaves=ocp.args.JsonSave(_describe(state))),
        )

    def steps(self, which: Which = "latest") -> list[int]:
        """Steps that have a checkpoint, in rising order."""
        return sorted(self._managers[which].all_steps())

    def restore(self, like: State, which: Which = "latest") -> State | None:
        """The newest checkpoint that passes its checks; None where there is none.

        Args:
          like: a state, or `jax.ShapeDtypeStruct`s in its shape, whose shardings say where the leaves go.
          which: the latest, or the best by its evaluation.

        Raises:
          ValueError: the checkpoint is of another network or optimizer; the first leaf that differs is named.
        """
        manager = self._managers[which]
        for step in reversed(self.steps(which)):
            folder = self.directory / which / str(step)
            if (damage := _damage(folder)) is None:
                try:
                    leaves = manager.restore(step, args=ocp.args.Composite(leaves=ocp.args.JsonRestore()))["leaves"]
                except Exception as error:  # orbax raises many kinds for unreadable files; each means the same here
                    damage = f"{type(error).__name__} while reading it"
                else:
                    _compare(leaves, _describe(like), folder)
                    try:
                        return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))[
                            "state"
                        ]
                    except Exception as error:  # as above: shapes and dtypes are known to fit
                        damage = f"{type(error).__name__} while reading its arrays"
            aside = _unused(folder.with_name(f"damaged-{step}"))
            logger.warning("checkpoint of step %d is damaged (%s); moved to %s", step, damage, aside)
            folder.rename(aside)
            manager.reload()
        return None

    def rewind(self, step: int) -> None:
        """Forgets what was saved after `step`: training goes on from there, and orbax saves no step below its last."""
        for manager in self._managers.values():
            for later in [saved for saved in manager.all_steps() if saved > step]:
                manager.delete(later)

    def wait(self) -> None:
        """Waits for what is still being written."""
        for which, manager in self._managers.items():
            manager.wait_until_finished()
            self._seal(which)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for manager in self._managers.values():
            manager.close()

    def _seal(self, which: str) -> None:
        """Writes the checksums of finished checkpoints that have none yet."""
        if jax.process_index() != 0:
            return
        for step in self._managers[which].all_steps():
            folder = self.directory / which / str(step)
            if folder.is_dir() and not (folder / CHECKSUMS).exists():
                # Whole or not at all: half of it would condemn a good checkpoint after a kill.
                unfinished = self.directory / f".{CHECKSUMS}"
                unfinished.write_text(json.dumps(_checksums(folder), indent=1))
                unfinished.replace(folder / CHECKSUMS)


def save_once(directory: Path, state: State) -> None:
    """One state in one folder, written before it returns; replaces what is there."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.absolute(), state, force=True)


def restore_once(directory: Path, like: State) -> State:
    """What `save_once` wrote."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(directory.absolute(), like)


def _manager(directory: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(directory, options=options, item_names=("state", "leaves"))


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
    """The path, or the first of `path-2`, `path-3`, ... that is not there."""
    names = itertools.chain([path], (path.with_name(f"{path.name}-{count}") for count in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS)
    return {
        str(file.relative_to(folder)): hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() for file in files
    }


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None; one that was not sealed in time is given the benefit."""
    if not (folder / CHECKSUMS).exists():
        return None
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
    except ValueError:
        return f"{CHECKSUMS} is unreadable"
    actual = _checksums(folder)
    wrong = sorted(name for name in expected if actual.get(name) != expected[name])
    return f"{wrong[0]} is not what was written" if wrong else None
