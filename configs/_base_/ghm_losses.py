# GHM-C with the paper's M = 30 and α = 0.75; GHM-R with the paper's μ = 0.02 and the released
# code's M = 10, α = 0.7 and weight 10. use_sigmoid=True is read by the head: never leave it out.
ghm_c = dict(
    _delete_=True,
    type='ghm_mmdet.GHMC',
    bins=30,
    momentum=0.75,
    use_sigmoid=True,
    loss_weight=1.0,
)
ghm_r = dict(
    _delete_=True,
    type='ghm_mmdet.GHMR',
    mu=0.02,
    bins=10,
    momentum=0.7,
    loss_weight=10.0,
)
