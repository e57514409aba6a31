"""The parts of a run that are the same for every workload: devices, the loop, checkpoints, run folders."""
