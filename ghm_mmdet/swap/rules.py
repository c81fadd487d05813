"""What is known of the heads: how each calls its losses, and why some losses stay.

The tables were made by reading the heads of MMDetection 3.3 and 3.5, and of MMRotate 1.2;
`docs/compatibility.md` is what a run says of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Union


@dataclass(frozen=True)
class Call:
    """How a head calls a loss that GHM can replace.

    Attributes:
        ghm: 'GHMC' for logits with labels or targets in [0, 1], 'GHMR' for encoded offsets.
        reduction: Of the GHM loss. 'mean' where the head takes the loss as it is; 'positives',
            'rows' or 'sum' where it adds up the losses of the examples.
        averaged_levels: Whether it calls the loss for each FPN level, and its own average runs
            over all of them. GHM's mean is that of the level: its weight is divided by the
            number of levels.
        positives: The share of positives, by MMDetection's samplers, of the samples that the
            head averages a regression loss over. GHM-R averages over the positives alone: its
            weight is multiplied by the share.
        skipped: Where the head does not call the loss. A loss with `sync=True` would wait there
            for the process that has nothing to call it with.
        note: What else to know of the loss that takes its place.
    """

    ghm: str
    reduction: str = 'mean'
    averaged_levels: bool = False
    positives: float = 1.0
    skipped: str = ''
    note: str = ''


_NO_POSITIVES = 'where no example is positive'
_NO_ROIS = 'where no region is proposed'
_NO_BOXES = 'on the queries of denoising where the images have no box'
_DIVIDES = 'the head divides it by the number of positives'

LOGITS = Call('GHMC')
LOGITS_OF_SAMPLES = Call('GHMC', averaged_levels=True)
LOGITS_OF_ROIS = Call('GHMC', skipped=_NO_ROIS)
LOGITS_OF_DENOISING = Call('GHMC', skipped=_NO_BOXES)
LOGITS_OF_WEIGHTED_LEVELS = Call(
    'GHMC',
    note="the head weighs its levels by avg_factor, which is a part of formula='tempered' alone",
)
LOGITS_DIVIDED_LATER = Call('GHMC', 'positives', note=_DIVIDES)
LOGITS_OF_POSITIVES = Call('GHMC', 'rows', skipped=_NO_POSITIVES, note=_DIVIDES)
LOGITS_SUMMED = Call('GHMC', 'positives', note='the head takes the sum, which it does not divide')
OFFSETS = Call('GHMR')
OFFSETS_OF_POSITIVES = Call('GHMR', skipped=_NO_POSITIVES)
OFFSETS_OF_ROIS = Call('GHMR', positives=0.25, skipped=_NO_POSITIVES)
OFFSETS_OF_AVERAGED_LEVELS = Call('GHMR', averaged_levels=True)
OFFSETS_OF_SAMPLES = Call('GHMR', averaged_levels=True, positives=0.5)
OFFSETS_DIVIDED_LATER = Call('GHMR', 'sum', skipped=_NO_POSITIVES, note=_DIVIDES)

_DECODED = 'calls it on decoded boxes; GHM-R needs encoded offsets, which μ is in units of'
_IMAGE_BOXES = 'L1 of whole boxes in units of the image, not of encoded offsets, which μ is in'
_PROBABILITIES = 'the scores of this head are probabilities, not logits'
_PAIRS = 'adds the losses of each pair of boxes, and takes the smaller sum'
_RANKS = (
    "ranks its anchors by the same loss (reduction_override='none'), on the positives alone: "
    'those calls would enter the moving average'
)
_HEATMAP = (
    'a Gaussian heat map: the values around a center are negatives of less weight, not targets'
)
_TRACKER = 'this tracker is not trained: harmonize the config of its detector'
_NOT_CALLED = 'does not call it'
_SEVERAL_VIEWS = 'compares the predictions for several views of an image'
_MASK = 'a mask loss: its examples are pixels; GHM is defined for boxes'
SOFTMAX = "a softmax: preset='tempered' keeps it, preset='released' replaces it"
IOU_LOSS = 'an IoU loss: no density of gradient norms is defined for it'
DECODED_BOXES = f'reg_decoded_bbox=True: the head {_DECODED}'

#: What a head calls: the key of each loss to how, or to why it is kept.
Calls = Dict[str, Union[Call, str]]


def _each(
    names: str, loss_cls: Call | str = '', loss_bbox: Call | str = '', **others: Call | str
) -> dict[str, Calls]:
    """Each head to the same calls, without those that are empty."""
    every = dict(loss_cls=loss_cls, loss_bbox=loss_bbox, **others)
    calls = {key: call for key, call in every.items() if call}
    return dict.fromkeys(names.split(), calls)


#: Heads whose scores are read through softmax, whatever the loss says.
_BOX_HEADS = (
    'BBoxHead ConvFCBBoxHead Shared2FCBBoxHead Shared4Conv1FCBBoxHead DoubleConvFCBBoxHead '
    'SCNetBBoxHead RotatedShared2FCBBoxHead'
)
SOFTMAX_HEADS = (*_BOX_HEADS.split(), 'SABLHead', 'GVBBoxHead')

#: Heads of one class, whatever the data set has.
RPN_HEADS = ('RPNHead', 'GARPNHead', 'StageCascadeRPNHead', 'OrientedRPNHead')
#: Heads whose `num_classes` is not that of the data set: those, and the ones of words of a text.
OTHER_CLASSES = (*RPN_HEADS, 'GroundingDINOHead', 'ATSSVLFusionHead')

#: Each head to its calls.
HEADS: dict[str, Calls] = {
    **_each('GHMRetinaHead GHMSSDHead', LOGITS, OFFSETS),
    **_each('FoveaHead', LOGITS, OFFSETS_OF_POSITIVES),
    **_each('AnchorHead RetinaHead RetinaSepBNHead GARetinaHead', LOGITS, OFFSETS),
    **_each(' '.join(RPN_HEADS), LOGITS_OF_SAMPLES, OFFSETS_OF_SAMPLES),
    **_each(_BOX_HEADS, LOGITS_OF_ROIS, OFFSETS_OF_ROIS),
    **_each('SABLHead', LOGITS, loss_bbox_reg=OFFSETS),
    **_each('SABLRetinaHead', LOGITS, loss_bbox_reg=OFFSETS_OF_AVERAGED_LEVELS),
    **_each(
        'FCOSHead NASFCOSHead CondInstBboxHead BoxInstBboxHead YOLOFHead',
        LOGITS,
        _DECODED,
    ),
    **_each('ATSSHead ATSSVLFusionHead GFLHead LDHead', LOGITS, _DECODED),
    **_each('DDODHead', LOGITS_OF_WEIGHTED_LEVELS, _DECODED),
    **_each('VFNetHead', LOGITS, _DECODED, loss_bbox_refine=_DECODED),
    **_each(
        'RepPointsHead',
        LOGITS,
        loss_bbox_init=OFFSETS,
        loss_bbox_refine=OFFSETS,
    ),
    **_each(
        'SOLOHead DecoupledSOLOHead DecoupledSOLOLightHead SOLOV2Head MaskFormerHead '
        'Mask2FormerHead Mask2FormerTrackHead',
        LOGITS,
    ),
    **_each(
        'DIIHead DETRHead ConditionalDETRHead DABDETRHead DeformableDETRHead',
        LOGITS,
        _IMAGE_BOXES,
    ),
    **_each('DINOHead DDQDETRHead GroundingDINOHead', LOGITS_OF_DENOISING, _IMAGE_BOXES),
    **_each(
        'RTMDetHead RTMDetSepBNHead RTMDetInsHead RTMDetInsSepBNHead',
        LOGITS_DIVIDED_LATER,
        _DECODED,
    ),
    **_each(
        'YOLOXHead',
        LOGITS_OF_POSITIVES,
        _DECODED,
        loss_obj=LOGITS_DIVIDED_LATER,
        loss_l1=OFFSETS_DIVIDED_LATER,
    ),
    **_each('YOLOV3Head', LOGITS_SUMMED, loss_conf=LOGITS_SUMMED),
    **_each('TOODHead', _PROBABILITIES, _DECODED, initial_loss_cls=_PROBABILITIES),
    **_each('PAAHead LADHead PISARetinaHead', _RANKS, _RANKS),
    **_each(
        'FSAFHead',
        "takes each example's loss to choose its level, and sums those it chose: GHM's 1/N would "
        'be lost',
        _DECODED,
    ),
    **_each(
        'YOLACTHead',
        'mines hard examples by their loss; GHM weighs them instead: not both',
        'calls it once per image: the sum of means would grow with the batch size',
    ),
    **_each('MultiInstanceBBoxHead', _PAIRS, _PAIRS),
    **_each('FreeAnchorRetinaHead', _NOT_CALLED, 'takes exp(-loss) of each box as its likelihood'),
    **_each('AutoAssignHead', _NOT_CALLED, _DECODED),
    **_each('CenterNetUpdateHead', _HEATMAP, _DECODED),
    **_each(
        'CenterNetHead',
        loss_wh='regresses sizes in pixels of the feature map, not encoded offsets',
        loss_offset='corrects the rounding of centers, does not regress boxes',
    ),
    **_each('QuasiDenseTrackHead', loss_bbox=_NOT_CALLED),
    **_each('LinearReIDHead', 'identifies persons, does not detect'),
    # MMRotate's, but for RotatedShared2FCBBoxHead, which is above.
    **_each(
        'RotatedRetinaHead AngleBranchRetinaHead R3Head R3RefineHead S2AHead S2ARefineHead',
        LOGITS,
        OFFSETS,
    ),
    **_each('RotatedFCOSHead H2RBoxHead H2RBoxV2Head', LOGITS, _DECODED),
    **_each('RotatedATSSHead', LOGITS, _DECODED),
    **_each('RotatedRTMDetHead RotatedRTMDetSepBNHead', LOGITS_DIVIDED_LATER, _DECODED),
    **_each('RotatedRepPointsHead SAMRepPointsHead', LOGITS),
    **_each('CFAHead OrientedRepPointsHead', _RANKS),
    **_each(
        'GVBBoxHead',
        LOGITS_OF_ROIS,
        'calls it for offsets, vertices and ratios in turn: the three would share a moving average',
        loss_fix=_NOT_CALLED,
        loss_ratio=_NOT_CALLED,
    ),
}

#: Heads that hand IoU targets to a loss only if it is a QualityFocalLoss.
QUALITY_HEADS = (
    'DETRHead', 'ConditionalDETRHead', 'DABDETRHead', 'DeformableDETRHead', 'DINOHead',
    'DDQDETRHead', 'GroundingDINOHead',
)  # fmt: skip
TESTS_FOR_QUALITY = 'this head gives IoU targets to a QualityFocalLoss alone: GHM-C would lose them'

#: The head that takes its losses from the config, for one that computes them by itself.
HEADS_WITH_LOSSES = dict(SSDHead='ghm_mmdet.GHMSSDHead')

#: Why the losses that a head computes by itself stay.
HEADS_WITHOUT_LOSSES = dict(
    PISASSDHead='computes its losses by itself, and ranks its anchors by them',
    CLRHead='computes its losses by itself, of lanes, not of boxes',
)

#: The head that computes the density over all levels, where there is one.
BATCH_DENSITY_HEADS = dict(RetinaHead='ghm_mmdet.GHMRetinaHead')

#: Why a loss of this key is kept, whatever the head.
KEYS: dict[str, str] = {
    **dict.fromkeys(('loss_mask', 'loss_dice', 'loss_segm', 'loss_point'), _MASK),
    'loss_seg': 'a semantic segmentation loss: its examples are pixels; GHM is defined for boxes',
    'loss_grid': 'a heat map of grid points',
    'loss_centerness': 'a quality branch, on the positives alone',
    'loss_iou': 'an IoU loss or a quality branch, on the positives alone',
    'loss_shape': 'an IoU loss of anchor shapes',
    'loss_loc': 'weighs its negatives by 0.1; GHM-C takes a weight as valid or not',
    'loss_dfl': 'a distribution over the bins of an offset',
    'loss_ld': 'distils a teacher',
    'loss_bbox_cls': 'classifies the side of a box into buckets, not objects',
    **dict.fromkeys(('loss_heatmap', 'loss_center_heatmap'), _HEATMAP),
    'loss_embedding': 'pulls and pushes embeddings',
    'loss_offset': 'corrects the rounding of corners, does not regress boxes',
    **dict.fromkeys(
        ('loss_guiding_shift', 'loss_centripetal_shift'),
        'regresses shifts of corners in pixels, not encoded offsets',
    ),
    'loss_xy': 'cross entropy of a position',
    'loss_wh': 'a squared error of sizes',
    **dict.fromkeys(('loss_track', 'loss_track_aux'), 'a loss of embeddings, for tracking'),
    'loss_triplet': 'a loss of embeddings, for re-identification',
    'loss_angle': 'of the code of an angle, not of encoded offsets',
    **dict.fromkeys(('loss_bbox_ss', 'loss_symmetry_ss'), _SEVERAL_VIEWS),
}

#: What becomes of a setting of a loss that is replaced; any other is the reason to keep the loss.
CARRIED = 'carried over'
MEANINGLESS = 'without meaning for GHM'
_EVERY_LOSS = dict(
    type=CARRIED, _scope_=CARRIED, use_sigmoid=CARRIED, loss_weight=CARRIED, reduction=MEANINGLESS
)
_FOCUS = dict(
    _EVERY_LOSS, alpha=CARRIED, beta=MEANINGLESS, gamma=MEANINGLESS,
    activated='activated=True: it takes probabilities, GHM-C takes logits',
)  # fmt: skip
_SMOOTH = dict(_EVERY_LOSS, alpha=MEANINGLESS, beta=MEANINGLESS, gamma=MEANINGLESS)

#: The arguments of each loss that GHM can replace, and what becomes of them.
ARGUMENTS: dict[str, dict[str, str]] = {
    'CrossEntropyLoss': dict(
        _EVERY_LOSS, class_weight=CARRIED, bg_cls_weight=CARRIED, ignore_index=CARRIED,
        avg_non_ignore=MEANINGLESS, use_mask=_MASK,
    ),
    'FocalLoss': _FOCUS,
    'QualityFocalLoss': _FOCUS,
    'VarifocalLoss': dict(_FOCUS, alpha=MEANINGLESS, iou_weighted=MEANINGLESS),
    'OHEMLoss': dict(_EVERY_LOSS, neg_pos_ratio=MEANINGLESS),
    **dict.fromkeys(('L1Loss', 'SmoothL1Loss', 'BalancedL1Loss'), _SMOOTH),
}  # fmt: skip

#: What the softmax form of GHM-C takes of a cross entropy, and the sigmoid form does not.
OF_SOFTMAX = ('class_weight', 'bg_cls_weight', 'ignore_index')

_KEYS_OF_TRAIN_CFG = (
    'allowed_border assigner center_ratio debug dynamic_rcnn fam_cfg ga_assigner ga_sampler '
    'ignore_ratio importance_sample_ratio init initial_assigner initial_epoch mask_size '
    'mask_thr_binary max_num_grid neg_pos_ratio num num_points odm_cfg oversample_ratio '
    'pos_radius rcnn refine reg_assigner rpn rpn_proposal sampler smoothl1_beta '
    'stage_loss_weights'
)
_ARGUMENTS_OF_HEADS = (
    '_scope_ act_cfg adapt_cfg agnostic_resize_classes anchor_coder anchor_generator angle_coder '
    'angle_version approx_anchor_generator as_two_stage assign_by_circumhbbox aux_num_pos '
    'base_edge_list bbox_coder bbox_norm_type bridged_feature center_init center_sample_radius '
    'center_sampling centerness_on_reg cls_down_index cls_in_channels cls_out_channels '
    'cls_predictor_cfg contrastive_cfg conv_bias conv_cfg conv_out_channels crop_size '
    'dcn_apply_to_all_conv dcn_cfg dcn_on_last_conv deform_groups dropout dyconv_channels '
    'dynamic_conv_cfg dynamic_conv_size early_fuse embed_dims enforce_decoder_input_project '
    'exp_on_reg fc_out_channels feat_channels featmap_strides feedforward_channels ffn_act_cfg '
    'fix_coder fix_predictor_cfg frm_cfg gradient_mul h_bbox_coder in_channels init_cfg '
    'lang_model_name loc_filter_thr loss_bbox_type mask_feature_head mask_loss_stride moment_mul '
    'norm_cfg norm_on_bbox num_classes num_cls_convs num_cls_fcs num_convs num_dyconvs '
    'num_dyhead_blocks num_fcs num_ffn_fcs num_frames num_grids num_heads num_ins num_params '
    'num_points num_pred_layer num_prototypes num_queries num_reg_convs num_reg_fcs '
    'num_shared_convs num_shared_fcs num_stuff_classes num_things_classes '
    'num_transformer_feat_level one_hot_smoother out_channels pixel_decoder point_base_scale '
    'point_feat_channels point_strides pos_scale positional_encoding pred_kernel_size '
    'predict_box_type ratio_coder ratio_predictor_cfg ratio_thr reg_class_agnostic '
    'reg_cls_out_channels reg_decoded_bbox reg_feat_up_ratio reg_in_channels reg_max '
    'reg_offset_out_channels reg_post_kernel reg_post_num reg_pre_kernel reg_pre_num '
    'reg_predictor_cfg regress_ranges roi_feat_size rotation_agnostic_classes sampling '
    'scale_angle scale_ranges share_conv share_pred_layer shield_reg_angle sigma '
    'square_anchor_generator square_classes stacked_convs strides sync_cls_avg_factor '
    'sync_num_pos test_cfg train_cfg transform_method transformer_decoder type use_atss '
    'use_checkpoint use_circumiou_loss use_dcn use_depthwise use_encoded_angle use_grid_points '
    'use_hbbox_loss use_normalized_angle_feat use_reweighted_loss_bbox use_standalone_angle '
    'use_vfl weak_supervised with_avg_pool with_cls with_deform with_objectness with_reg'
)
#: Keys of `train_cfg` that are no factor of the losses replaced; any other is a reason to keep
#: the loss. Those of 'rpn' and of 'rcnn' are looked at for their heads.
TRAIN_CFG = _KEYS_OF_TRAIN_CFG.split()
#: The keys of it that hold the same again for a stage, or a list for several.
STAGES = ('init', 'refine', 'fam_cfg', 'odm_cfg')

#: Arguments of heads that are no factor of the losses replaced, nor losses; any other is a reason
#: to keep the loss. `plan` looks at `reg_decoded_bbox`.
ARGUMENTS_OF_HEADS = _ARGUMENTS_OF_HEADS.split()

#: The packages whose heads are in the tables.
PACKAGES = ('mmdet', 'mmrotate', 'ghm_mmdet')

#: Classification losses that GHM-C can replace; the value is the `use_sigmoid` of a
#: config that does not set it.
CLASSIFICATION_LOSSES: dict[str, bool] = {
    'CrossEntropyLoss': False,
    **dict.fromkeys(('FocalLoss', 'QualityFocalLoss', 'VarifocalLoss', 'OHEMLoss'), True),
}

#: Regression losses that GHM-R can replace.
REGRESSION_LOSSES = ('L1Loss', 'SmoothL1Loss', 'BalancedL1Loss')

#: Why a loss of this type is kept, whatever the head.
LOSSES: dict[str, str] = {
    'GaussianFocalLoss': _HEATMAP,
    'SeesawLoss': 'weighs classes by their frequency by itself',
    'FocalCustomLoss': 'has its own channels, activation and accuracy',
    'CrossEntropyCustomLoss': 'has its own channels, activation and accuracy',
    **dict.fromkeys(
        ('GDLoss', 'GDLoss_v1', 'KFLoss'),
        'compares boxes as Gaussians: no density of gradient norms is defined for it',
    ),
    'SpatialBorderLoss': 'penalizes points outside of the box, does not regress boxes',
}

#: Why no loss of a detector is replaced.
DETECTORS: dict[str, str] = {
    'SoftTeacher': "weighs pseudo labels by the teacher's scores; GHM takes a weight as valid "
    'or not',
    'SemiBaseDetector': 'may weigh pseudo labels; GHM takes a weight as valid or not',
    **dict.fromkeys(('DeepSORT', 'StrongSORT', 'OCSORT'), _TRACKER),
}

#: Why the losses of a box head under this RoI head are kept.
ROI_HEADS: dict[str, dict[str, str]] = {
    'DynamicRoIHead': dict(loss_bbox='this RoI head sets the β of a SmoothL1Loss as it trains'),
    'PISARoIHead': dict(loss_cls=_RANKS, loss_bbox=_RANKS),
}

#: What `GHMSSDHead` changes of a softmax cross entropy that is not replaced.
MINED_FROM_THE_BATCH = 'hard negatives are mined from the mini-batch, not from each image'

#: Optimizer wrappers that take `clip_grad`; None is MMEngine's default.
CLIPPING_WRAPPERS = (None, 'OptimWrapper', 'AmpOptimWrapper', 'ApexOptimWrapper')

#: Samplers that choose RoIs by the classification loss of each.
RANKING_SAMPLERS = ('OHEMSampler', 'ScoreHLRSampler')
