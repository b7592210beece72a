"""`auto` in `[training]`: settled once, written down, and nothing else touched."""

import pytest
import torch
from torch import nn

import resight
from resight.errors import UsageError
from resight.recipe.toml import with_overrides
from resight.training import autotune
from resight.training.loop import fit
from resight.training.network import init_model
from resight.training.setup import make_splits
from resight.training.state import TrainData, TrainState, init_state

CPU = torch.device("cpu")


def setup(*settings: str) -> tuple[resight.Recipe, TrainState, TrainData]:
    recipe = with_overrides(resight.load_recipe("digits"), ["training.micro_batch=auto", *settings])
    data = make_splits(recipe, resight.data("digits"), CPU)
    return recipe, init_state(recipe, data, init_model(recipe, data)), data


class SlowerAbove(nn.Module):
    """A clock instead of work: images cost the same each, those beyond `limit` more."""

    def __init__(self, clock: list[float], limit: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))
        self.clock, self.limit = clock, limit
        self.sizes: list[int] = []

    def __deepcopy__(self, memo: object) -> "SlowerAbove":
        return self  # so that the test can read the counts of the copy

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n = len(images)
        self.sizes.append(n)
        self.clock[0] += 5 + n + 9 * max(0, n - self.limit)
        return self.weight.expand(n, 10)


@pytest.mark.parametrize(
    ("batch", "limit", "chosen", "sizes"),
    [
        (128, 32, 32, {32, 64, 128}),
        (128, 64, 64, {32, 64, 128}),
        (128, 999, None, {32, 64, 128}),  # the whole batch
        (512, 128, 128, {32, 64, 128, 256}),
        (512, 999, 256, {32, 64, 128, 256}),  # larger batches are not tried
        (32, 8, None, set()),  # small enough to need no probe
    ],
)
def test_the_fastest_size_is_taken(
    batch: int,
    limit: int,
    chosen: int | None,
    sizes: set[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, state, data = setup(f"training.batch_size={batch}")
    clock = [0.0]
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(autotune, "BUDGET_SECS", float("inf"))
    state.model = model = SlowerAbove(clock, limit)
    resolved, (line,) = autotune.resolve_auto(recipe, state, data)
    assert resolved.training.micro_batch == chosen
    assert f"training.micro_batch = {chosen or 'none'}" in line
    assert set(model.sizes) == sizes


@pytest.mark.parametrize(("has", "chosen"), [(True, "bf16"), (False, "float32")])
def test_bf16_is_taken_where_the_processor_has_it(
    has: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, state, data = setup("training.precision=auto", "training.micro_batch=none")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    resolved, lines = autotune.resolve_auto(recipe, state, data)
    assert resolved.training.precision == chosen
    assert lines == [f"training.precision = {chosen}"]


@pytest.mark.parametrize(
    ("machine", "has", "num_lines"), [("x86_64", True, 0), ("AMD64", False, 1), ("arm64", False, 0)]
)
def test_bf16_that_has_to_be_emulated_is_kept_with_a_warning(
    machine: str, has: bool, num_lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune.platform, "machine", lambda: machine)
    recipe, state, data = setup("training.precision=bf16", "training.micro_batch=none")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    resolved, lines = autotune.resolve_auto(recipe, state, data)
    assert resolved.training.precision == "bf16"
    assert len(lines) == num_lines
    assert all("several times as long as in float32" in line for line in lines)


def test_both_are_settled_at_once() -> None:
    recipe, state, data = setup("training.precision=auto")
    resolved, lines = autotune.resolve_auto(recipe, state, data)
    assert resolved.training.precision in ("float32", "bf16")
    assert resolved.training.micro_batch != "auto"
    assert len(lines) == 2


@pytest.mark.parametrize("setting", ["precision", "micro_batch"])
def test_the_loop_refuses_an_auto(setting: str) -> None:
    recipe, state, data = setup("training.micro_batch=none", f"training.{setting}=auto")
    with pytest.raises(UsageError, match="resolve it first"):
        next(fit(state, recipe, data))


def test_a_slow_network_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, state, data = setup()
    clock = [0.0]
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: clock[0])
    state.model = model = SlowerAbove(clock, 999)
    autotune.resolve_auto(recipe, state, data)
    assert model.sizes == [32, 64, 128] * 2  # once to warm up, once to measure


def test_a_gpu_takes_whole_batches_unless_told_otherwise() -> None:
    training = resight.load_recipe("resnet18").training
    assert (training.parts(128, "cpu"), training.parts(128, "cuda")) == (2, 1)
    small = training.model_copy(update={"gpu_micro_batch": 50})
    assert (small.parts(128, "cpu"), small.parts(128, "cuda"), small.parts(128, "mps")) == (2, 3, 3)


def test_numbers_and_none_are_left_alone() -> None:
    recipe, state, data = setup()
    for value in ("none", "48"):
        given = with_overrides(recipe, [f"training.micro_batch={value}"])
        assert autotune.resolve_auto(given, state, data) == (given, [])


def test_the_state_is_left_as_it_was() -> None:
    recipe, state, data = setup("model.dropout=0.5")
    weights = {name: value.clone() for name, value in state.model.state_dict().items()}
    random = torch.get_rng_state()
    autotune.resolve_auto(recipe, state, data)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in state.model.parameters())


@pytest.mark.slow
def test_a_run_records_the_size_and_equals_one_that_was_given_it(tmp_path) -> None:
    settings = ["explain={report=false,pictures=false}"]
    recipe = with_overrides(resight.with_epochs(resight.load_recipe("digits"), 1), settings)
    notes: list[str] = []
    auto = resight.train(
        with_overrides(recipe, ["training.micro_batch=auto"]),
        out=tmp_path,
        on_event=lambda event: notes.append(getattr(event, "text", "")),
    )
    number = auto.recipe.training.micro_batch
    assert number != "auto"
    assert f"micro_batch = {number or chr(34) + 'none' + chr(34)}" in (
        auto.folder / "recipe.toml"
    ).read_text(encoding="utf-8")
    assert any("images/s with 32" in note for note in notes)
    given = resight.train(
        with_overrides(recipe, [f"training.micro_batch={number or 'none'}"]), out=tmp_path
    )
    assert given.history.losses.tolist() == auto.history.losses.tolist()
