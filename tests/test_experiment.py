"""From a recipe to a run folder, and what later commands make of it."""

import csv
import io
import json
import os
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from torch import nn

import resight
from processes import forkserver
from resight import files
from resight.cli.progress import ProgressLines
from resight.errors import Diverged, ResightError, UsageError
from resight.events import EpochDone, Event, Message, StepDone
from resight.recipe import Constant
from resight.recipe.toml import from_toml, with_overrides
from resight.records import EpochRow
from resight.runs.checkpoint import load_checkpoint
from tiny_runs import tiny_recipe


def test_the_run_folder_holds_what_it_should(
    trained_run: resight.Run, tiny: resight.Dataset, tmp_path: Path
) -> None:
    files = {
        "recipe.toml",
        "env.json",
        "metrics.jsonl",
        "metrics.csv",
        "steps.npz",
        "log.txt",
        "summary.json",
        "last.pt",
        "previous.pt",
        "best.safetensors",
        "confidence.npz",
        "trained_images.npz",
        "predictions.npz",
        "predictions.csv",
        "confusion_matrix.csv",
        "README.md",
    }
    pictures = {
        "curves.png",
        "rates.png",
        "confusion_matrix.png",
        "reliability.png",
        "per_class.png",
        "misclassified.png",
        "correct.png",
    }
    drawn = resight.train(tiny_recipe("explain.pictures=true"), data=tiny, out=tmp_path)
    for run, names in ((trained_run, files), (drawn, files | pictures)):
        assert {path.name for path in run.folder.iterdir() if path.name != ".lock"} == names
        assert (" curves.png " in str(run)) == ("curves.png" in names)
    for picture in drawn.folder.glob("*.png"):
        with Image.open(picture) as image:
            image.load()


def test_the_recipe_in_the_folder_is_the_one_that_ran(trained_run: resight.Run) -> None:
    recipe = from_toml((trained_run.folder / "recipe.toml").read_text())
    assert recipe == trained_run.recipe
    assert recipe.data.source == "tiny"


def test_metrics_say_the_same_in_both_forms(trained_run: resight.Run) -> None:
    text = (trained_run.folder / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    with open(trained_run.folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: str(v) for k, v in line.items()} for line in lines] == rows
    assert [line["epoch"] for line in lines] == [1, 2]
    history = trained_run.history
    assert len(history.lrs) == len(history.losses) == history.epochs[-1].step


