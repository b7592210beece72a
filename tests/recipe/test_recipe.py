"""Recipes: round trips, overrides, precedence, and errors that name their place."""

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from resight.errors import UsageError
from resight.recipe import (
    SGD,
    AdamW,
    Affine,
    Augment,
    ColorJitter,
    Constant,
    Cosine,
    Crop,
    CutMix,
    Cutout,
    Data,
    Erasing,
    Loss,
    MixUp,
    MultiStep,
    OneCycle,
    Plateau,
    Recipe,
    ResizedCrop,
    ResNet,
    Rotate,
    Swift,
    Training,
    Triangular,
    power_of,
)
from resight.recipe.presets import PRESETS, get_preset, load_recipe
from resight.recipe.toml import (
    differences,
    from_toml,
    to_toml,
    unflatten,
    with_changes,
    with_epochs,
    with_overrides,
)

rates = st.floats(1e-9, 1e3)
fractions = st.floats(0.001, 0.999)
recipes = st.builds(
    Recipe,
    name=st.text(max_size=20),
    seed=st.integers(0, 2**32 - 1),
    data=st.builds(
        Data,
        source=st.text(max_size=20),
        image_size=st.none() | st.integers(8, 512),
        resize=st.sampled_from(["crop", "stretch", "pad"]),
    ),
    augment=st.builds(
        Augment,
        resized_crop=st.just(ResizedCrop(max_scale=0.9)),
        color_jitter=st.none() | st.builds(ColorJitter, hue=st.floats(0, 0.5)),
        affine=st.none() | st.builds(Affine, translate=st.floats(0, 0.5)),
        trivial_augment=st.sampled_from([None, "wide"]),
        vertical_flip=st.sampled_from([None, "random"]),
        erasing=st.none() | st.builds(Erasing, fill=st.sampled_from(["mean", "random"])),
        mixup=st.none() | st.builds(MixUp, alpha=st.floats(0.01, 100)),
        cutmix=st.none() | st.builds(CutMix, prob=fractions),
    )
    | st.builds(
        Augment,
        crop=st.none() | st.builds(Crop, pad=st.integers(1, 9)),
        rotate=st.none() | st.builds(Rotate, limit_deg=st.floats(0.1, 180)),
        flip=st.sampled_from([None, "random", "alternating"]),
        cutout=st.none() | st.builds(Cutout, min_px=st.just(2), max_px=st.integers(2, 16)),
    ),
    model=st.builds(ResNet, norm=st.sampled_from(["batch", "layer"]), dropout=fractions)
    | st.builds(Swift, widths=st.just((8, 16, 32))),
    optimizer=st.builds(SGD, lr=rates, weight_decay=rates) | st.builds(AdamW, lr=rates),
    schedule=st.builds(OneCycle, epochs=st.integers(6, 99), peak_epoch=st.floats(0.1, 5))
    | st.builds(Triangular, half_cycle_epochs=rates)
    | st.builds(Plateau, patience=st.integers(0, 9))
    | st.builds(MultiStep, milestones=st.just((0.1, 3.0)))
    | st.builds(Cosine, warmup_epochs=fractions)
    | st.builds(Constant),
    loss=st.builds(
        Loss,
        l1=st.none() | rates,
        class_weights=st.sampled_from([None, "balanced"]) | fractions,
        focal_gamma=st.none() | rates,
    ),
    training=st.builds(Training, micro_batch=st.none() | st.just("auto") | st.integers(1, 64)),
)


@given(recipes)
def test_toml_gives_back_the_same_recipe(recipe: Recipe) -> None:
    assert from_toml(to_toml(recipe)) == recipe


@given(recipes, recipes)
def test_a_complete_recipe_replaces_every_setting_of_its_base(a: Recipe, b: Recipe) -> None:
    assert from_toml(to_toml(a), base=b) == a


