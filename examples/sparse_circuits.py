# %% [markdown]
# Sparsely connected autoencoders, from a language model to the inputs of a feature (20 seconds, offline).
# On Pythia-70M and the Pile: `train("experiment=pythia70m", "connectivity.C=96")`.

# %%
from scae import train

run = train("experiment=smoke", "connectivity.C=16", "sae.expansion=4", "loss=recon_kl")

# %% The suite in its pruned pass, each feature reading 16 others on average.
for arm in ("plain", "pruned", "pruned_no_finetune", "random_no_finetune"):
    print(f"{arm:20} CE {run.metrics[f'{arm}/ce_diff']:+.3f} FVU {run.metrics[f'{arm}/fvu_mean']:.3f}")

# %% What a feature reads, strongest first: site, feature, virtual weight.
print(run.suite.inputs("1.mlp", feature=3)[:5])

# %% A text through the pruned pass: activations by site, and the stream that they add up to.
trace = run.lm.trace("def __init__(self, name):")
out = run.suite(trace, mode="pruned")
print({str(site): round(len(code.value) / trace.n_live, 1) for site, code in out.codes.items()}, out.residual().shape)

# %% The same suite, other connections: finetuning takes what pretraining has made.
print(train("experiment=smoke", "connectivity.C=4", "sae.expansion=4").metrics["pruned/ce_diff"])
