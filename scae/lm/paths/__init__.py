"""The frozen linear paths of the model: how a residual stream reaches a dictionary and the logits.

With its own scales s and attention patterns A held fixed, every module's reading of the stream is linear:

    an MLP reads                 x(t) = P r(t) / s(t)                                            `Direct`
    an attention output is       x(q) = sum_h sum_k A_h(q,k) (P r(k) / s(k)) W_V_h W_O_h + b_O   `Attention`

P subtracts the mean over d_model where the normalisation does (LayerNorm), and is the identity where it does not
(RMSNorm). Where outputs are normalised too (Gemma 2, OLMo 2), A_h(q,k) is the attention pattern over the frozen scale
of that normalisation at q. The virtual weight between a decoder row D_j and an encoder row E_i is what D_j moved along
this path gives, a product of what the path makes of the two:

    Direct                       E_i . P D_j
    Attention, head h            (W_O_h E_i) . (P D_j W_V_h), a product in d_head

The weights are those of the folded model: normalisation weights and value biases live in W_V, W_O, W_U and b_O.
"""

from scae.lm.paths.attention import Attention
from scae.lm.paths.direct import Direct, ToLogits
from scae.lm.paths.path import Path
from scae.lm.paths.weights import LinearPaths

__all__ = ["Attention", "Direct", "LinearPaths", "Path", "ToLogits"]
