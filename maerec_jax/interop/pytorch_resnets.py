"""The residual networks of the baselines in PyTorch (``pytorch_baselines``)."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Stride = int | tuple[int, int]


def conv(inputs: int, outputs: int, kernel: int, stride: Stride = 1, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    """A convolution whose borders are padded with zeros by half of its kernel."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias, groups=groups)


class ConvNorm(nn.Module):
    """A convolution and batch normalisation, then ReLU unless that is left out."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: Stride = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.relu = relu
        self.conv = conv(inputs, outputs, kernel, stride, groups=groups)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x


def named_shortcut(inputs: int, outputs: int, stride: Stride) -> nn.Module:
    """A shortcut of other width or stride whose keys are ``conv`` and ``bn``."""
    return ConvNorm(inputs, outputs, 1, stride, relu=False)


def numbered_shortcut(inputs: int, outputs: int, stride: Stride) -> nn.Module:
    """The same whose keys are ``0`` and ``1``."""
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two convolutions, each with batch normalisation, beside a shortcut; the second one carries the stride."""

    def __init__(
        self, inputs: int, outputs: int, first_kernel: int, stride: Stride = 1, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, first_kernel), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet45(nn.Module):
    """Five stages of blocks of a 1 x 1 and a 3 x 3 kernel; the first block of each carries the stride."""

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        strides: Sequence[Stride],
        shortcut: Callable[[int, int, Stride], nn.Module],
    ) -> None:
        super().__init__()
        inputs = stem
        for number, (width, length, stride) in enumerate(zip(widths, blocks, strides, strict=True), 1):
            first = ResidualBlock(inputs, width, 1, stride, shortcut(inputs, width, stride))
            others = (ResidualBlock(width, width, 1) for _ in range(length - 1))
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
            inputs = width

    def stages(self, x: Tensor) -> Tensor:
        """What the stem gives (B, stem, H, W) to features."""
        for number in range(1, 6):
            x = self.get_submodule(f"layer{number}")(x)
        return x


class ASTERResNet(ResNet45):
    """ASTER's: 32 rows and 100 columns of pixels become one row of 25 features."""

    def __init__(self, stem: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__(stem, widths, blocks, ((2, 2), (2, 2), (2, 1), (2, 1), (2, 1)), named_shortcut)
        self.stem_layers = nn.Sequential(ConvNorm(3, stem))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels to (B, widths[-1], H / 32, W / 4)."""
        return self.stages(self.stem_layers(image_BCHW))


class ABINetResNet(ResNet45):
    """ABINet's: each feature stands for four rows and columns of pixels."""

    def __init__(self, stem: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__(stem, widths, blocks, (2, 1, 2, 1, 1), numbered_shortcut)
        self.conv1, self.bn1 = conv(3, stem, 3, bias=True), nn.BatchNorm2d(stem)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels to (B, widths[-1], H / 4, W / 4)."""
        return self.stages(F.relu(self.bn1(self.conv1(image_BCHW))))


class ResNet31(nn.Module):
    """That of NRTR and SAR: blocks of two 3 x 3 kernels between max-poolings.

    ``channels`` are those of the two convolutions of the stem and of the four stages.
    """

    def __init__(self, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1_1, self.bn1_1 = conv(3, channels[0], 3, bias=True), nn.BatchNorm2d(channels[0])
        self.conv1_2, self.bn1_2 = conv(channels[0], channels[1], 3, bias=True), nn.BatchNorm2d(channels[1])
        inputs = channels[1]
        for stage, (width, length) in enumerate(zip(channels[2:], blocks, strict=True), 2):
            shortcut = None if inputs == width else numbered_shortcut(inputs, width, 1)
            others = (ResidualBlock(width, width, 3) for _ in range(length - 1))
            self.add_module(f"block{stage}", nn.Sequential(ResidualBlock(inputs, width, 3, 1, shortcut), *others))
            self.add_module(f"conv{stage}", conv(width, width, 3, bias=True))
            self.add_module(f"bn{stage}", nn.BatchNorm2d(width))
            inputs = width

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels to (B, channels[-1], H / 8, W / 4)."""
        x = F.relu(self.bn1_1(self.conv1_1(image_BCHW)))
        x = F.relu(self.bn1_2(self.conv1_2(x)))
        for stage, pool in enumerate(((2, 2), (2, 2), (2, 1), None), 2):
            x = x if pool is None else F.max_pool2d(x, pool)
            for name in ("block", "conv", "bn"):
                x = self.get_submodule(f"{name}{stage}")(x)
            x = F.relu(x)
        return x
