import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    *(
        "tensorflow",
        "gymnax",
        "gymnasium",
        "tensorflow_datasets",
        "array_record",
        "matplotlib",
        "PIL",
        "pandas",
        "scipy",
    ),
    *("orbax", "rich", "tyro", "tensorboardX", "mlxtend"),
}
"""Packages that an import may not load unless the package it stands on loads them already."""

RUNTIME = ("jaxai.runtime", "jaxai.data", "jaxai.report", "jaxai.files", "jaxai.experiments", "jaxai.cli")


def loaded_by(statement, first="pass"):
    """Top-level packages and jaxai's modules that `statement` adds after `first`, and whether JAX's backend started."""
    code = f"""
import json, sys
{first}
before = set(sys.modules)
{statement}
added = set(sys.modules) - before
started = False
if "jax" in sys.modules:
    from jax._src import xla_bridge  # no public way to ask without starting it
    started = xla_bridge.backends_are_initialized()
print(json.dumps([sorted(added), started]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    added, started = json.loads(done.stdout.splitlines()[-1])
    return {name.partition(".")[0] for name in added}, {name for name in added if name.startswith("jaxai")}, started


def test_importing_jaxai_loads_nothing_but_itself():
    packages, modules, started = loaded_by("import jaxai")
    assert packages - set(sys.stdlib_module_names) == {"jaxai"}
    assert modules == {"jaxai", "jaxai.lazy"}
    assert not started


@pytest.mark.parametrize(
    "statement", ["from jaxai import cnn", "from jaxai import dqn, population", "import jaxai.core, jaxai.ops"]
)
def test_importing_a_workload_loads_only_its_pure_files_and_starts_no_backend(statement):
    packages, modules, started = loaded_by(statement, first="import jax, flax, flax.linen, optax, optax.contrib, chex")
    assert not packages & HEAVY
    assert not {name for name in modules if any(name.startswith(runtime) for runtime in RUNTIME)}
    # Everything else that it needs, jax, flax and optax have loaded already.
    assert packages - set(sys.stdlib_module_names) == {"jaxai"}
    assert not started


def test_importing_the_command_line_starts_no_backend_and_no_heavy_library():
    packages, _, started = loaded_by("import jaxai.cli")
    assert not packages & (HEAVY - {"rich", "tyro"})
    assert not started


def test_the_list_of_commands_imports_nothing_heavy_and_no_experiment():
    packages, modules, _ = loaded_by("from jaxai import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass")
    assert not packages & {*(HEAVY - {"rich", "tyro"}), "jax", "flax", "optax"}
    assert not {name for name in modules if name.endswith(".experiment")}


@pytest.mark.parametrize(
    "module",
    [
        "jaxai.experiments.classification.experiment",
        "jaxai.experiments.qlearning.experiment",
        "jaxai.experiments.qlearning.sweep",
    ],
)
def test_importing_an_experiment_starts_no_backend_and_draws_nothing(module):
    packages, _, started = loaded_by(f"import {module}", first="import orbax.checkpoint")
    assert not packages & (HEAVY - {"rich", "tyro"})
    assert not started
