"""What every run needs and no workload knows: devices, the loop, checkpoints, run folders, reports."""
