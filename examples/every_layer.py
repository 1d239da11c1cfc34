# %% [markdown]
# TopK autoencoders of the residual stream after every layer, trained at once; activations are computed on the fly.
# On Llama 3 8B, every second layer, on 8 GPUs, with the model in 8 bits:
# `train("model=hub", "model.name=meta-llama/Meta-Llama-3-8B", "model.quantize=8bit", "data=pile", "sites=resid",`
# `      "sites.stride=2", "sae.features=32768", "l0=32", "trainer=ddp", "trainer.devices=8", "trainer.accumulate=8")`

# %%
from scae import train

run = train("experiment=smoke", "sites=resid", "sae=topk", "l0=8", "pretrain.batch_size=16")

# %% Each autoencoder by itself: what it leaves unexplained, and what it costs the predictions of the live model.
for site in run.suite.sites:
    fvu, ce = run.metrics[f"plain/fvu/{site}"], run.metrics[f"alone/ce_diff/{site}"]
    print(f"{site}: FVU {fvu:.3f}, CE {ce:+.4f}")
