"""Bind workloads to data, evaluation, pictures and commands: what `jaxai train` and its relatives run."""
