"""Fine-tuning: a new state with the parameters of a trained one.

Parameters of the same name and shape are copied. Parameters that depend on the number of classes keep their initial
values where this number differs. Any other difference is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxai import averages
from jaxai.core import PyTree, State, Workload

__all__ = ["Start"]

NAMED = 4
"""Largest number of parameters that a message names."""


@dataclass(frozen=True)
class Start:
    """The variables of a trained run, to start a training with.

    Attributes:
      params: of the network, as evaluation uses them.
      extra: entries of `State.extra` that are copied where the new state has them too: statistics, averages, target
        parameters.
      sizes: sizes that may differ in a network for another task, as `{"classes": 10}`.
      where: the run, for messages.
      renewed: names in `sizes` whose parameters are new even where the size is the same, as for the tokens of another
        vocabulary.
    """

    params: PyTree
    extra: Mapping[str, PyTree]
    sizes: Mapping[str, int]
    where: str
    renewed: frozenset[str] = field(default=frozenset())

    def begin(self, state: State) -> State:
        """The initial state of a training, with the copied variables.

        Raises:
          ValueError: something does not fit; see `check`.
        """
        params, _ = self._taken(self.params, state.params, "")
        extra = state.extra
        if isinstance(extra, Mapping):
            extra = {name: self._taken_extra(name, value) for name, value in extra.items()}
        return state.replace(params=params, opt_state=averages.restarted(state.opt_state, params), extra=extra)

    def _taken_extra(self, name: str, target: PyTree) -> PyTree:
        if name not in self.extra:
            return target
        source = self.extra[name]
        if name == averages.EMA:  # only the collections that the new average follows
            source = {each: source[each] for each in target if each in source}
        return self._taken(source, target, name)[0]

    def check(self, workload: Workload) -> str:
        """Checks by shapes alone that a workload can start from here.

        Returns:
          One line with the number of copied parameters and the names of new ones.

        Raises:
          ValueError: a parameter is missing, or has another shape that `sizes` does not explain. One line.
        """
        shapes = jax.eval_shape(workload.init, jax.random.key(0))
        jax.eval_shape(self.begin, shapes)
        new = self._taken(self.params, shapes.params, "")[1]
        count = len(jax.tree.leaves(shapes.params))
        line = f"starting from {self.where}: {count - len(new)} of {count} parameter arrays are taken"
        return f"{line}; new: {_some([f'{name} ({reason})' for name, reason in new.items()])}" if new else line

    def _taken(self, source: PyTree, target: PyTree, prefix: str) -> tuple[PyTree, dict[str, str]]:
        """The target with the source's leaves, and the reasons for those that stay new, by name."""
        there, wanted = _by_name(source, prefix), _by_name(target, prefix)
        if surplus := [name for name in there if name not in wanted]:
            raise ValueError(f"{self.where} has {_some(surplus)}, and this network has not; give the same network")
        found, new, numbers = [], {}, dict[str, int]()
        for name, leaf in wanted.items():
            if name not in there:
                raise ValueError(f"{self.where} has no {name}, and this network has; give the same network")
            reason = self._difference(there[name].shape, leaf.shape, numbers)
            if reason is None:
                raise ValueError(
                    f"{name} has shape {list(there[name].shape)} in {self.where}, and {list(leaf.shape)} in this"
                    " network; give the same network"
                )
            if reason:
                new[name] = reason
            # A copy: a donated state cannot hold an array twice.
            found.append(leaf if reason else jnp.array(there[name], leaf.dtype, copy=True))
        return jax.tree.unflatten(jax.tree.structure(target), found), new

    def _difference(self, old: tuple[int, ...], new: tuple[int, ...], numbers: dict[str, int]) -> str | None:
        """Why a parameter is new; "" where it is copied, None where it does not fit.

        `numbers` holds the new sizes found in earlier parameters: all parameters must agree.
        """
        if len(old) != len(new):
            return None
        reasons = []
        for before, after in zip(old, new, strict=True):
            names = [name for name, size in self.sizes.items() if size == before]
            if before == after:
                reasons += [f"other {name}" for name in names if name in self.renewed]
                continue
            name = next((name for name in names if numbers.get(name, after) == after), None)
            if name is None:
                return None
            numbers[name] = after
            reasons.append(f"{before} -> {after} {name}")
        return ", ".join(dict.fromkeys(reasons))


def _by_name(tree: PyTree, prefix: str) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {f"{prefix}/{name}" if prefix else name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