@pytest.mark.parametrize("name", PRESETS)
def test_named_recipes_state_only_the_difference(name: str) -> None:
    recipe = get_preset(name)
    assert recipe.name == name
    assert from_toml(to_toml(recipe)) == recipe
    entry = PRESETS[name]
    below = get_preset(entry.base) if entry.base else Recipe()
    for path, (_, why) in entry.changes.items():
        assert why
        others = unflatten((p, value) for p, (value, _) in entry.changes.items() if p != path)
        try:
            without = with_changes(below, {**others, "name": name}, origin="test")
        except UsageError:  # the other changes are not valid without this one
            continue
        assert without != recipe or (name, path) == ("resnet18", "model.name"), path


def test_recipes_are_frozen_and_hashable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().seed = 3  # type: ignore[misc]
    assert hash(Recipe()) == hash(Recipe())


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("schedule.epochs=40", "schedule.epochs", 40),
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("data.source=cifar10", "data.source", "cifar10"),
        ('data.source="with = and . inside"', "data.source", "with = and . inside"),
        ("data.source=/a/b=c", "data.source", "/a/b=c"),
        ("model.dropout=0.15", "model.dropout", 0.15),
        ("augment.flip=none", "augment.flip", None),
        ("augment.cutout.max_px=16", "augment.cutout.max_px", 16),
        (" seed = 7 ", "seed", 7),
    ],
)
def test_overrides(assignment: str, path: str, value: object) -> None:
    setting: Any = with_overrides(get_preset("base"), [assignment])
    for key in path.split("."):
        setting = getattr(setting, key)
    assert setting == value


def test_the_last_override_of_a_path_wins_and_others_add_up() -> None:
    recipe = with_overrides(
        Recipe(), ["seed=1", "augment.cutout.min_px=2", "augment.cutout.max_px=4", "seed=2"]
    )
    assert recipe.seed == 2
    assert recipe.augment.cutout == Cutout(min_px=2, max_px=4)


def test_another_kind_of_schedule_keeps_what_both_have() -> None:
    recipe = with_overrides(Recipe(schedule=OneCycle(epochs=33)), ["schedule.name=plateau"])
    assert recipe.schedule == Plateau(epochs=33)


def test_another_optimizer_starts_afresh() -> None:
    recipe = with_overrides(
        Recipe(optimizer=SGD(lr=0.4, weight_decay=0.003)), ["optimizer.name=adamw"]
    )
    assert recipe.optimizer == AdamW()


def test_the_same_kind_named_again_keeps_everything() -> None:
    recipe = Recipe(model=ResNet(name="resnet18", norm="layer", dropout=0.2))
    assert with_overrides(recipe, ["model.name=resnet34"]).model == ResNet(
        name="resnet34", norm="layer", dropout=0.2
    )


def test_precedence_file_over_base_and_override_over_file(tmp_path: Any) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "swift"\nseed = 5\n[schedule]\nepochs = 6\n')
    recipe = load_recipe(str(file))
    assert recipe.name == "mine"
    assert recipe.optimizer == get_preset("swift").optimizer
    assert (recipe.seed, recipe.schedule.epochs) == (5, 6)
    assert with_overrides(recipe, ["seed=6"]).seed == 6


def test_with_epochs_keeps_the_shape() -> None:
    recipe = with_epochs(Recipe(schedule=OneCycle(epochs=20, peak_epoch=5.0)), 4)
    assert recipe.schedule == OneCycle(epochs=4, peak_epoch=1.0)
    recipe = with_epochs(Recipe(schedule=OneCycle(epochs=10, peak_epoch=2.3)), 4)
    assert recipe.schedule == OneCycle(epochs=4, peak_epoch=0.92)  # not 0.9199999999999999
    recipe = with_epochs(Recipe(schedule=MultiStep(epochs=20, milestones=(10.0, 15.0))), 40)
    assert recipe.schedule == MultiStep(epochs=40, milestones=(20.0, 30.0))


def test_differences_names_both_values() -> None:
    assert differences(Recipe(seed=3), Recipe()) == {"seed": (0, 3)}


