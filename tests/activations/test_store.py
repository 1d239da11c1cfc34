"""A store holds what the model did at every text token, once; the plain pass on it is the plain pass on the live model;
and its batches are a function of (seed, step), whatever the number of devices, over epochs and interruptions."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scae.activations import Drawn, Store, StoredBatch, StoredModule, Writer
from scae.activations.store import Column, Shard, shard_path
from scae.activations.write import mixed
from scae.config import AuxK, ConfigError
from scae.core.failures import ArtifactError
from scae.core.typing import Tensor
from scae.data import TokenWindows, WindowModule
from scae.lm import LanguageModel
from scae.objectives import Objective
from scae.objectives.terms import AuxK as AuxKTerm
from scae.objectives.terms import Recon, Sparsity
from scae.sites import SOURCE, Site, read_at
from scae.suite import Suite
from scae.training import start_from_data

Make = Callable[..., Any]
CONTEXT, SEPARATOR = 9, 7


def some_windows(count: int = 14) -> TokenWindows:
    """With a BOS, a separator here and there, and padding."""
    tokens = torch.randint(40, (count, CONTEXT), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    lengths = CONTEXT - torch.arange(count, dtype=torch.int32) % 4
    return TokenWindows(tokens=tokens, lengths=lengths, bos=True, separator=SEPARATOR)


def writer(lm: LanguageModel, sites: list[Site], **changes: Any) -> Writer:
    windows = some_windows()
    values: dict[str, Any] = {
        "lm": lm,
        "sites": sites,
        "drawn": Drawn.of(windows, torch.randperm(14, generator=torch.Generator().manual_seed(2))[:12]),
        "dtype": torch.float64,
        "autocast": None,
        "batch_size": 5,
        "seed": 3,
    }
    return Writer(**(values | changes))


@pytest.fixture
def stored(lm: LanguageModel, all_sites: Make, tmp_path: Path) -> tuple[Writer, Store]:
    one = writer(lm, all_sites(lm))
    one.write(tmp_path)
    return one, Store(tmp_path)


def whole(store: Store) -> StoredBatch:
    """All of a store as one batch."""
    data = StoredModule(store=store, batch_size=store.kept, steps=1, seed=0)
    store.kept = len(store)  # one token a window, and so
    data.batch_size = len(store)
    return data.batch(0, rank=0, world_size=1)


def keys(shards: list[Shard]) -> list[tuple[int, int, int]]:
    """Window, position and token of every row, in order."""
    return [
        key
        for shard in shards
        for key in zip(shard.windows.tolist(), shard.positions.tolist(), shard.tokens.tolist(), strict=True)
    ]


# what is written


@pytest.mark.parametrize("shard_bytes", [1, 4000, 2**28])
def test_every_text_token_is_there_once_with_what_the_model_did_there(
    lm: LanguageModel, all_sites: Make, tmp_path: Path, shard_bytes: int
) -> None:
    one = writer(lm, all_sites(lm), shard_bytes=shard_bytes)
    facts = one.write(tmp_path)
    store = Store(tmp_path)
    live = one.drawn.windows.live(one.drawn.index)
    tokens = one.drawn.windows.tokens[one.drawn.index]
    expected = [(int(one.drawn.index[w]), p, int(tokens[w, p])) for w, p in live.nonzero().tolist()]
    assert facts["stored"] == len(store) == len(expected) // facts["shards"] * facts["shards"]
    assert sorted(keys(store.shards)) == sorted(expected[: len(store)])
    assert store.kept == 12
    assert store.tokens_a_window == len(store) // 12
    trace = lm.trace(*one.drawn.windows.batch(range(14)), patterns=False)
    read = dict(read_at(one.sites, trace, lm.paths))
    for shard in store.shards:
        at = shard.windows.long(), shard.positions.long()
        for column, rows in zip(store.columns, shard.rows.chunk(len(store.columns), dim=1), strict=True):
            stream = read[column.site] if column.part == "read" else trace.outputs[column.site.module]
            torch.testing.assert_close(rows, stream[at], rtol=1e-10, atol=1e-12, msg=str(column))


def test_tokens_are_shuffled_and_a_seed_decides_how(lm: LanguageModel, all_sites: Make, tmp_path: Path) -> None:
    orders: dict[str, list[tuple[int, int, int]]] = {}
    for name, seed, batch_size in (("one", 3, 5), ("again", 3, 2), ("other", 4, 5)):
        (tmp_path / name).mkdir()
        one = writer(lm, all_sites(lm)[:1], seed=seed, batch_size=batch_size)
        one.write(tmp_path / name)
        orders[name] = keys(Store(tmp_path / name).shards)
    number = {int(window): at for at, window in enumerate(one.drawn.index)}
    in_order = sorted(orders["one"], key=lambda key: (number[key[0]], key[1]))
    assert orders["one"] == orders["again"]
    assert orders["one"] != orders["other"] != in_order != orders["one"]
    assert sorted(orders["one"]) == sorted(orders["other"])


def test_an_autoencoder_is_kept_once_and_a_transcoder_twice(lm: LanguageModel, all_sites: Make, tmp_path: Path) -> None:
    one = writer(lm, [Site(0, "attn"), Site(1, "mlp")], dtype=torch.bfloat16)
    facts = one.write(tmp_path)
    store = Store(tmp_path)
    assert [str(column) for column in store.columns] == ["0.attn write", "1.mlp read", "1.mlp write"]
    assert [Column.parse(str(column)) for column in store.columns] == store.columns
    assert facts["bytes"] == len(store) * (3 * 16 * 2 + 3 * 4)
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert facts["bytes"] < on_disk < facts["bytes"] + 1000 * facts["shards"]
    exact = writer(lm, one.sites)
    (tmp_path / "exact").mkdir()
    exact.write(tmp_path / "exact")
    for rounded, shard in zip(store.shards, Store(tmp_path / "exact").shards, strict=True):
        assert torch.equal(rounded.rows, shard.rows.to(torch.bfloat16))
    trace = whole(store).trace(lm, patterns=False)
    assert {stream.dtype for stream in trace.outputs.values()} == {torch.float64}


def test_an_interrupted_store_goes_on_with_the_shards_that_are_there(
    lm: LanguageModel, all_sites: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "straight").mkdir()
    (tmp_path / "broken").mkdir()
    one = writer(lm, all_sites(lm))
    one.write(tmp_path / "straight")
    made: list[int] = []
    shard = Writer.shard

    def dies(self: Writer, number: int) -> dict[str, Tensor]:
        if number == 5 and 5 not in made:
            made.append(5)
            raise KeyboardInterrupt
        made.append(number)
        return shard(self, number)

    monkeypatch.setattr(Writer, "shard", dies)
    with pytest.raises(KeyboardInterrupt):
        one.write(tmp_path / "broken")
    with pytest.raises(ValueError, match="5 shards of a store that has 16"):
        Store(tmp_path / "broken")
    (tmp_path / "broken" / ".shard-0005.safetensors.1.tmp").write_bytes(b"half of it")
    shard_path(tmp_path / "broken", 2).write_bytes(shard_path(tmp_path / "broken", 2).read_bytes()[:-10])
    one.write(tmp_path / "broken")
    assert made == [0, 1, 2, 3, 4, 5, 2, *range(5, 16)]
    files = {path.name: path.read_bytes() for path in (tmp_path / "straight").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "broken").iterdir()} == files


def test_a_disk_without_room_is_seen_before_the_model_runs(
    lm: LanguageModel,
    all_sites: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = writer(lm, all_sites(lm))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with caplog.at_level(logging.INFO), pytest.raises(ArtifactError, match=r"activations=stored: .* 1 kB free"):
        one.write(tmp_path)
    assert "text tokens x" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_store_are_named(stored: tuple[Writer, Store], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no store of activations"):
        Store(tmp_path / "nowhere")
    path = shard_path(tmp_path, 3)
    content = path.read_bytes()
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"shard-0003\.safetensors: cannot be read"):
        Store(tmp_path)
    path.write_bytes(content)
    last = shard_path(tmp_path, 15)
    (tmp_path / "other").mkdir()
    replace(stored[0], dtype=torch.float32, sites=stored[0].sites[:1]).write(tmp_path / "other")
    shutil.copyfile(shard_path(tmp_path / "other", 15), last)
    with pytest.raises(ValueError, match=r"shard-0015\.safetensors: of another store"):
        Store(tmp_path)


# the plain pass on it


@pytest.mark.parametrize("activation", ["topk", "relu", "batchtopk"])
@pytest.mark.parametrize("kind", ["fvu", "mse", "huber"])
def test_loss_and_gradients_are_those_of_the_live_model(
    stored: tuple[Writer, Store], lm: LanguageModel, make_suite: Make, activation: str, kind: str
) -> None:
    """All of the text as one batch, the few tokens that the store leaves out not live."""
    one, store = stored
    terms = [Recon(weight=1.0, kind=kind, knee=0.5), AuxKTerm(weight=0.1), Sparsity(weight=0.01)]
    objective = Objective(terms, offers=("revived", "penalty") if activation == "relu" else ("revived",))
    kept = torch.zeros(14, CONTEXT, dtype=torch.bool)
    for window, position, _ in keys(store.shards):
        kept[window, position] = True
    batches = [one.drawn.windows.batch(range(14))._replace(live=kept), whole(store)]
    found = []
    for batch in batches:
        suite = make_suite(lm, activation=activation, auxk=AuxK(k=3, dead_after=1))
        for site in suite.sites:
            suite[site].tokens_since_fired[:4] = 5
        suite.train()
        trace = batch.trace(lm, patterns=False)
        out = suite(trace, mode="plain", aux=objective.aux)
        loss = objective(out, trace, lm.paths)
        loss.total.backward()
        fired = {str(site): code.fired().long() for site, code in out.codes.items()}
        found.append((loss.total.detach(), loss.terms, dict(suite.named_parameters()), fired))
    live, ours = found
    torch.testing.assert_close(ours[0], live[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours[1], live[1], rtol=1e-10, atol=1e-12)
    assert {"revived", "penalty"} >= objective.aux >= {"revived"}
    for name, parameter in live[2].items():
        theirs = ours[2][name].grad
        assert (parameter.grad is None) == (theirs is None)
        if parameter.grad is not None:
            torch.testing.assert_close(theirs, parameter.grad, rtol=1e-8, atol=1e-10, msg=name)
    torch.testing.assert_close(ours[3], live[3])


def test_a_suite_starts_from_a_store_as_from_the_live_model(
    stored: tuple[Writer, Store], lm: LanguageModel, make_suite: Make
) -> None:
    one, store = stored
    kept = torch.zeros(14, CONTEXT, dtype=torch.bool)
    for window, position, _ in keys(store.shards):
        kept[window, position] = True
    states = []
    for batch in (one.drawn.windows.batch(range(14))._replace(live=kept), whole(store)):
        suite: Suite = make_suite(lm, ends=(SOURCE,))
        start_from_data(suite, [batch], centred=True, furthest=0.05)
        states.append(suite.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-8, atol=1e-10, msg=name)


def test_what_is_not_kept_is_not_made_up(stored: tuple[Writer, Store], lm: LanguageModel) -> None:
    batch = whole(stored[1])
    trace = batch.trace(lm, patterns=False)
    assert trace.embed.isnan().all()
    assert trace.scored.sum() == 0
    assert all("embedding" not in name for name, _ in trace.parts())
    with pytest.raises(ValueError, match="only the plain pass"):
        batch.trace(lm, patterns=True)


# the batches


def numbered(shards: int, size: int, kept: int = 4) -> Store:
    """A store without files, whose tokens are numbered."""
    store = Store.__new__(Store)
    numbers = torch.arange(shards * size, dtype=torch.int32).view(shards, size)
    store.shards = [Shard(rows=own[:, None].float(), tokens=own, windows=own, positions=own % 7) for own in numbers]
    store.columns, store.kept = [Column(Site(0, "attn"), "write")], kept
    return store


def module(store: Store, **changes: Any) -> StoredModule:
    return StoredModule(**({"store": store, "batch_size": 4, "steps": 6, "seed": 3} | changes))


def seen(data: StoredModule, step: int) -> list[int]:
    return data.batch(step, rank=0, world_size=1).tokens[:, 0].tolist()


@settings(deadline=None, max_examples=60)
@given(
    shards=st.integers(1, 7),
    size=st.integers(1, 9),
    kept=st.integers(1, 9),
    batch=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_every_epoch_has_every_token_once(shards: int, size: int, kept: int, batch: int, seed: int) -> None:
    data = module(numbered(shards, size, kept), batch_size=batch, seed=seed)
    count = shards * size
    steps = 3 * count // data.tokens_a_step + 1
    sequence = [token for step in range(steps) for token in seen(data, step)]
    for epoch in range(len(sequence) // count):
        assert sorted(sequence[epoch * count : (epoch + 1) * count]) == list(range(count))


@settings(deadline=None, max_examples=60)
@given(shards=st.integers(1, 7), size=st.integers(1, 9), step=st.integers(0, 9), world_size=st.sampled_from([1, 2, 4]))
def test_processes_share_a_batch(shards: int, size: int, step: int, world_size: int) -> None:
    data = module(numbered(shards, size))
    parts = [data.batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = torch.cat([part.tokens for part in parts])[:, 0]
    assert together.tolist() == seen(data, step)
    assert torch.equal(torch.cat([part.rows for part in parts])[:, 0], together.float())
    assert torch.equal(data.indices(step), together)
    assert len({len(part.tokens) for part in parts}) == 1
    row = len(together) - 1
    assert data.place(step, row, 0) == f"position {int(together[row]) % 7} of training window {int(together[row])}"


def test_a_batch_has_as_many_tokens_of_every_shard_and_other_company_in_every_epoch() -> None:
    data = module(numbered(shards=5, size=40, kept=10), batch_size=1)
    assert data.tokens_a_step == 20
    for step in (0, 9, 10, 25):
        assert [sum(token // 40 == shard for token in seen(data, step)) for shard in range(5)] == [4] * 5
    assert {tuple(sorted(seen(data, step))) for step in range(10)}.isdisjoint(
        {tuple(sorted(seen(data, step))) for step in range(10, 20)}
    )
    other = module(numbered(shards=5, size=40, kept=10), batch_size=1, seed=4)
    assert [seen(data, step) for step in range(10)] != [seen(other, step) for step in range(10)]


def test_uneven_shares_and_another_store_are_refused() -> None:
    data = module(numbered(3, 8))
    with pytest.raises(ConfigError, match="batch_size=4: must be divisible by the 3 devices"):
        data.batch(0, rank=0, world_size=3)
    with pytest.raises(ConfigError, match="stored_tokens=24: the checkpoint was saved with stored_tokens=16"):
        data.load_state_dict(module(numbered(2, 8)).state_dict())
    live = WindowModule(train=some_windows(), batch_size=4, steps=6, seed=3)
    with pytest.raises(ConfigError, match="stored_tokens=24: the checkpoint was saved with stored_tokens=None"):
        data.load_state_dict(live.state_dict())


def test_seeds_of_different_things_differ() -> None:
    assert len({mixed(seed, epoch, number) for seed in range(4) for epoch in range(4) for number in range(4)}) == 64
