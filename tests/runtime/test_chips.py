import json
import os
import types

import jax
import numpy as np
import pytest

from jaxai.runtime import chips, environment


def device(kind, platform="gpu"):
    return types.SimpleNamespace(device_kind=kind, platform=platform)


@pytest.mark.parametrize(
    ("kind", "peak", "name"),
    [
        ("TPU v4", 275e12, "tpu-v4"),
        ("TPU v5 lite", 197e12, "tpu-v5e"),
        ("TPU v5", 459e12, "tpu-v5p"),
        ("TPU v5p", 459e12, "tpu-v5p"),
        ("TPU v6 lite", 918e12, "tpu-v6e"),
        ("NVIDIA H100 80GB HBM3", 989e12, "nvidia-h100"),
        ("NVIDIA H100 PCIe", 756e12, "nvidia-h100-pcie"),
        ("NVIDIA H200", 989e12, "nvidia-h200"),
        ("NVIDIA B200", 2250e12, "nvidia-b200"),
        ("NVIDIA A100-SXM4-80GB", 312e12, "nvidia-a100"),
        ("NVIDIA A100-SXM4-40GB", 312e12, "nvidia-a100"),
        ("NVIDIA A100-PCIE-40GB", 312e12, "nvidia-a100"),
        ("NVIDIA A100 80GB PCIe", 312e12, "nvidia-a100"),
        ("NVIDIA L4", 121e12, "nvidia-l4"),
        ("Tesla V100-SXM2-16GB", 125e12, "nvidia-v100"),
        ("Tesla T4", 65e12, "nvidia-t4"),
    ],
)
def test_known_chip_has_its_published_peak(kind, peak, name):
    assert chips.peak_flops(device(kind)) == peak
    assert chips.name(device(kind)) == name


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA L40S", "nvidia-l40s"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "nvidia-h100-80gb-hbm3-mig-1g-10gb"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090"),
        ("TPU7x", "tpu7x"),
        ("", "gpu"),
    ],
)
def test_unknown_chip_has_no_peak_but_a_name(kind, name):
    assert chips.peak_flops(device(kind)) is None
    assert chips.name(device(kind)) == name


def test_cpu_has_no_peak_and_is_named_by_its_cores():
    cpu = jax.devices("cpu")[0]
    assert chips.peak_flops(cpu) is None
    assert chips.name(cpu) == f"cpu-{chips.usable_cores()}core"
    assert 1 <= chips.usable_cores() <= os.cpu_count()


def test_mesh_is_described_in_words():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    assert chips.describe(mesh) == f"8 x CPU with {chips.usable_cores()} cores"


def test_chips_are_devices_but_all_cpu_devices_are_one():
    assert chips.count(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))) == 1
    gpus = types.SimpleNamespace(devices=np.array([device("NVIDIA L4")] * 4), size=4)
    assert chips.count(gpus) == 4


def test_environment_survives_json_and_names_versions_and_devices(monkeypatch):
    monkeypatch.setenv("JAX_SOME_SETTING", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/home/somebody/cache")
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    described = environment.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["versions"]["jax"] == jax.__version__
    assert described["devices"]["count"] == jax.device_count()
    assert described["settings"]["JAX_SOME_SETTING"] == "1"
    assert described["settings"]["MALLOC_MMAP_MAX_"] == "0"
    assert "JAX_COMPILATION_CACHE_DIR" not in described["settings"]


def test_environment_names_the_commit_only_of_its_own_checkout(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "jaxai" / "__init__.py"
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment.jaxai, "__file__", str(package))
    assert environment.describe()["git"] is None


def test_broken_or_missing_git_is_no_error(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment.jaxai, "__file__", str(tmp_path / "jaxai" / "__init__.py"))
    assert environment.describe()["git"] is None
    monkeypatch.setenv("PATH", "")
    assert environment.describe()["git"] is None