ERRORS = [
    ("optimizer.name=adamm", 'choose one of sgd, adam, adamw, rmsprop, muon; did you mean "adam"?'),
    ("optimizer.lrr=1", 'unknown key optimizer.lrr; did you mean "lr"?'),
    ("optimizer.lr=-1", "optimizer.lr = -1: must be a number > 0"),
    ("optimizer.lr=abc", 'optimizer.lr = "abc": must be a number > 0'),
    ("optimizer.lr=nan", "optimizer.lr = nan: must be a number > 0"),
    ("optimizer.lr=true", "optimizer.lr = true: must be a number > 0"),
    ("optimizer=adam", "did you mean optimizer.name=adam?"),
    (
        "optimizer.beta1=0.5",
        "setting of optimizer.name = adam or adamw, not of this optimizer",
    ),
    ("augment.cutout.max_px=4", "augment.cutout: min_px = 8 is greater than max_px = 4"),
    (
        "augment.cutout=3",
        'must be a table of count, min_px, max_px, prob, fill, or "none" for off; '
        "set augment.cutout.count and so on, or augment.cutout={} for the defaults",
    ),
    ("data=cifar10", "set data.source and so on"),
    ("augment.trivial_augment=true", 'must be "wide", or "none" for off'),
    ("augment.erasing.min_area=0.5", "min_area = 0.5 is greater than max_area = 0.33"),
    ("augment.affine.min_scale=1.2", "min_scale = 1.2 is greater than max_scale = 1.1"),
    ("augment.resized_crop.max_ratio=0.5", "min_ratio = 0.75 is greater than max_ratio = 0.5"),
    ("augment.mixup.alpha=0", "augment.mixup.alpha = 0: must be a number >= 0.01 and <= 100"),
    (
        "augment.affine={translate=0, shear_deg=0, min_scale=1, max_scale=1}",
        'augment.affine: no limit leaves anything to change; write "none" for off',
    ),
    (
        "augment.color_jitter={brightness=0, contrast=0, saturation=0, hue=0}",
        'augment.color_jitter: all limits are 0, which changes nothing; write "none" for off',
    ),
    ("augment.hsv.prob=0", "augment.hsv.prob = 0: must be a number > 0 and <= 1"),
    ("augment.flip=rndom", 'one of random, alternating, or "none" for off; did you mean "random"?'),
    ("schedul.epochs=3", 'unknown key schedul; did you mean "schedule"?'),
    ("schedule.epochs=2.5", "schedule.epochs = 2.5: must be a whole number >= 1 and <= 10000"),
    ("schedule.peak_epoch=20", "peak_epoch = 20 must come before epochs = 20"),
    ("schedule.momentum_low=0.8", "give both momentum_low and momentum_high, or neither"),
    ("training.micro_batch=0", 'must be a whole number >= 1 or "auto", or "none" for off'),
    ("data.val_fraction=none", "set training.select=last"),
    (
        "loss.class_weights=yes",
        'loss.class_weights = "yes": must be "balanced" or a number > 0 and <= 1, or "none"',
    ),
    ("data.balance=1.5", 'data.balance = 1.5: must be "balanced" or a number > 0 and <= 1'),
    ("loss.focal_gamma=0", 'loss.focal_gamma = 0: must be a number > 0, or "none" for off'),
    ("data.val_fraction=0.9", 'must be a number > 0 and <= 0.5, or "none" for off'),
    ("model.last_stage_stride=3", "must be one of 1, 2"),
    ("data.source=/a/da\udcffta", r"source = '/a/da\udcffta' is not UTF-8, which a recipe is"),
    ("name=b\udcff", r"name = 'b\udcff' is not UTF-8"),
    ("seed=-1", "seed = -1: must be a whole number >= 0 and < 4294967296"),
    ("seed", 'override "seed" is not of the form path=value'),
    ("=3", 'override "=3" is not of the form path=value'),
]