def test_predictions_are_of_the_whole_test_set_with_the_best_weights(
    trained_copy: Path, tiny: resight.Dataset
) -> None:
    run = resight.Run.open(trained_copy)
    with open(run.folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(tiny.test.ids)
    assert [row["truth"] for row in rows] == [tiny.classes[k] for k in tiny.test.labels]
    correct = sum(row["truth"] == row["prediction"] for row in rows)
    assert run.test.accuracy.value == correct / len(rows)
    result = resight.evaluate(run, data=tiny)
    assert result.test == run.test
    assert run.predictions is not None
    np.testing.assert_array_equal(result.predictions.logits, run.predictions.logits)


def test_an_opened_run_gives_its_network(trained_run: resight.Run, tiny: resight.Dataset) -> None:
    model = resight.Run.open(trained_run.folder).model()
    assert not model.training
    with safe_open(trained_run.folder / "best.safetensors", "pt") as file:
        for name, value in model.state_dict().items():
            assert torch.equal(value, file.get_tensor(name))


def test_the_best_weights_carry_what_they_need(
    trained_run: resight.Run, tiny: resight.Dataset
) -> None:
    assert trained_run.summary is not None
    with safe_open(trained_run.folder / "best.safetensors", "pt") as file:
        head = json.loads(file.metadata()["resight"])
    assert head["classes"] == list(tiny.classes)
    assert head["epoch"] == trained_run.summary.best_epoch
    assert from_toml(head["recipe"]) == trained_run.recipe


def weights(run: resight.Run) -> bytes:
    return (run.folder / "best.safetensors").read_bytes()


def test_the_test_set_has_no_part_in_training(
    tmp_path: Path, trained_run: resight.Run, tiny: resight.Dataset
) -> None:
    """Another test set changes nothing but the result on it."""
    other = resight.Dataset("tiny", tiny.classes, tiny.train, tiny.test.select(torch.arange(9)))
    run = resight.train(tiny_recipe(), data=other, out=tmp_path, name="a")
    assert weights(run) == weights(trained_run)
    assert run.test.images == 9


def test_a_seed_decides_everything(
    tmp_path: Path, trained_run: resight.Run, tiny: resight.Dataset
) -> None:
    def on_event(event: object) -> None:
        torch.rand(3)  # a listener changes nothing
        np.random.default_rng().random()

    torch.manual_seed(2)
    settings = {"data": tiny, "out": tmp_path, "on_event": on_event}
    same = resight.train(tiny_recipe("seed=0"), name="same", **settings)
    other = resight.train(tiny_recipe("seed=4"), name="other", **settings)
    assert weights(same) == weights(trained_run) != weights(other)


def test_issues_are_told_before_the_first_step(tmp_path: Path, tiny: resight.Dataset) -> None:
    events: list[object] = []
    recipe = tiny_recipe()
    run = resight.train(recipe, data=tiny, out=tmp_path, on_event=events.append)
    first = next(i for i, event in enumerate(events) if isinstance(event, StepDone))
    issues = [e for e in events[:first] if isinstance(e, Message) and e.severity != "note"]
    assert [(issue.severity, issue.text) for issue in issues] == [
        (
            "warning",
            "warning validation-size: 9 images are held out, so an accuracy of 90 % is uncertain "
            "by 21 points: the best epoch is mostly luck; set data.val_fraction=0.2, which "
            "holds out 18, or take the last epoch of a cycle: data.val_fraction=none "
            "training.select=last",
        ),
        (
            "warning",
            "warning step-count: 82 images in batches of 32 are 3 steps an epoch, and 6 in 2 "
            "epochs: too few to learn; set training.batch_size=16 schedule.epochs=170",
        ),
    ]
    assert run.test.images == 31  # it trained all the same
    assert [e.val_images for e in events if isinstance(e, EpochDone)] == [9, 9]
    assert run.summary is not None
    assert run.summary.kept.endswith("by val_accuracy (9 images: too few to tell epochs apart)")
    assert run.summary.kept in str(run)
    assert run.summary.kept in (run.folder / "README.md").read_text()


def test_a_star_marks_an_epoch_only_if_validation_can_tell() -> None:
    row = EpochRow(
        epoch=1,
        step=1,
        lr=0.1,
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=1.0,
        val_accuracy=0.8,
        train_secs=1.0,
        images_per_sec=1.0,
    )
    for images, best, star in ((59, True, False), (60, True, True), (60, False, False)):
        output = io.StringIO()
        ProgressLines(Console(file=output), None)(EpochDone(row, best, images))
        assert output.getvalue().endswith(" *\n") is star


def test_an_existing_folder_is_refused_unless_forced(
    trained_copy: Path, tiny: resight.Dataset
) -> None:
    settings = {"data": tiny, "out": trained_copy.parent, "name": trained_copy.name}
    before = (trained_copy / "summary.json").read_text()
    with pytest.raises(UsageError, match="exists already; choose another --name"):
        resight.train(tiny_recipe(), **settings)
    assert (trained_copy / "summary.json").read_text() == before
    again = resight.train(tiny_recipe("seed=9"), **settings, force=True)
    assert again.recipe.seed == 9


def test_force_does_not_replace_what_is_no_run(tmp_path: Path, tiny: resight.Dataset) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(UsageError, match="is not a run folder, so --force will not replace it"):
        resight.train(tiny_recipe(), data=tiny, out=tmp_path, name="photos", force=True)
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"precious"


def test_an_unwritable_place_is_refused(tmp_path: Path, tiny: resight.Dataset) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot make the run folder .* choose another --out"):
        resight.train(tiny_recipe(), data=tiny, out=tmp_path / "file", name="a")


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path, tiny: resight.Dataset) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
            self.calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            logits: torch.Tensor = self.inner(images)
            return logits * (float("nan") if self.calls == 5 else 1.0)

    with pytest.raises(Diverged, match=r"became nan at step 5 \(epoch 2\) .* before it is kept"):
        resight.train(
            tiny_recipe("optimizer.lr=0.001"), data=tiny, model=Breaks(), out=tmp_path, name="a"
        )
    saved = torch.load(tmp_path / "a" / "last.pt", weights_only=True)
    assert len(saved["state"]["rows"]) == 1
    assert all(value.isfinite().all() for value in saved["state"]["model"].values())


