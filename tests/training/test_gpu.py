"""What only a CUDA device can show; skipped without one."""

import pytest
import torch

import resight
from resight.events import StepDone
from resight.recipe.toml import with_overrides
from resight.training.loop import fit
from resight.training.network import init_model
from resight.training.setup import make_splits
from resight.training.state import init_state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    "settings",
    [
        [],  # swift-gpu: Muon, a whole batch
        ["training.gpu_micro_batch=64", "training.progressive.px=24", "training.ema_decay=0.9"],
        ["optimizer.name=adam", "loss.l1=1e-6", "augment.cutout.max_px=8", "model.dropout=0.1"],
    ],
)
def test_the_host_never_waits_between_the_steps_of_an_epoch(settings: list[str]) -> None:
    recipe = with_overrides(
        resight.load_recipe("swift-gpu"),
        [
            *("data.source=digits", "model.widths=[8, 16, 16]", "training.batch_size=128"),
            "training.precision=bf16",  # fp16 waits for whether gradients overflow
            *settings,
        ],
    )
    device = torch.device("cuda")
    data = make_splits(recipe, resight.data("digits"), device)
    events = fit(init_state(recipe, data, init_model(recipe, data)), recipe, data)
    assert isinstance(next(events), StepDone)  # the order of an epoch has come from the host
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            assert isinstance(next(events), StepDone)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        events.close()


def test_the_whole_path_on_a_gpu(tmp_path) -> None:
    recipe = with_overrides(resight.load_recipe("digits"), ["training.precision=bf16"])
    run = resight.train(recipe, device="cuda", out=tmp_path)
    assert run.test.accuracy.value > 0.9
    assert (run.folder / "report.html").exists()


def test_fp16_learns_what_bf16_learns(tmp_path) -> None:
    accuracies = []
    for precision in ("fp16", "bf16"):
        settings = [f"training.precision={precision}", "explain={report=false,pictures=false}"]
        recipe = with_overrides(resight.load_recipe("digits"), settings)
        run = resight.train(recipe, device="cuda", out=tmp_path, name=precision)
        accuracies.append(run.test.accuracy.value)
    assert min(accuracies) > 0.9
