"""The released settings of GHM-C and GHM-R, as configs of the losses.

M = 30, α = 0.75 and μ = 0.02 are the paper's; GHM-R's M = 10, α = 0.7 and weight 10 are the
released code's. The shipped configs read them from here, so this module imports nothing.
"""

#: MMDetection's heads read `use_sigmoid` from the config: never leave it out.
GHM_C = dict(type='ghm_mmdet.GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0)
GHM_R = dict(type='ghm_mmdet.GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)