def train_on_full_disk(data: resight.Dataset, out: Path, told: Connection) -> None:
    """Train in a process of its own whose disk is full in the second epoch."""
    import resource

    def fill(event: Event) -> None:
        if isinstance(event, StepDone) and event.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    try:
        recipe = tiny_recipe("schedule.epochs=3")
        resight.train(recipe, data=data, out=out, name="a", on_event=fill)
    except ResightError as error:
        told.send(str(error))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, tiny: resight.Dataset) -> None:
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    processes = forkserver()
    answer, told = processes.Pipe(duplex=False)
    process = processes.Process(target=train_on_full_disk, args=(tiny, tmp_path, told))
    process.start()
    told.close()  # so that a process that ends without a word is an error here
    problem = answer.recv()
    process.join()
    assert "cannot write" in problem
    assert "File too large" in problem
    assert "\n" not in problem
    assert not list((tmp_path / "a").glob(".*.part*"))
    assert len(resight.resume(tmp_path / "a", data=tiny).history.epochs) == 3


def test_your_own_module(tmp_path: Path, tiny: resight.Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    run = resight.train(
        tiny_recipe("optimizer.lr=0.001"), data=tiny, model=model, out=tmp_path, name="mine"
    )
    assert run.recipe.model.name == "custom"
    assert "Sequential" in run.recipe.model.target
    assert run.predictions is not None
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    result = resight.evaluate(run.folder, data=tiny, model=untrained)
    np.testing.assert_array_equal(result.predictions.logits, run.predictions.logits)
    with pytest.raises(UsageError, match="pass"):
        resight.evaluate(run.folder, data=tiny)


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path, tiny: resight.Dataset) -> None:
    recipe = tiny_recipe("data.val_fraction=none", "training.select=last")
    run = resight.train(recipe, data=tiny, out=tmp_path, name="all")
    assert run.summary is not None
    assert run.summary.data.train == len(tiny.train)
    assert run.summary.validation is None
    assert run.summary.best_epoch == 2


def test_your_own_pictures(trained_run: resight.Run, tiny: resight.Dataset, tmp_path: Path) -> None:
    """A picture from the test set, saved as a file, is seen as it was in the test set."""
    assert trained_run.predictions is not None
    Image.fromarray(tiny.test.images[4].permute(1, 2, 0).numpy()).save(tmp_path / "four.png")
    (prediction,) = resight.predict(trained_run, [tmp_path / "four.png"])
    assert prediction.id.endswith("four.png")
    probs = dict(zip(tiny.classes, trained_run.predictions.probs[4], strict=True))
    ranking = dict(prediction.ranking)
    assert ranking == pytest.approx(probs, abs=1e-6)
    assert list(ranking.values()) == sorted(ranking.values(), reverse=True)


def test_other_classes_are_refused(trained_run: resight.Run) -> None:
    with pytest.raises(UsageError, match=r"digits has images of 0, 1, .*, which the run was not"):
        resight.evaluate(trained_run, data="digits")


def test_a_damaged_model_file_is_named(tmp_path: Path, trained_run: resight.Run) -> None:
    for name in ("recipe.toml", "best.safetensors"):
        (tmp_path / name).write_bytes((trained_run.folder / name).read_bytes()[:200])
    with pytest.raises(ResightError, match=r"best\.safetensors is damaged"):
        resight.predict(tmp_path, ["x.png"])


def test_metrics_that_cannot_be_written_are_a_note_and_written_later(
    tmp_path: Path, tiny: resight.Dataset
) -> None:
    notes = []

    def on_event(event: object) -> None:
        if isinstance(event, EpochDone) and event.row.epoch == 1:
            (tmp_path / "run" / "metrics.csv" / "in the way").mkdir(parents=True)
        if isinstance(event, Message):
            notes.append(event.text)
            shutil.rmtree(tmp_path / "run" / "metrics.csv", ignore_errors=True)

    run = resight.train(tiny_recipe(), data=tiny, out=tmp_path, name="run", on_event=on_event)
    assert any("cannot write" in note and "metrics.csv" in note for note in notes)
    assert len((run.folder / "metrics.csv").read_text().splitlines()) == 3


