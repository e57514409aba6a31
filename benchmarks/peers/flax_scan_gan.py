"""The DCGAN in plain flax with a block's steps in one `lax.scan`; see `flax_gan`.

python -m benchmarks.peers.flax_scan_gan --batch-size 64
"""

import functools

from benchmarks.peers import serving
from benchmarks.peers.flax_gan import build

if __name__ == "__main__":
    serving.main(functools.partial(build, scan=True))
