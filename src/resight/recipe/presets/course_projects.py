"""Five published projects, each as its author describes it, and variants of them."""

from .builtin import Preset

COURSE_PROJECTS: dict[str, Preset] = {
    "resnet18-onecycle": Preset(
        summary="one cycle with Adam",
        source="a course project",
        base="resnet18",
        changes={
            "optimizer.name": ("adam", "as run, but at 1e-3, not the 1.17e-4 of its range test"),
            "optimizer.weight_decay": (5e-4, "open; it ran with 1e-2, too strong beside Adam"),
            "schedule.anneal": ("cosine", "as run"),
            "schedule.div": (100.0, "as run: starts at a hundredth of the peak"),
            "schedule.final_div": (100.0, "as run: ends at a hundredth of that"),
            "schedule.momentum_low": (0.85, "as run: beta1 is lowest where the rate is highest"),
            "schedule.momentum_high": (0.95, "as run"),
            "augment.cutout": ({"min_px": 16, "max_px": 16}, "16 x 16, as run"),
            "training.batch_size": (512, "as run: 88 steps an epoch of 45,000 images"),
        },
    ),
    "resnet18-plateau": Preset(
        summary="dropout, L1, L2, reduce on plateau",
        source="a course project",
        base="resnet18",
        changes={
            "model.dropout": (0.15, "as described, and active here"),
            "optimizer.lr": (0.00726, "as described: lowest loss of its range test; or --find-lr"),
            "optimizer.weight_decay": (1e-3, "L2 1e-3, read as torch's weight decay"),
            "loss.l1": (3e-6, "as described, over weights without norms and biases"),
            "schedule": (
                {"name": "plateau", "epochs": 50, "factor": 0.1, "patience": 3, "min_lr": 1e-5},
                "as described, watching validation loss",
            ),
            "augment.crop": ("none", "not among the four it describes"),
            "augment.hsv": (
                {"hue": 20, "saturation": 30, "value": 20, "prob": 0.25},
                "as described",
            ),
            "augment.rotate": ({"limit_deg": 15.0, "prob": 0.5}, "as described"),
            "augment.cutout": (
                {"count": 1, "min_px": 4, "max_px": 16, "prob": 0.75},
                "coarse dropout, as described",
            ),
        },
    ),
    "resnet9-onecycle": Preset(
        summary="one cycle with Adam, 6.57 million parameters",
        source="a course project",
        base="base",
        changes={
            "model.name": ("resnet9", "6,573,130 parameters"),
            "optimizer.name": ("adam", "as described"),
            "optimizer.lr": (0.01, "open; it ran at 0.043, the edge of its range test"),
            "optimizer.weight_decay": (1e-4, "as run"),
            "schedule.epochs": (24, "as described"),
            "schedule.div": (100.0, "as run"),
            "schedule.final_div": (100.0, "as run"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as run"),
            "training.batch_size": (512, "as described"),
            "training.precision": ("auto", "open; bf16 where the processor has it"),
        },
        accuracy="89.93 % (JPEG 75)",
    ),
    "superconvergence": Preset(
        summary="one cycle with SGD that ends where it began",
        source="a course project",
        base="base",
        changes={
            "model.name": ("resnet9", "6,573,130 parameters"),
            "optimizer.lr": (0.07, "as described: LR_max; or --find-lr"),
            "schedule.epochs": (24, "as described, with the maximum at epoch 5"),
            "schedule.div": (100.0, "open: LR_min, where it also ends, low enough to settle"),
            "schedule.final_div": (1.0, "as described: no annihilation"),
            "augment.crop.fill": ("zero", "as described: RandomCrop after padding 4"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as described"),
            "training.batch_size": (512, "as described"),
            "training.precision": ("auto", "open; bf16 where the processor has it"),
        },
        accuracy="87.24 % (JPEG 75)",
    ),
    "superconvergence-decay": Preset(
        summary="the same with five times the weight decay",
        source="Smith 2018, Page 2018",
        base="superconvergence",
        changes={
            "optimizer.weight_decay": (2.5e-3, "open; 3 points better over 8 epochs at 16 px"),
        },
    ),
    "resnet18-sgd-plateau": Preset(
        summary="an earlier stage: SGD at 0.001, reduce on plateau",
        source="a course project",
        base="resnet18",
        changes={
            "optimizer.lr": (0.001, "as described: best LR of its finder"),
            "schedule": ({"name": "plateau", "epochs": 50}, "as described"),
            "augment.crop.fill": ("zero", "as described: RandomCrop after padding 4"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as described"),
        },
    ),
    "resnet18-layernorm": Preset(
        summary="layer norm only, reduce on plateau",
        source="a course project",
        base="resnet18",
        changes={
            "model.norm": ("layer", "as described"),
            "model.last_stage_stride": (1, "as run: an 8 x 8 last map for Grad-CAM"),
            "optimizer.lr": (0.01, "as described"),
            "schedule": ({"name": "plateau", "epochs": 40}, "as described"),
            "augment.crop.fill": ("zero", "as described: RandomCrop(32, padding 4)"),
            "augment.cutout": ({"min_px": 16, "max_px": 16}, "16 x 16, as described"),
            "augment.rotate": ({"limit_deg": 5.0, "prob": 1.0}, "up to 5 degrees, as described"),
        },
    ),
    "resnet18-layernorm-lr0.1": Preset(
        summary="the same at ten times the rate, as its code ran",
        source="a course project's code",
        base="resnet18-layernorm",
        changes={"optimizer.lr": (0.1, "as run, where its description says 0.01")},
    ),
}
