"""Eight fake CPU devices for every test, made before jax starts its CPU client."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # XLA sizes its thread pool from NPROC; eight devices that meet in a collective need more than two threads.
    os.environ["NPROC"] = "16"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
