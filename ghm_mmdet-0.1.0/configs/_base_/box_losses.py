# Smooth L1 with the paper's δ = 1/9 (Eq. 15), and its authentic form with μ = 0.02 (Eq. 17).
smooth_l1 = dict(_delete_=True, type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)
authentic_smooth_l1 = dict(
    _delete_=True,
    type='ghm_mmdet.AuthenticSmoothL1Loss',
    mu=0.02,
    loss_weight=1.0,
)