def test_on_windows_a_file_that_is_open_elsewhere_is_moved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [PermissionError(), PermissionError()]
    replace = os.replace

    def busy(source: Path, target: Path) -> None:
        if refusals:
            raise refusals.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    (tmp_path / "a").write_text("a")
    with pytest.raises(PermissionError):  # elsewhere it means what it says
        files.move(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(files, "WINDOWS", True)
    files.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"
    assert not refusals


@pytest.mark.parametrize(
    ("name", "problem"),
    [("tpu", "is unknown; choose"), ("cuda:99", "has no device"), ("cpu:x", "is unknown")],
)
def test_devices_that_do_not_exist(name: str, problem: str, tiny: resight.Dataset) -> None:
    with pytest.raises(UsageError, match=problem):
        resight.train(tiny_recipe(), data=tiny, device=name)


def test_auto_is_the_device_that_the_environment_names(
    tiny: resight.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIGHT_DEVICE", "cuda:99")
    with pytest.raises(UsageError, match=r"^RESIGHT_DEVICE: .* no device cuda:99"):
        resight.train(tiny_recipe(), data=tiny)


def test_the_environment_and_the_model_card(trained_run: resight.Run) -> None:
    env = json.loads((trained_run.folder / "env.json").read_text())
    assert env["torch"] == torch.__version__
    assert env["threads"] == torch.get_num_threads()
    card = (trained_run.folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pytorch\n")
    assert f"{trained_run.test.accuracy.value:.2%}" in card


def test_training_leaves_the_global_generator_alone(tmp_path: Path, tiny: resight.Dataset) -> None:
    before = torch.get_rng_state()
    resight.train(tiny_recipe("model.dropout=0.5"), data=tiny, out=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_data_that_has_changed_is_not_tested_as_the_run_s_own(
    trained_copy: Path, tiny: resight.Dataset, tmp_path: Path
) -> None:
    """Held-out images are drawn anew from changed data, so they may have been trained on."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(40) % 4)
    run = resight.train(tiny_recipe(), data=tmp_path / "set.npz", out=tmp_path, name="a")
    np.savez(tmp_path / "set.npz", images=images[:36], labels=np.arange(36) % 4)
    with pytest.raises(UsageError, match="has changed since the run was trained"):
        resight.evaluate(run)
    with pytest.raises(UsageError, match="go on by --changed-data"):
        resight.evaluate(run, data=tmp_path / "set.npz")
    result = resight.evaluate(run, changed_data=True)
    assert result.test.images > 0
    assert "the accuracy may be too high" in result.scored


def test_a_path_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run can be resumed from another folder."""
    images = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(40) % 4)
    monkeypatch.chdir(tmp_path)
    run = resight.train(tiny_recipe(), data="set.npz", out=tmp_path, name="a")
    assert run.recipe.data.source == str(tmp_path / "set.npz")
    assert isinstance(run.recipe.schedule, Constant)


def test_runs_without_a_name_that_begin_in_one_second_have_folders_of_their_own(
    tmp_path: Path, tiny: resight.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins after the other, one beside it, and one with --force: none is replaced."""
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-120000")
    inner: list[resight.Run] = []

    def beside(event: object) -> None:
        if not inner:
            inner.append(resight.train(tiny_recipe("seed=1"), data=tiny, out=tmp_path))

    first = resight.train(tiny_recipe(), data=tiny, out=tmp_path, on_event=beside)
    last = resight.train(tiny_recipe("seed=2"), data=tiny, out=tmp_path, force=True)
    names = [run.folder.name for run in (*inner, first, last)]
    prefix = f"20260101-120000-{tiny_recipe().name}"
    assert sorted(names) == [prefix, f"{prefix}-2", f"{prefix}-3"]
    assert [run.recipe.seed for run in (*inner, first, last)] == [1, 0, 2]


@pytest.mark.slow
def test_the_demo_reaches_its_accuracy(tmp_path: Path) -> None:
    run = resight.demo(out=tmp_path)
    assert run.test.accuracy.value >= 0.98


def test_two_runs_of_one_name_do_not_destroy_each_other(
    tmp_path: Path, tiny: resight.Dataset
) -> None:
    """The second was allowed to begin, as the name was free then; the first was quicker."""

    def overtake(event: object) -> None:
        if not (tmp_path / "a").exists():
            resight.train(tiny_recipe("seed=1"), data=tiny, out=tmp_path, name="a")

    with pytest.raises(UsageError, match="exists already"):
        resight.train(tiny_recipe("seed=2"), data=tiny, out=tmp_path, name="a", on_event=overtake)
    assert from_toml((tmp_path / "a" / "recipe.toml").read_text()).seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_trained_in_by_one_process_at_a_time(
    tmp_path: Path, tiny: resight.Dataset
) -> None:
    def meddle(event: object) -> None:
        if isinstance(event, StepDone):
            with pytest.raises(UsageError, match="another process is training in"):
                resight.resume(tmp_path / "a", data=tiny)

    resight.train(tiny_recipe(), data=tiny, out=tmp_path, name="a", on_event=meddle)


def test_the_recipe_that_runs_is_the_one_that_is_saved(
    tmp_path: Path, tiny: resight.Dataset
) -> None:
    """Whoever edits recipe.toml meanwhile is told so by resume."""

    def edit(event: object) -> None:
        file = tmp_path / "a" / "recipe.toml"
        if isinstance(event, StepDone):
            file.write_text(file.read_text().replace("seed = 0", "seed = 5"))

    resight.train(tiny_recipe(), data=tiny, out=tmp_path, name="a", on_event=edit)
    saved = torch.load(tmp_path / "a" / "last.pt", weights_only=True)
    assert from_toml(saved["recipe"]).seed == 0
    with pytest.raises(UsageError, match=r"changed since the run began \(seed\)"):
        resight.resume(tmp_path / "a", data=tiny)


def same(a: object, b: object) -> bool:
    """Equal all the way down, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return (
            isinstance(b, dict) and list(a) == list(b) and all(same(v, b[k]) for k, v in a.items())
        )
    return repr(a) == repr(b)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(trained_copy: Path) -> None:
    whole, problems = load_checkpoint(trained_copy)
    assert not problems
    file = trained_copy / "last.pt"
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        at = int(rng.integers(len(content)))
        flipped = bytes([content[at] ^ 1 << int(rng.integers(8))])
        file.write_bytes(content[:at] + flipped + content[at + 1 :])
        checkpoint, problems = load_checkpoint(trained_copy)
        # Either passed over for previous.pt, or the flip hit nothing that is read.
        assert problems or same(checkpoint["state"], whole["state"])


def test_file_names_that_are_not_text_are_kept_apart(tmp_path: Path, tiny: resight.Dataset) -> None:
    ids = tuple(os.fsdecode(b"caf\xe9-%d.png" % i) for i in range(len(tiny.test)))
    test = resight.Split(tiny.test.images, tiny.test.labels, ids)
    data = resight.Dataset("odd", tiny.classes, tiny.train, test)
    run = resight.train(tiny_recipe(), data=data, out=tmp_path, name="a")
    assert r"caf\udce9-0.png" in (run.folder / "predictions.csv").read_text()


def test_your_own_data_is_checked(tiny: resight.Dataset) -> None:
    images, labels, ids = tiny.train.images, tiny.train.labels, tiny.train.ids
    with pytest.raises(UsageError, match=r"images are torch\.float32"):
        resight.Split(images.float(), labels, ids)
    with pytest.raises(UsageError, match="91 images have 90 labels"):
        resight.Split(images, labels[1:], ids)
    with pytest.raises(UsageError, match="label 2 of x is none of its 2 classes"):
        resight.Dataset("x", ("a", "b"), tiny.train, tiny.test)
    named = resight.Dataset("x", tiny.classes, tiny.train, tiny.test)
    assert len(named.fingerprint) == 64


@pytest.mark.parametrize("name", ["resnet18", "swift"])
def test_a_small_batch_needs_no_other_setting(name: str) -> None:
    recipe = with_overrides(resight.load_recipe(name), ["training.batch_size=32"])
    assert recipe.training.micro_batch is not None
    assert with_overrides(recipe, ["schedule.name=multistep"]).schedule.name == "multistep"
