"""Two processes stop together, with the same error, where only one of them has met a NaN; and one of them warns."""

import csv
from pathlib import Path

import pytest
from processes import run_script, write_script

SCRIPT = """
import torch
from scae.config import Logger, TrainerConfig
from scae.data import TokenWindows, WindowModule
from scae.dictionaries import Shape, create
from scae.core.failures import NonFiniteError
from scae.objectives import Objective, Term
from scae.objectives.terms import Recon
from scae.suite import Suite
from scae.training import Place, SuiteTraining, WorstTokens, fit

rank = lambda: os.environ.get("LOCAL_RANK", "0")

class Failing(Term):
    name = "failing"
    micro_step = 0

    def __call__(self, comparison):
        self.micro_step += 1
        bad = rank() == "1" and self.micro_step > 4
        return comparison.out.residual().sum() * (float("nan") if bad else 0.0)

tokens = torch.randint(40, (30, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
windows = TokenWindows(tokens=tokens, lengths=torch.full((30,), 10, dtype=torch.int32), bos=True)
config = tiny.neutral_training(steps=8, batch_size=8, lr=0.01, warmup=0.1, decay=0.3)
trainer = TrainerConfig(accelerator="cpu", devices=2, num_nodes=1, strategy="ddp", precision="32-true", accumulate=1,
                        clip=0.1, chunk_mb=32, checkpoint_minutes=1e-6,
                        checkpoint_steps=None, keep_checkpoints="all", worst_share_warning=0.01, progress=False)
torch.manual_seed(0)
suite = Suite({{site: create(Shape(20, 16, 16, site.transcoder), type="topk", k=3)
               for site in tiny._all_sites(lm)}}, lm).double()
objective = Objective([Recon(weight=1.0, kind="fvu", knee=4.0), Failing(weight=1.0)])
module = SuiteTraining(suite, objective, config, mode="pruned", clip=0.1, identity={{"artifact": "x"}})
warned = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: warned.append(record.getMessage())
logging.getLogger("scae").addHandler(handler)
try:
    fit(module, WindowModule(train=windows, batch_size=8, steps=8, seed=5), steps=8, tokens_per_step=80,
        trainer=trainer, logger=Logger(kind="csv", every=2, project=None, mode=None),
        place=Place("pretrain", out, "group", "pretrain"), seed=0, callbacks=[WorstTokens("pretrain", 0.01)])
except NonFiniteError as error:
    (out / f"error-{{rank()}}").write_text(str(error))
(out / f"warned-{{rank()}}").write_text("\\n".join(warned))
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("guards")
    run_script(write_script(out, SCRIPT), 2, out)
    return out


@pytest.mark.slow
def test_both_stop_with_the_same_error(failed: Path) -> None:
    errors = [(failed / f"error-{rank}").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert "pretrain stopped before step 5 of 8" in errors[0]
    assert "micro-step 4" in errors[0]
    assert "(NaN or infinity): the term failing of the loss, the loss\n" in errors[0]
    assert (failed / "last.ckpt").is_file()


@pytest.mark.slow
def test_the_process_with_the_worst_token_warns(failed: Path) -> None:
    warnings = [line for rank in range(2) for line in (failed / f"warned-{rank}").read_text().splitlines()]
    assert len([line for line in warnings if "trainer.worst_share_warning" in line]) == 1
    rows = list(csv.DictReader((failed / "logs" / "metrics.csv").read_text().splitlines()))
    assert all(1 / 36 < float(row["train/worst_share"]) < 1 for row in rows)
