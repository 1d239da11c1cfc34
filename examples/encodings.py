# %% [markdown]
# The best activations that a dictionary allows: by an encoder, by a search, by an encoder with hidden layers.
# On GPT-2: "model=gpt2", "data=openwebtext", "sites=hook", "sites.hook=blocks.8.hook_resid_pre", "data.skip_first=1".

# %%
import torch

from scae import train
from scae.dictionaries.pursuit import pursue

SITE = ("experiment=smoke", "sites=attn_out", "sites.layers=[1]", "pretrain.steps=100")
run = train(*SITE)
sae = run.suite["1.attn"]

# %% Activations of the model, live, from text that was not trained on.
trace = next(run.heldout())
x, live = trace.outputs[run.suite.sites[0].module].flatten(0, 1), trace.live.flatten()


def fvu(code):
    error, spread = (sae.decode(code) - x)[live], (x - x[live].mean(0))[live]
    return float((error.square().sum() / spread.square().sum()).detach())


# %% Inference-time optimisation: gradient pursuit over the same dictionary, with as many features.
encoded = sae.encode(x, live)
searched = pursue(sae, x, live, method="gradient", k=sae.activation.k, steps=8)
print(f"L0 {len(encoded.value) / live.sum():.1f}, FVU {fvu(encoded):.3f} by the encoder")
print(f"L0 {len(searched.value) / live.sum():.1f}, FVU {fvu(searched):.3f} by gradient pursuit")
assert torch.all(searched.value >= 0)

# %% The pretrained dictionary with a hidden layer beside its encoder, which begins as that encoder.
finetuned = train(*SITE, f"pretrain.init_from={run.folder}", "sae.encoder=mlp", "sae.mlp.width=256")

# %% A new encoder with two hidden layers, for the dictionary as it is.
frozen = ("pretrain.freeze=[decoder]", "sae.mlp.skip=false", "sae.mlp.depth=2")
fresh = train(*SITE, f"pretrain.init_from={run.folder}", "sae.encoder=mlp", *frozen)
for name, one in {"linear": run, "hidden layer": finetuned, "new, frozen decoder": fresh}.items():
    print(f"{name}: FVU {one.metrics['plain/fvu_mean']:.3f}")
