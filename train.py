"""One experiment: `python train.py`, with Hydra overrides; `python train.py --help` lists them."""

from omegaconf import DictConfig

from scae.command import command, values
from scae.config import parse


@command(config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    checked = parse(values(config))
    from scae.experiment import run  # imports torch: a bad configuration is refused before that

    return run(checked)


if __name__ == "__main__":
    main()
