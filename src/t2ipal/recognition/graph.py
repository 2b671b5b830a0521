"""A recogniser as one graph, image in, scores, probabilities and heatmaps out; and that graph in an ONNX file."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from t2ipal.errors import UserError
from t2ipal.evaluation.calibration import Calibration
from t2ipal.features.backbone import ImageEncoder
from t2ipal.features.decoding import DividedTransform
from t2ipal.features.dense import image_features
from t2ipal.learning.clip_adapter import ClipAdapterHead
from t2ipal.learning.dual import DualHead, dual_logits
from t2ipal.learning.ensemble import EnsembleHead
from t2ipal.learning.heads import Head, heatmap
from t2ipal.learning.linear import LinearHead
from t2ipal.learning.models import Scorer

# By how much onnxruntime's numbers may differ from torch's.
TOLERANCE = 1e-4
_OPSET = 20


def score(head: Scorer, global_: Tensor, local: Tensor) -> Tensor:
    """Scores [N, C] of one batch of features [N, D] and [N, L, D], as ``head.scores`` gives them, in torch alone.

    Raises:
        ValueError: the head is of a kind that is not known here.
    """
    match head:
        case Head():
            return head.fuse(head.branches(global_, local, None))
        case LinearHead():
            return head.logits(global_)
        case ClipAdapterHead():
            return head.batch_scores(global_)
        case DualHead():
            return dual_logits(local, None, head.positive, head.negative, head.tau_s, head.scale)
        case EnsembleHead():
            parts = zip(head.members, head.means, head.deviations, head.weights, strict=True)
            found = [weight * (score(member, global_, local) - mean) / sd for member, mean, sd, weight in parts]
            return torch.stack(found).sum(dim=0)
    raise ValueError(f"a head of type {type(head).__name__} has no graph")


def maps(head: Scorer, local: Tensor) -> list[Tensor]:
    """Heatmaps [N, C, L] of one batch: one for each part of the head that has some."""
    match head:
        case Head():
            return [heatmap(local, head.local_embeddings, head.tau_s)]
        case DualHead():
            return [heatmap(local, head.positive, head.tau_s)]
        case EnsembleHead():
            return [found for member in head.members for found in maps(member, local)]
    return []


class Graph(nn.Module):
    """Bytes [N, S, S, 3], as the tower's resizing and cutting leaves them -> what a recogniser gives, by name."""

    mean: Tensor
    deviation: Tensor
    slope: Tensor
    intercept: Tensor

    def __init__(self, encoder: ImageEncoder, head: Scorer, calibration: Calibration | None) -> None:
        super().__init__()
        ((mean, deviation),) = DividedTransform.of(encoder.transform).shifts or ()
        self.visual, self.head, self.positional = encoder.visual, head, encoder.attnpool_positional
        self.register_buffer("mean", mean.reshape(1, 3, 1, 1))
        self.register_buffer("deviation", deviation.reshape(1, 3, 1, 1))
        self.calibrated = calibration is not None
        if calibration is not None:
            self.register_buffer("slope", torch.tensor(calibration.slope, dtype=torch.float32))
            self.register_buffer("intercept", torch.tensor(calibration.intercept, dtype=torch.float32))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``scores`` and, where there are some, ``probabilities`` [N, C] and ``heatmaps`` [N, C, rows, columns]."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.deviation
        global_, local, grid = image_features(self.visual, pixels, self.positional)
        global_, local = normalize(global_, dim=-1), normalize(local, dim=-1)
        scores = score(self.head, global_, local)
        found = {"scores": scores}
        if self.calibrated:
            found["probabilities"] = torch.sigmoid(self.slope * scores + self.intercept)
        drawn = maps(self.head, local)
        if drawn:
            mean = reduce(torch.add, drawn) / len(drawn)
            found["heatmaps"] = mean.reshape(mean.shape[0], mean.shape[1], *grid)
        return found


def write_onnx(
    path: Path, encoder: ImageEncoder, head: Scorer, calibration: Calibration | None, images: NDArray[np.uint8]
) -> dict[str, float]:
    """Write a recogniser as one ONNX file and compare it with torch in onnxruntime.

    Labels, thresholds and preprocessing are in the file's metadata.

    Args:
        path: the file.
        encoder: in float32, on the CPU.
        head: on the CPU.
        calibration: of the model, if it has one.
        images: [N, S, S, 3], N at least 3, to compare on.

    Returns:
        The largest difference of each output.

    Raises:
        UserError: the packages are missing, the model cannot be expressed, or an output differs by more than
            ``TOLERANCE``.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise UserError(f"--onnx needs the package {error.name}; run pip install 't2ipal[onnx]'") from None
    graph = Graph(encoder, head, calibration).eval()
    given = torch.from_numpy(images)
    with torch.inference_mode():
        expected = graph(given)
    try:
        program = torch.onnx.export(
            graph,
            (given[:2],),
            dynamo=True,
            input_names=["images"],
            output_names=list(expected),
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=_OPSET,
            verbose=False,
        )
    except Exception as error:
        raise _inexpressible(encoder, error) from error
    proto: Any = program.model_proto if program is not None else None
    about = {"labels": list(head.labels), "input": {"side": encoder.input_size, "resize": encoder.resize}}
    if calibration is not None:
        about["thresholds"] = calibration.thresholds.tolist()
    for name, value in about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"t2ipal.{name}", json.dumps(value, ensure_ascii=False)
    onnx.save(proto, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    try:
        found = dict(zip(expected, session.run(list(expected), {"images": images}), strict=True))
    except Exception as error:  # as of a tower that fixes the number of images when it is traced
        raise _inexpressible(encoder, error) from error
    worst = {name: float(np.abs(found[name] - expected[name].numpy()).max()) for name in expected}
    # A curve of slope s makes s / 4 of a difference of scores.
    steepest = 1.0 if calibration is None else max(1.0, float(calibration.slope.max()) / 4)
    for name, difference in worst.items():
        if not difference <= TOLERANCE * (steepest if name == "probabilities" else 1):
            raise UserError(f"onnxruntime's {name} differ from torch's by up to {difference:.1e}; leave --onnx out")
    return worst


def _inexpressible(encoder: ImageEncoder, error: Exception) -> UserError:
    kind = f"{type(encoder.visual).__name__}: {type(error).__name__}"
    return UserError(
        f"--onnx: torch's exporter cannot express the image tower of '{encoder.name}' ({kind}); "
        "CLIP's own ResNets and ViTs can be: leave --onnx out, or choose such a backbone"
    )
