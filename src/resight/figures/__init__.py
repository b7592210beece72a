"""Records to pictures: each function takes values and gives a matplotlib `Figure`; `save` writes.

Made for print: one scale for what is compared, and the Okabe-Ito colors with a second cue
(line style, marker or sign) for every difference of hue. pyplot is not used, so no window, no
global figure; a user's own matplotlib settings do not change the pictures.

Pictures are uint8 (N, H, W, C), C = 1 or 3. Names and ids come from outside and are drawn as
they are: `$` starts no formula, a control character becomes a question mark.
"""

from .curves import (
    compare_accuracy,
    compare_schedules,
    rates_as_run,
    schedule_curve,
    training_curves,
)
from .grouped import NeighborImages, label_issue_sheet, pair_rows, pair_sheet
from .heat import LayerHeatmap, SheetImages, heat_grid, heat_sheet, heat_strip
from .lr_curve import lr_curve
from .numbers import confusion_matrix, per_class, reliability, setting_importances
from .pictures import (
    FlippedImage,
    before_after,
    class_sheet,
    flip_sheet,
    image_grid,
    prediction_grid,
)
from .style import check_path, save

__all__ = [
    "FlippedImage",
    "LayerHeatmap",
    "NeighborImages",
    "SheetImages",
    "before_after",
    "check_path",
    "class_sheet",
    "compare_accuracy",
    "compare_schedules",
    "confusion_matrix",
    "flip_sheet",
    "heat_grid",
    "heat_sheet",
    "heat_strip",
    "image_grid",
    "label_issue_sheet",
    "lr_curve",
    "pair_rows",
    "pair_sheet",
    "per_class",
    "prediction_grid",
    "rates_as_run",
    "reliability",
    "save",
    "schedule_curve",
    "setting_importances",
    "training_curves",
]
