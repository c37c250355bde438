"""Checkpoints: ours (a config, the weights and what the model file will say) and the official layout.

Both are read with ``weights_only=True``: tensors and plain values, never arbitrary pickled objects.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probpose_ros.codec import Codec
from probpose_ros.geometry import PADDING
from probpose_ros.model_info import PoseInfo, from_json
from probpose_training.decode import decode_codec
from probpose_training.network import NetworkConfig, ProbPose

FORMAT = "probpose checkpoint 1"


def pose_info(
    config: NetworkConfig, name: str, decode_profile: str = "oks", padding: float = PADDING, **values: Any
) -> PoseInfo:
    """The PoseInfo of a network; ``values``: its other fields (trained_on, licence, metrics)."""
    codec = decode_codec(config, decode_profile, padding)
    return PoseInfo(
        kind="pose",
        name=name,
        input_size=codec.crop_size,
        map_size=codec.map_size,
        map_window=codec.map_window,
        padding=codec.padding,
        decode_profile=codec.profile,
        temperature=config.temperature,
        **values,
    )


def codec_of(info: PoseInfo) -> Codec:
    """The codec that the model is decoded with."""
    return Codec(info.input_size, info.map_size, info.decode_profile, info.padding, info.map_window)


def save_checkpoint(path: Path | str, model: ProbPose, info: PoseInfo, **extra: Any) -> None:
    """Writes config, weights and info in one step; ``extra``: more plain values or tensors, such as an optimizer."""
    content = {
        "format": FORMAT,
        "config": asdict(model.config),
        "info": asdict(info),
        "state_dict": model.state_dict(),
        **extra,
    }
    temporary = Path(f"{path}.part")
    torch.save(content, temporary)
    os.replace(temporary, path)  # Whoever reads meanwhile, or after a crash, finds the old file or the new one.


def load_checkpoint(path: Path | str) -> tuple[ProbPose, PoseInfo]:
    """The network in evaluation mode and its info; ValueError names whatever does not fit."""
    content = read_tensors(path)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: not a {FORMAT!r} (found {content.get('format')!r}); "
            "an official-layout file is converted by 'probpose import-checkpoint'"
        )
    model = ProbPose(NetworkConfig.from_mapping(content["config"]))
    load_strictly(model, content["state_dict"], path)
    info = from_json(json.dumps(content["info"]), "pose", str(path))
    return model.eval(), info


def import_checkpoint(path: Path | str, heads: int = 12, leave_out: bool = False) -> tuple[ProbPose, PoseInfo]:
    """An official-layout checkpoint: tensors under ``state_dict`` or at the top level.

    Args:
        heads: attention heads, the one size that the tensors do not tell.
        leave_out: see :func:`read_tensors`.
    """
    content = read_tensors(path, leave_out)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: neither a state_dict nor a dict with one under 'state_dict'")
    model = ProbPose(infer_config(state, heads, path))
    load_strictly(model, state, path)
    info = pose_info(
        model.config,
        Path(path).stem,
        decode_profile="reference",
        trained_on=f"imported from {Path(path).name}",
        licence="that of the imported weights",
    )
    return model.eval(), info


class LeftOut:
    """In the place of any pickled object: takes what the object would have been made of, and does nothing with it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> LeftOut:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_tensors(path: Path | str, leave_out: bool = False) -> dict[str, Any]:
    """The dict in a torch file; refuses files with anything but tensors and plain values.

    leave_out: read past pickled objects (the logs that training tools add) instead; none is made, :class:`LeftOut`
    stands where it was.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if leave_out else []
        # A class of its own for every name: torch tells them apart by it.
        stubs: list[Any] = [(type("LeftOut", (LeftOut,), {}), name) for name in names]
        with torch.serialization.safe_globals(stubs):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file of other bytes makes the unpickler raise almost anything
        # torch's own advice is to load it anyway, so its words are kept only where they name an object.
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "torch cannot read it")
        raise ValueError(
            f"{path}: not a file of plain tensors ({reason.strip()}); pickled objects are never loaded. "
            "import-checkpoint --leave-out-objects reads past them, where it can"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a dict, got {type(content).__name__}")
    for key, value in {**content, **_mapping(content.get("state_dict"))}.items():
        # A tensor may be a view that repeats one number without end; copied, it fills the memory.
        if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: {key} claims {tuple(value.shape)}, which is more than the file holds")
    return content


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def infer_config(state: Mapping[str, Tensor], heads: int, path: Path | str) -> NetworkConfig:
    """The sizes of an official-layout network, read from its tensors."""
    needed = {
        "backbone.pos_embed": 3,
        "backbone.layers.0.ffn.layers.0.0.weight": 2,
        "head.deconv_layers.0.weight": 4,
    }
    if lacking := [key for key, dims in needed.items() if key not in state or state[key].dim() != dims]:
        raise ValueError(f"{path}: not a ProbPose checkpoint; missing or of the wrong shape: {', '.join(lacking)}")
    _, tokens, dim = state["backbone.pos_embed"].shape
    columns = math.isqrt(tokens * 3 // 4)
    if columns == 0 or tokens != columns * (columns * 4 // 3):
        raise ValueError(f"{path}: {tokens} tokens do not form a grid with the aspect 3:4")
    if heads < 1 or dim % heads:
        raise ValueError(f"heads must divide the embedding of {dim}, got {heads}")
    layers = {key.split(".")[2] for key in state if key.startswith("backbone.layers.")}
    return NetworkConfig(
        input_size=(16 * columns, 16 * (tokens // columns)),
        backbone="vit",
        embed_dim=dim,
        depth=len(layers),
        heads=heads,
        mlp_dim=state["backbone.layers.0.ffn.layers.0.0.weight"].shape[0],
        head_width=state["head.deconv_layers.0.weight"].shape[1],
        scalar_heads="separate",
        error_branch=any(key.startswith("head.error_layers.") for key in state),
    )


def load_strictly(model: ProbPose, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Loads every tensor or none; the error names each missing, unexpected, misshapen or non-finite one."""
    own = model.state_dict()
    shapes = [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "misshapen": shapes,
        "not finite": [key for key, value in state.items() if not torch.isfinite(value).all()],
    }
    if any(problems.values()):
        raise ValueError(f"{path}: " + "; ".join(f"{k}: {', '.join(v)}" for k, v in problems.items() if v))
    model.load_state_dict(state)
