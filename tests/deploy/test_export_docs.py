"""The snippets of docs/export.md, in a process that has no resight, beside what resight says."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import resight
from resight.datasets.augment import normalize
from resight.datasets.readers.images import read_pictures
from resight.runs.checkpoint import load_best
from test_docs import ROOT, blocks

pytestmark = pytest.mark.slow  # starts processes that import torch and onnxruntime

ONNX, PT2, HUB = blocks(ROOT / "docs" / "export.md", "python")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its exports beside it, and a photo that is neither square nor gray."""
    out = tmp_path_factory.mktemp("exports")
    settings = [
        "schedule.epochs=2",
        "schedule.peak_epoch=1",
        "explain={report=false,pictures=false}",
    ]
    recipe = resight.with_overrides(resight.load_recipe("digits"), settings)
    run = resight.train(recipe, out=out, name="run")
    resight.export(run, to="onnx", out=out / "model.onnx")
    resight.export(run, to="pt2", out=out / "model.pt2")
    resight.export(run, to="hub", out=out / "hub")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((270, 180)).save(out / "photo.png")
    return out


def run_alone(snippet: str, folder: Path, *names: str) -> tuple[dict[str, Any], str]:
    """Run a snippet without resight; return arrays by name, and what it printed."""
    arrays = ", ".join(f"{name}=np.asarray({name})" for name in names)
    code = f"import sys\nsys.modules['resight'] = None\n{snippet}\n"
    code += f"import numpy as np\nnp.savez('out.npz', {arrays})\n"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    with np.load(folder / "out.npz") as content:
        return dict(content), result.stdout


def test_onnx_runtime_says_what_predict_says(folder: Path) -> None:
    arrays, printed = run_alone(ONNX, folder, "probabilities", "heatmap")
    [prediction] = resight.predict(folder / "run", [folder / "photo.png"])
    expected = dict(prediction.ranking)
    shown = arrays["probabilities"][0]
    assert shown == pytest.approx([expected[name] for name in map(str, range(10))], abs=1e-4)
    assert printed.startswith(f"{prediction.ranking[0][0]} ")
    assert arrays["heatmap"].shape == (1, 10, 3, 3)


def test_torch_export(folder: Path) -> None:
    arrays, printed = run_alone(PT2, folder, "shape")
    assert arrays["shape"].tolist() == [4, 1, 32, 32]
    assert "torch.Size([4, 10]) torch.Size([4, 10, 3, 3])" in printed


def test_the_weights_in_plain_torch(folder: Path) -> None:
    arrays, _ = run_alone(HUB, folder, "images", "logits")
    run = resight.Run.open(folder / "run")
    _, info = load_best(run.folder)
    with torch.no_grad():
        expected = run.model()(normalize(torch.from_numpy(arrays["images"]), info.stats))
    np.testing.assert_allclose(arrays["logits"], expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (33, 33), (20, 200)])
def test_pillow_resizes_as_the_table_says(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    picture, bicubic = Image.fromarray(pixels), Image.Resampling.BICUBIC
    picture.save(tmp_path / "a.png")
    by_table = {
        "crop": ImageOps.fit(picture, (32, 32), bicubic),
        "stretch": picture.resize((32, 32), bicubic),
        "pad": ImageOps.pad(picture, (32, 32), bicubic),
    }
    text = (ROOT / "docs" / "export.md").read_text()
    for rule, expected in by_table.items():
        assert f"| `{rule}` | `" in text
        read = read_pictures([tmp_path / "a.png"], image_size=32, channels=3, resize=rule)  # type: ignore[arg-type]
        mine = read.images[0].permute(1, 2, 0).numpy()
        assert np.array_equal(mine, np.asarray(expected)), rule
