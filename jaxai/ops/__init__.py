"""Operations with a second form for CPU, chosen when the program is lowered and tested against plain lax.

XLA's CPU backend loses its threaded convolution inside a loop body and differentiates `reduce_window` slowly. The
functions here replace the ones of lax and flax and have the same signatures. On an accelerator they call the originals,
also in an ahead-of-time compilation. For comparison, the plain forms are `lax.conv_general_dilated`,
`lax.conv_transpose` and `max_pool_lax`.

`jaxai.ops.lstm` and `jaxai.ops.gru` hold the recurrent layers, each with its weights and its single step. The forms of
the LSTM are tested against each other too.
"""

from jaxai.ops.conv import conv_general_dilated
from jaxai.ops.conv_transpose import conv_transpose
from jaxai.ops.pool import max_pool, max_pool_lax

__all__ = ["conv_general_dilated", "conv_transpose", "max_pool", "max_pool_lax"]
