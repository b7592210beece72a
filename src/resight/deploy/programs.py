"""The program of a network in a file: ONNX, or torch.export's pt2; written, and run again."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..errors import ResightError, UsageError
from ..networks.eval_mode import eval_mode
from ..records import Float32Array, ImageArray
from ..text import one_line
from .network import PixelNetwork

ProgramKind = Literal["onnx", "pt2"]
Outputs = Mapping[str, Float32Array]
RunProgram = Callable[[ImageArray], Outputs]  # uint8 (N, C, H, W) -> the outputs by name

METADATA = "resight"  # the key of the JSON in the metadata of an ONNX file
METADATA_FILE = "resight.json"  # its name among the extra files of a pt2 file


def check_extras() -> None:
    """Raise UsageError if a package that ONNX files need is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            raise UsageError(
                f"exporting to ONNX needs the package {name}; pip install 'resight[export]'"
            ) from error


def capture(network: PixelNetwork, images: Tensor) -> ExportedProgram:
    """Return the program that a network runs for images like these, any number of them.

    images: (2, C, H, W) uint8.

    Raises:
        ResightError: torch.export cannot follow what the network does.
    """
    try:
        with eval_mode(network), _quiet():
            shapes = {"images": {0: Dim("N")}}
            return torch.export.export(network, (images,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of many kinds, as the network is code of the user
        raise ResightError(
            f"the {type(network.network).__name__} cannot be exported, as torch.export cannot "
            f"follow it: {one_line(str(error), 300)}"
        ) from error


def write_program(
    program: ExportedProgram, path: Path, kind: ProgramKind, metadata: Mapping[str, Any]
) -> None:
    """Write a program and its metadata into one file.

    Raises:
        ResightError: ONNX has no operator for something that the network does.
    """
    text = json.dumps(metadata)
    if kind == "pt2":
        # By way of memory: torch reports a full disk as a RuntimeError among many.
        buffer = BytesIO()
        torch.export.save(program, buffer, extra_files={METADATA_FILE: text})
        path.write_bytes(buffer.getbuffer())
        return
    try:
        with _quiet():
            onnx = torch.onnx.export(program, dynamo=True, verbose=False, **_names(program))
            assert onnx is not None
            onnx.model.metadata_props[METADATA] = text
            # One file: `save` would put weights of more than 2 GB into a second one.
            content = onnx.model_proto.SerializeToString()
    except Exception as error:  # of several libraries, or the file would have more than 2 GB
        reason = one_line(str(error), 300)
        raise ResightError(f"the network cannot be written as ONNX: {reason}") from error
    path.write_bytes(content)


def _names(program: ExportedProgram) -> dict[str, Any]:
    outputs = program.call_spec.out_spec
    return {"input_names": ["images"], "output_names": list(outputs.context)}


def open_program(path: Path, kind: ProgramKind) -> RunProgram:
    """Return a function that runs the program in a file, on the CPU."""
    if kind == "pt2":
        module = torch.export.load(path).module()

        def run_pt2(images: ImageArray) -> Outputs:
            with torch.no_grad():
                outputs = module(torch.from_numpy(images))
            return {name: value.numpy() for name, value in outputs.items()}

        return run_pt2
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run_onnx(images: ImageArray) -> Outputs:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return run_onnx


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own warnings and log lines about its exporter to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
