"""Reads run folders and draws them: one page, curves, pictures. Knows no workload and needs no runtime."""
