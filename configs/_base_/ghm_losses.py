# GHM-C and GHM-R as released: their settings are in ghm_mmdet/released.py. Not imported by a
# statement, which MMEngine takes for the mark of a lazy config, another kind than its bases.
released = __import__('ghm_mmdet.released').released
ghm_c = dict(_delete_=True, **released.GHM_C)
ghm_r = dict(_delete_=True, **released.GHM_R)
