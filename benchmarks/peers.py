"""The training step of other packages, in an environment that has them and no scae (`make_peers_env.sh`).

`PYTHON -m benchmarks.peers JSON` prints JSON: the version, and seconds and peak bytes for each number of features.
Every package does what its own trainer does in a step, on float32 input, with no dead features, as in the first steps
of a training:

    sae_lens             SAETrainer.step of a TopKTrainingSAE: AuxK with nothing to revive, clipping, Adam
    sae_lens_sparse      the same with `use_sparse_activations=True`, which is not its default; on the CPU torch has no
                         gradient for sparse activations rescaled by decoder norms, so without the rescaling
    dictionary_learning  TopKTrainer.update: AuxK with nothing to revive, gradient projection, clipping, Adam, unit norm
    sparsify             what its Trainer does around a SparseCoder: unit norm, FVU, gradient projection, schedule-free
                         SignSGD (its default; AuxK is off by default)
"""

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.inputs import activations
from benchmarks.measure import interleaved, peak_bytes

Step = Callable[[], Any]


def sae_lens(x: torch.Tensor, *, features: int, k: int, device: str, sparse: bool = False) -> Step:
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = TopKTrainingSAEConfig(
        d_in=x.shape[1],
        d_sae=features,
        k=k,
        device=device,
        dtype="float32",
        use_sparse_activations=sparse,
        rescale_acts_by_decoder_norm=not sparse,
    )
    training = SAETrainerConfig(
        total_training_samples=1000 * len(x),
        train_batch_size_samples=len(x),
        lr_end=3e-5,  # what its runner would set: a tenth of the rate
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=training, sae=TopKTrainingSAE(config), data_provider=iter([]))

    def step() -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


def sae_lens_sparse(x: torch.Tensor, *, features: int, k: int, device: str) -> Step:
    return sae_lens(x, features=features, k=k, device=device, sparse=True)


def dictionary_learning(x: torch.Tensor, *, features: int, k: int, device: str) -> Step:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=100_000, activation_dim=x.shape[1], dict_size=features, k=k, layer=0, lm_name="none", device=device
    )
    return lambda: trainer.update(1, x)  # step 0 would also look for a geometric median


def sparsify(x: torch.Tensor, *, features: int, k: int, device: str) -> Step:
    if not device.startswith("cuda"):
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from schedulefree import ScheduleFreeWrapper
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD

    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=features, k=k), device, dtype=torch.float32)
    coder.decoder.b.data = x.mean(0)
    lr = 5e-3 / (features / 2**14) ** 0.5
    optimizer = ScheduleFreeWrapper(SignSGD([{"params": list(coder.parameters()), "lr": lr}]), momentum=0.95)
    optimizer.train()
    since_fired = torch.zeros(features, dtype=torch.long, device=device)

    def step() -> None:
        coder.set_decoder_norm_to_unit_norm()
        fired = torch.zeros(features, dtype=torch.bool, device=device)
        out = coder(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # its trainer reads it at every step
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since_fired.add_(len(x))
        since_fired[fired] = 0

    return step


PACKAGES: dict[str, tuple[str, Callable[..., Step]]] = {
    "sae_lens": ("sae-lens", sae_lens),
    "sae_lens_sparse": ("sae-lens", sae_lens_sparse),
    "dictionary_learning": ("dictionary-learning", dictionary_learning),
    "sparsify": ("eai-sparsify", sparsify),
}


def main() -> None:
    request = json.loads(sys.argv[1])
    device, distribution = request["device"], PACKAGES[request["package"]][0]
    try:
        answer: dict[str, Any] = {"version": importlib.metadata.version(distribution), "torch": torch.__version__}
        answer["steps"] = [_measure(request, features, device) for features in request["features"]]
    except Exception as error:  # whatever keeps a package from running here belongs in its row
        answer = {"reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _measure(request: dict[str, Any], features: int, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    x = activations(request["tokens"], request["d_model"], device=device)
    step = PACKAGES[request["package"]][1](x, features=features, k=request["k"], device=device)
    seconds = interleaved({"it": step}, device=device, rounds=request["rounds"])["it"].seconds
    return {"seconds": seconds, "bytes": peak_bytes(step, device)}


if __name__ == "__main__":
    main()
