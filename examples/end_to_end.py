# %% [markdown]
# One BatchTopK dictionary of the residual stream, trained through the live model: reconstruction, AuxK, later residual
# streams and predictions, on a text a window. On GPT-2: "model=gpt2", "data=openwebtext",
# "sites.hook=blocks.9.hook_resid_post", "pretrain.loss.block_mse.layers=[10,11]".

# %%
from scae import train

run = train(
    *("experiment=e2e_batchtopk", "model=smoke", "data.context=64", "data.max_tokens=100_000", "data.packing=document"),
    *("sites.hook=blocks.0.hook_resid_post", "sae.expansion=4", "l0=8", "pretrain.steps=40", "pretrain.batch_size=8"),
    *("pretrain.loss.block_mse.weight=0.1", "pretrain.loss.block_mse.layers=[1]", "pretrain.validation.every=10"),
    *("pretrain.validation.tokens=2048", "pretrain.validation.keep=best", "evaluation.tokens=2048"),
)

# %% What it rebuilds, and what the model predicts with it in place.
(site,) = run.suite.sites
print(
    {
        key: round(run.metrics[key], 4)
        for key in (f"plain/fvu/{site}", f"plain/l0/{site}", "spliced/ce_diff", "spliced/kl")
    }
)

# %% Features that never fired in training, and tokens since each last did.
print(run.metrics[f"features/pretrain/never_fired/{site}"], run.suite[site].tokens_since_fired[:8].tolist())

# %% A token's features, strongest first.
code = run.suite(run.lm.trace("import os"), mode="plain").codes[site].dense()[-1]
print(code.topk(3))
