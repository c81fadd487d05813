# The deeper backbones of Tables 3 and 4, from torchvision's ImageNet weights: the preprocessing is
# that of ResNet-50. (MMDetection's own resnext101_32x8d is Detectron's, with another mean and std.)
r101 = dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'))
x101_32x8d = dict(
    type='ResNeXt',
    depth=101,
    groups=32,
    base_width=8,
    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnext101_32x8d'),
)
