"""Operations with a second form for CPU, chosen where the program is lowered and proved equal to plain lax.

XLA's CPU backend loses its threaded convolution inside a loop body and differentiates `reduce_window` slowly. The
functions here have the signature of the ones that they stand in for: on an accelerator they *are* those, in an
ahead-of-time compilation too. The plain path, for a comparison, is `lax.conv_general_dilated`,
`lax.conv_transpose` and `max_pool_lax`.

`jaxai.ops.lstm` and `jaxai.ops.gru` hold the recurrent layers, each with its weights and its single step; the forms of
the LSTM are proved equal too.
"""

from jaxai.ops.conv import conv_general_dilated
from jaxai.ops.conv_transpose import conv_transpose
from jaxai.ops.pool import max_pool, max_pool_lax

__all__ = ["conv_general_dilated", "conv_transpose", "max_pool", "max_pool_lax"]
