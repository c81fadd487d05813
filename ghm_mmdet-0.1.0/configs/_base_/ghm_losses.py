# GHM-C and GHM-R as released, and as for data of one's own: their settings are in
# ghm_mmdet/presets.py. Not imported by a statement, which MMEngine takes for the mark of a lazy
# config, another kind than its bases.
presets = __import__('ghm_mmdet.presets').presets
ghm_c, ghm_r = (dict(_delete_=True, **loss) for loss in presets.RELEASED)
tempered_ghm_c, tempered_ghm_r = (dict(_delete_=True, **loss) for loss in presets.TEMPERED)