@pytest.mark.parametrize(("assignment", "line"), ERRORS, ids=[case[0] for case in ERRORS])
def test_errors_are_one_line_that_says_where_and_what_is_valid(assignment: str, line: str) -> None:
    with pytest.raises(UsageError) as error:
        with_overrides(Recipe(), [assignment])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(string.ascii_letters + "._=[]{}\"'1-", max_size=30))
def test_no_override_raises_anything_else(assignment: str) -> None:
    try:
        outcome = repr(with_overrides(Recipe(), [assignment]))
    except UsageError as error:
        outcome = str(error)
    assert "\n" not in outcome


def test_swift_may_not_narrow() -> None:
    with pytest.raises(UsageError, match="must be at least 8 and never decrease"):
        with_changes(
            Recipe(), {"model": {"name": "swift", "widths": [64, 32, 32]}}, origin="override"
        )


def test_two_crops_are_one_too_many() -> None:
    with pytest.raises(UsageError) as error:
        with_overrides(load_recipe("base"), ["augment.resized_crop={}"])
    assert str(error.value) == (
        "override: augment: crop and resized_crop exclude each other; set augment.crop=none or "
        "augment.resized_crop=none"
    )
    recipe = with_overrides(load_recipe("base"), ["augment.resized_crop={}", "augment.crop=none"])
    assert recipe.augment.resized_crop == ResizedCrop()


def test_plateau_needs_validation() -> None:
    with pytest.raises(UsageError, match="needs validation"):
        with_overrides(Recipe(), ["schedule.name=plateau", "data.val_fraction=none"])


def test_small_classes_are_made_up_for_once() -> None:
    settings = ["loss.class_weights=balanced", "data.balance=0.5"]
    with pytest.raises(UsageError) as error:
        with_overrides(Recipe(), settings)
    assert str(error.value) == (
        "override: loss.class_weights = balanced and data.balance = 0.5 both make up for small "
        "classes, which would then count more than large ones; set one of the two to none"
    )
    assert [with_overrides(Recipe(), [one]).balances_classes for one in settings] == [True, True]
    assert not Recipe().balances_classes
    assert [power_of(x) for x in ("balanced", 0.5, None)] == [1, 0.5, 0]


def test_unreadable_files(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"missing\.toml cannot be read"):
        load_recipe(str(tmp_path / "missing.toml"))
    (tmp_path / "broken.toml").write_text("seed = = 3")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(str(tmp_path / "broken.toml"))
    with pytest.raises(UsageError, match=r'no recipe "swfit"; did you mean "swift"\?'):
        load_recipe("swfit")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a." * 10_000 + "b = 1", "a key of more than 16 parts"),
        ("[" + '"a" . ' * 5_000 + "b]", "a key of more than 16 parts"),
        ("a = " + "[" * 3_000, "nested too deeply"),
        ("a = " + "{b = " * 3_000, "nested too deeply"),
        ("seed = " + "9" * 100_000, "4300 digits"),
        ("a = 1\n" * 3, "Cannot overwrite a value"),
    ],
)
def test_toml_that_would_take_all_time_or_memory_is_one_line(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        from_toml(text, origin="x.toml")
    assert str(error.value).startswith("x.toml: not valid TOML: ")
    assert len(str(error.value)) < 300


def test_overrides_that_are_too_deep_are_one_line() -> None:
    with pytest.raises(UsageError, match="has more than 16 parts"):
        with_overrides(Recipe(), ["a." * 10_000 + "b=1"])
    with pytest.raises(UsageError, match="must be a whole number"):
        with_overrides(Recipe(), ["seed=" + "[" * 3_000])


@pytest.mark.parametrize("kind", ["device", "long", "folder", "bytes"])
def test_a_recipe_file_that_is_none_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.toml"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "long":
        path.write_text("# " + "x" * 300_000)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=rf"{kind}\.toml (is|has)"):
        load_recipe(str(path))
