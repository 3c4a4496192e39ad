"""The legend of dimension names used in shape annotations, and the tensor types themselves.

    *n      any leading axes (tokens; batch × position; none)
    d_in    width of what a coder reads          d_out   width of what it predicts
    d_sae   number of latents                    d       width of a site where both are the same
    b       sequences in a batch                 s       positions in a sequence
    v       vocabulary                           nnz     non-zero latents of a whole batch

Annotations are `Float[Tensor, "*n d_in"]` (jaxtyping). They cost nothing at run time; the tests check them with beartype.
"""

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor"]
