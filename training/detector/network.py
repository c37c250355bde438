"""The person detector: features at strides 8, 16 and 32, a light pyramid, an anchor-free head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probpose_training.backbones import ConvNet, EfficientNetLite, conv_bn_relu
from probpose_training.pretrained import InputScale

STRIDES = (8, 16, 32)
# What the backbone gets, of pixel values 0 .. 255: roughly zero mean, unit variance.
INPUT_SCALE = InputScale(mean=(127.5,) * 3, std=(63.75,) * 3, bgr=True)


def prepare(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) BGR -> float32 (B, 3, H, W) in [0, 1], channels last in memory."""
    # Float first: TensorRT knows uint8 only as the type of a network's input.
    return images.float().permute(0, 3, 1, 2) / 255


class PersonDetector(nn.Module):
    """Image -> per cell of three grids one score and the four distances to the box's sides.

    backbone: of feature maps at the strides 4, 8, 16, 32. neck: channels of the pyramid and the head.
    """

    def __init__(self, backbone: ConvNet | EfficientNetLite, neck: int = 48) -> None:
        super().__init__()
        self.backbone, channels = backbone, backbone.channels
        self.context = conv_bn_relu(2 * channels[3], channels[3], 1)
        self.lateral = nn.ModuleList(conv_bn_relu(width, neck, 1) for width in channels[1:])
        self.merge = nn.ModuleList(conv_bn_relu(neck, neck) for _ in range(2))
        self.down = nn.ModuleList(conv_bn_relu(neck, neck, stride=2) for _ in range(2))
        self.head = nn.ModuleList(Head(neck) for _ in STRIDES)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) BGR / 255, H and W multiples of 32 -> logits (B, N), boxes (B, N, 4) xyxy in input px."""
        c3, c4, c5 = self.backbone(image * 4 - 2)[1:]  # INPUT_SCALE
        whole = c5.mean(dim=(2, 3), keepdim=True).expand_as(c5)  # a person may fill the whole frame
        c5 = self.context(torch.cat([c5, whole], dim=1))
        p5 = self.lateral[2](c5)
        p4 = self.merge[1](self.lateral[1](c4) + F.interpolate(p5, scale_factor=2.0, mode="nearest"))
        p3 = self.merge[0](self.lateral[0](c3) + F.interpolate(p4, scale_factor=2.0, mode="nearest"))
        p4 = p4 + self.down[0](p3)
        p5 = p5 + self.down[1](p4)
        levels = [self.head[i](p, STRIDES[i]) for i, p in enumerate((p3, p4, p5))]
        logits, boxes = zip(*levels, strict=True)
        return torch.cat(logits, dim=1), torch.cat(boxes, dim=1)


class Head(nn.Module):
    """One grid's score and box."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        score, box = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 4, 1)
        nn.init.constant_(score.bias, -4.0)  # type: ignore[arg-type]  # few cells hold a person
        nn.init.constant_(box.bias, 1.0)  # type: ignore[arg-type]
        self.score = nn.Sequential(conv_bn_relu(channels, channels), score)
        self.box = nn.Sequential(conv_bn_relu(channels, channels), box)

    def forward(self, x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        logits = self.score(x).float().flatten(1)
        sides = self.box(x).float().clamp(-4, 4).exp() * stride
        sides = sides.flatten(2).transpose(1, 2)
        # int: plain constants in an exported graph instead of ranges over shapes.
        centers = cell_centers(int(x.shape[2]), int(x.shape[3]), stride, x.device)
        return logits, torch.cat([centers - sides[..., :2], centers + sides[..., 2:]], dim=2)


def cell_centers(height: int, width: int, stride: int, device: torch.device | str = "cpu") -> Tensor:
    """(height * width, 2) x, y of the cells' centres, input px, row by row."""
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2)


def all_centers(height: int, width: int) -> Tensor:
    """(N, 2) centres of all cells of an input of this size, in the network's order."""
    return torch.cat([cell_centers(height // stride, width // stride, stride) for stride in STRIDES])
