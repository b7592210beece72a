"""The doctor on data sets and recipes with one error in each, and its command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import resight
from resight.cli.app import main
from resight.datasets import Dataset, Split
from resight.diagnosis.dataset_checks import DATASET_CHECKS
from resight.diagnosis.dataset_probe import DatasetProbe
from resight.diagnosis.issues import apply_checks

# --- data sets ------------------------------------------------------------------------------


def texts(diagnosis: resight.Diagnosis) -> dict[str, str]:
    """Return the message of each severity and check."""
    return {f"{issue.severity} {issue.check}": issue.message for issue in diagnosis.issues}


def dataset_issues(dataset: Dataset) -> dict[str, str]:
    return texts(apply_checks(DatasetProbe(dataset), DATASET_CHECKS))


def with_image(split: Split, row: int, image: Tensor) -> Split:
    """Return the split with one image replaced; its label stays."""
    images = split.images.clone()
    images[row] = image
    return replace(split, images=images)


def without_bar(split: Split, *kept: int) -> Split:
    """Return the split without class 1, except for some rows of it."""
    return split.select(
        torch.cat([(split.labels != 1).nonzero().flatten(), torch.tensor(kept).long()])
    )


def test_a_data_set_without_an_issue(tiny: Dataset) -> None:
    assert dataset_issues(tiny) == {}


def test_a_test_image_that_is_a_training_image(tiny: Dataset) -> None:
    test = with_image(tiny.test, 4, tiny.train.images[7])  # of the same class
    ((check, message),) = dataset_issues(replace(tiny, test=test)).items()
    assert check == "error train-test-overlap"
    assert "1 of 31 test images" in message
    assert "test/4 is train/7" in message


def test_an_image_with_two_labels(tiny: Dataset) -> None:
    train = with_image(tiny.train, 4, tiny.train.images[6])
    message = dataset_issues(replace(tiny, train=train))["error duplicates"]
    assert "2 training images" in message
    assert "train/4 is bar and train/6 is disc" in message


def test_an_image_that_is_there_twice(tiny: Dataset) -> None:
    train = with_image(tiny.train, 4, tiny.train.images[7])
    assert list(dataset_issues(replace(tiny, train=train))) == ["warning duplicates"]


def test_classes_without_images_and_with_few(tiny: Dataset) -> None:
    untrained = replace(tiny, train=without_bar(tiny.train))
    assert list(dataset_issues(untrained)) == ["error class-counts"]
    untested = replace(tiny, test=without_bar(tiny.test))
    assert list(dataset_issues(untested)) == ["warning class-counts"]
    few = replace(tiny, train=without_bar(tiny.train, 1, 4))
    checks = {"class-counts": DATASET_CHECKS["class-counts"]}
    (issue,) = apply_checks(DatasetProbe(few), checks).issues
    assert "disc has 31 training images and bar 2" in issue.message
    assert "--set loss.class_weights=balanced" in issue.fix
    assert not apply_checks(DatasetProbe(few, balanced=True), checks).issues
    small = dataset_issues(few)["warning small-classes"]
    assert small == "1 of 3 classes have fewer than 10 training images: bar (2)"


def test_a_blank_image(tiny: Dataset) -> None:
    test = with_image(tiny.test, 3, torch.tensor(17))
    ((check, message),) = dataset_issues(replace(tiny, test=test)).items()
    assert check == "warning blank-images"
    assert "test/3" in message


def test_a_darker_test_set(tiny: Dataset) -> None:
    darker = replace(tiny.test, images=tiny.test.images // 2)
    assert list(dataset_issues(replace(tiny, test=darker))) == ["warning split-statistics"]


def test_few_images_may_be_brighter_by_chance(tiny: Dataset) -> None:
    images = torch.randint(0, 256, (200, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    noise = torch.randint(-9, 10, (200, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    pixels = (images + noise).clamp(0, 255).to(torch.uint8)  # each of one color, nearly
    labels = torch.arange(200) % 3
    order = pixels.float().mean(dim=(1, 2, 3)).argsort()

    def rows_of(rows: Tensor, prefix: str) -> Split:
        return Split(pixels[rows], labels[rows], tuple(f"{prefix}/{int(k)}" for k in rows))

    check = {"split-statistics": DATASET_CHECKS["split-statistics"]}
    train = rows_of(order[:180], "train")
    for rows, expected in ((order[120:122], 0), (order[180:], 1)):
        dataset = replace(tiny, train=train, test=rows_of(rows, "test"))
        assert len(apply_checks(DatasetProbe(dataset), check).issues) == expected


# --- recipes --------------------------------------------------------------------------------


def recipe_issues(dataset: Dataset, *settings: str) -> dict[str, str]:
    return texts(resight.doctor(recipe_with(*settings), data=dataset))


def recipe_with(*settings: str) -> resight.Recipe:
    return resight.with_overrides(resight.load_recipe("digits"), [*AUTOTUNED, *settings])


AUTOTUNED = ("training.batch_size=16", "training.micro_batch=none")


def test_a_recipe_on_few_images(tiny: Dataset) -> None:
    issues = recipe_issues(tiny, "schedule.epochs=40")
    assert set(issues) == {"warning validation-size", "warning heat-map-size"}
    assert issues["warning validation-size"].startswith("9 images are held out")


def test_a_flip_of_symmetric_images(tiny: Dataset) -> None:
    images = (tiny.train.images + tiny.train.images.flip(-1)) // 2
    symmetric = replace(tiny, train=replace(tiny.train, images=images))
    assert "error augmentation" not in recipe_issues(tiny, "augment.flip=random")
    issues = recipe_issues(symmetric, "augment.flip=random")
    assert "augment.flip changes 0 of 82 images" in issues["error augmentation"]


def test_every_augmentation_of_photos_changes_images(tiny: Dataset) -> None:
    photos = (
        *("augment.crop=none", "augment.resized_crop={}", "augment.color_jitter={}"),
        *("augment.affine={}", "augment.trivial_augment=wide", "augment.vertical_flip=random"),
        *("augment.erasing={}", "augment.mixup={}", "augment.cutmix={}"),
    )
    assert "error augmentation" not in recipe_issues(tiny, *photos)
    assert (
        "augment.mixup changes 0 of 82 images"
        in recipe_issues(tiny, "augment.mixup={alpha=0.01, prob=1e-6}")["error augmentation"]
    )


def test_a_plateau_that_cannot_lower_the_rate(tiny: Dataset) -> None:
    plateau = ("schedule.name=plateau", "schedule.patience=3")
    assert "error plateau-patience" in recipe_issues(tiny, *plateau, "schedule.epochs=5")
    assert "error plateau-patience" not in recipe_issues(tiny, *plateau, "schedule.epochs=20")


def test_few_steps_and_few_images_for_batch_norm(tiny: Dataset) -> None:
    few = recipe_with("training.batch_size=64", "schedule.epochs=3")
    (issue,) = (i for i in resight.doctor(few, data=tiny).warnings if i.check == "step-count")
    # 82 of 91 images are trained on. Batches of 16 are 6 steps an epoch, and 1,000 / 6 is 167.
    assert "64 are 2 steps an epoch, and 6 in 3 epochs" in issue.message
    assert issue.fix == "set training.batch_size=16 schedule.epochs=170"
    issues = recipe_issues(tiny, "training.micro_batch=4")
    assert "4 images at a time" in issues["warning batch-norm-images"]


def test_the_optimizer_of_a_recipe_is_checked(tiny: Dataset) -> None:
    assert "note weight-decay" not in recipe_issues(tiny)
    issues = recipe_issues(tiny, "optimizer.name=adam", "optimizer.weight_decay=0.01")
    assert "Adam adds weight decay" in issues["note weight-decay"]


def test_validation_may_be_small_if_the_last_epoch_is_selected(tiny: Dataset) -> None:
    assert "warning validation-size" not in recipe_issues(tiny, "training.select=last")


def test_a_recipe_changes_neither_images_nor_random_numbers(tiny: Dataset) -> None:
    before, state = tiny.train.images.clone(), torch.get_rng_state()
    recipe_issues(tiny)
    assert torch.equal(tiny.train.images, before)
    assert torch.equal(torch.get_rng_state(), state)


# --- the command ----------------------------------------------------------------------------


def test_the_exit_code_is_1_after_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(resight.to_toml(resight.load_recipe("digits")))
    assert main(["doctor", str(run)]) == 0
    assert "warning  finished: it stopped after 0 of " in capsys.readouterr().out
    (run / "summary.json").write_text('{"format": 3}')
    assert main(["doctor", str(run), "--json"]) == 1
    diagnosis = json.loads(capsys.readouterr().out)
    assert set(diagnosis) == {"issues", "passed", "skipped"}
    severities = [(issue["check"], issue["severity"]) for issue in diagnosis["issues"]]
    assert severities == [("finished", "error"), ("finished", "warning")]
    assert diagnosis["skipped"]["learned"] == "no epoch was finished"


def test_the_command_on_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "digits", "--quiet", "--set", "training.micro_batch=64"]) == 0
    assert (
        "passed   train-test-overlap, near-duplicates, duplicates, class-counts"
        in capsys.readouterr().out
    )
