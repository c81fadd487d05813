"""A harmonized config is a training of its own: places, names and ids of runs, clipping, record."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import mmdet.registry
import mmengine.registry
import pytest
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.runner import Runner

import ghm_mmdet.registry
from ghm_mmdet import harmonize, losses_found
from ghm_mmdet.cli import main
from ghm_mmdet.swap import rules
from ghm_mmdet.swap.new_run import renamed

from .test_harmonize_lists import config, faster, parameters, retina

#: The registries whose classes the harmonized config's training builds beside the model and data.
REGISTRIES = ('HOOKS', 'VISBACKENDS', 'VISUALIZERS', 'EVALUATOR', 'METRICS', 'LOG_PROCESSORS',
              'LOOPS', 'RUNNERS', 'STRATEGIES', 'OPTIM_WRAPPERS')  # fmt: skip
#: Arguments of their classes that name no place and no run: what a training does is in them.
NO_PLACE = """
accumulative_counts activation_checkpointing activity_with_cpu activity_with_cuda after_epoch
after_iter aio alpha amp artifact_suffix auto_scale_lr bbox_color begin begin_epoch begin_iter
before_epoch benchmark beta bf16 booster by_epoch cast_model_outputs cast_model_type cfg
check_finite classwise clip_grad collect_device commit compare_matching_method compile config
custom_cfg custom_hooks data_preprocessor dataloader dataset_prefixes default_hooks default_scope
define_metric_cfg draw draw_gt draw_pred dtype dump_matches dynamic_intervals ema_type enabled end
env_cfg env_kwargs eval_mode evaluator exclude_frozen_parameters exit_after_profiling
fast_forward_on_resume fig_save_cfg fig_show_cfg filename_tmpl filter_labels format_only fp16
frame_interval ge_profiling_to_std_out get_supercategory gradient_accumulation_steps
gradient_clipping greater_keys ignore_last image init_kwargs inputs_to_half interval
interval_exp_name ioa_thrs iou_metrics iou_thr iou_thres iou_thresholds iou_thrs iters
keep_batchnorm_fp32 keep_local launcher less_keys line_width load_from log_code_name log_kwargs
log_level log_metric_by_epoch log_processor log_with_hierarchy loss_bbox loss_cls loss_scale
mask_color master_weights max_epochs max_iters max_keep_ckpts max_loss_scale mean_pattern
merge_boxes metric metric_items metric_options metrics min_delta min_loss_scale mixed_precision mode
model model_wrapper momentum monitor mr_ref mu nms_thr nproc num_digits num_ji_process
num_last_epochs num_losses num_max_proposals on_trace_ready opt_level optim_wrapper optimizer
param_scheduler params patch_torch_functions patience plugin postprocess_tracklet_cfg prefix
profile_memory profile_times proposal_nums published_keys randomness record_shapes resume
rule runner save_begin save_best save_last save_optimizer save_param_scheduler scale_ranges schedule
score_thr show skip_buffer skip_init_weights skip_type_keys sort_categories state_dict_cfg
steps_per_print stopping_threshold strategy strict strict_load switch_epoch switch_pipeline sync_bn
tags test_cfg test_dataloader test_evaluator text_color thresh_f1 thresh_score topk track_iou_thr
tracked_config_keys train_cfg train_dataloader train_micro_batch_size_per_gpu tta_cfg
use_e2e_profiler use_fsdp use_group_of use_mp_eval use_postprocess val_begin val_cfg val_dataloader
val_evaluator val_interval verbose verbosity vis_backends visualizer wait_time watch_kwargs
window_size with_flops with_stack zero_optimization bins
"""
#: Files that are read, and names that are no run's.
READ = """
ann_file benchmark img_prefix name occluded_ann out_suffix rfstructure_file seg_prefix
separated_ann
"""


@pytest.fixture(scope='module', autouse=True)
def registered() -> None:
    register_all_modules(init_default_scope=False)


def test_every_argument_that_names_a_place_or_a_run_is_on_a_list() -> None:
    """Of every class that a config of a training names beside the model and the data."""
    in_table = {name for names in rules.NEW_RUN.values() for name in names}
    known = {*NO_PLACE.split(), *READ.split(), *in_table}
    unknown, there = {}, set()
    for name in REGISTRIES:
        for module in (mmengine.registry, mmdet.registry, ghm_mmdet.registry):
            registry = getattr(module, name, None)
            if registry is not None:
                registry.import_from_location()
                for kind in filter(inspect.isclass, registry.module_dict.values()):
                    there |= parameters(kind)
                    unknown[kind.__name__] = parameters(kind) - known
    assert {kind: names for kind, names in unknown.items() if names} == {}
    assert in_table - there == {'dir_name'}, "an argument of ProfilerHook's on_trace_ready"
    assert {'LocalVisBackend', 'CheckpointHook', 'CocoMetric', 'Runner'} <= unknown.keys()


BACKEND = 'visualizer.vis_backends.0'
#: Where each argument of the tables stands in a config.
WHERE = {
    'work_dir': 'work_dir', 'experiment_name': 'experiment_name',
    'json_trace_path': 'custom_hooks.0.json_trace_path',
    'result_path': 'custom_hooks.0.result_path',
    'dir_name': 'custom_hooks.0.on_trace_ready.dir_name',
    'out_dir': 'default_hooks.checkpoint.out_dir',
    'test_out_dir': 'default_hooks.visualization.test_out_dir',
    **{name: f'val_evaluator.1.{name}' for name in (
        'collect_dir', 'out_file_path', 'outfile_path', 'outfile_prefix', 'output_dir',
        'proposals_file')},
}  # fmt: skip


def with_value(where: str, value: Any) -> Config:
    """A config with a value at a dotted place."""
    *parents, last = where.split('.')
    node: Any = {last: value}
    for key in reversed(parents):
        node = [dict(type='Other')] * int(key) + [node] if key.isdigit() else {key: node}
    return config(**node)


def value_at(cfg: Any, where: str) -> Any:
    for key in where.split('.'):
        cfg = cfg[int(key)] if key.isdigit() else cfg[key]
    return cfg


@pytest.mark.parametrize('name', [n for names in rules.NEW_RUN.values() for n in names])
@pytest.mark.parametrize('value', ['here', '/there/x.pkl'])
def test_a_place_of_the_original_is_not_that_of_the_new_training(name: str, value: str) -> None:
    where = WHERE.get(name, f'{BACKEND}.{name}')
    cfg = with_value(where, value)
    moved = dict(here='here_ghm').get(value, '/there/x_ghm.pkl')
    fate = next(fate for fate, names in rules.NEW_RUN.items() if name in names)
    is_moved = fate == 'renamed' or (fate == 'renamed if absolute' and value != 'here')
    assert value_at(harmonize(cfg), where) == (moved if is_moved else value)
    said = f'{where}: {value!r} of the original becomes {moved!r}: a new training'
    assert (said in losses_found(cfg).notes) == is_moved
    assert value_at(cfg, where) == value, 'the original is not changed'


@pytest.mark.parametrize('name', [n for names in rules.NEW_RUN_OF_TRACKERS.values() for n in names])
def test_a_run_of_a_tracker_is_not_gone_on_with(name: str) -> None:
    where = f'{BACKEND}.init_kwargs.{name}'
    [fate] = [fate for fate, names in rules.NEW_RUN_OF_TRACKERS.items() if name in names]
    expected = dict(renamed='x_ghm', none=None, kept='x')[fate]
    assert value_at(harmonize(with_value(where, 'x')), where) == expected


def test_what_is_not_a_name_stays() -> None:
    """`name` is that of a visualizer, `resume` a key of trackers, `None` and '' name nothing."""
    visualizer = dict(type='DetLocalVisualizer', name='visualizer', save_dir=None)
    evaluator = dict(type='CocoMetric', outfile_prefix='', format_only=False)
    hooks = dict(logger=dict(type='LoggerHook', interval=50), resume=dict(type='Mine'))
    parts = dict(visualizer=visualizer, val_evaluator=evaluator, default_hooks=hooks)
    new = harmonize(config(**copy.deepcopy(parts)))
    assert {key: new[key] for key in parts} == parts


@pytest.mark.parametrize(
    ('place', 'moved'),
    [
        ('work_dirs/mine', 'work_dirs/mine_b'),
        ('work_dirs/mine/', 'work_dirs/mine_b'),
        ('work_dirs/v1.5', 'work_dirs/v1.5_b'),
        ('s3://bucket/mine.json', 's3://bucket/mine_b.json'),
        ('./a.b/mine', './a.b/mine_b'),
    ],
)
def test_the_suffix_goes_before_the_extension(place: str, moved: str) -> None:
    assert renamed(place, 'b') == moved


def toy(folder: Path, **others: Any) -> Config:
    """A detector that builds in a moment, whose runner logs nothing."""
    model = dict(
        type='RetinaNet',
        backbone=dict(type='ResNet', depth=18, base_channels=8),
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
        bbox_head=retina(in_channels=8, feat_channels=8, stacked_convs=1),
    )
    cfg = dict(default_scope='mmdet', model=model, work_dir=str(folder / 'mine'), **others)
    return Config(dict(cfg, log_level='ERROR', optim_wrapper=None))


def test_a_runner_is_built_in_folders_of_its_own(tmp_path: Path) -> None:
    """MMEngine itself puts the name of the work folder below `out_dir`."""
    out_dir = str(tmp_path / 'store')
    hooks = dict(
        checkpoint=dict(type='CheckpointHook', out_dir=out_dir),
        logger=dict(type='LoggerHook', out_dir=out_dir),
    )
    save_dir = str(tmp_path / 'pictures')
    backends = [dict(type='LocalVisBackend', save_dir=save_dir)]
    visualizer = dict(type='DetLocalVisualizer', vis_backends=backends)
    original = toy(tmp_path, default_hooks=hooks, visualizer=visualizer, experiment_name='first')
    places = []
    for cfg in (original, harmonize(original)):
        runner = Runner.from_cfg(cfg)
        of_hooks = []
        for hook in runner.hooks:
            if isinstance(hook, (CheckpointHook, LoggerHook)):
                (hook.before_train if isinstance(hook, CheckpointHook) else hook.before_run)(runner)
                of_hooks.append(str(hook.out_dir))
        [backend] = runner.visualizer._vis_backends.values()
        name = runner.experiment_name.rpartition('_')[0].rpartition('_')[0]
        places.append([runner.work_dir, backend._save_dir, name, *of_hooks])
    first, second = places
    assert first[0] == str(tmp_path / 'mine') and len(first) == 5
    assert not {*first} & {*second}, 'no place of the one is a place of the other'


def test_the_new_names_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """So that two harmonized configs of one original are two trainings."""
    monkeypatch.chdir(tmp_path)
    base = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
    Path('mine.py').write_text(f"{base}work_dir = 'work_dirs/mine'\n", encoding='utf-8')
    for out, work_dir in (
        ('mine_ghm.py', 'work_dirs/mine_ghm'),
        ('mine-released.py', 'work_dirs/mine_released'),
        ('other.py', 'work_dirs/mine_other'),
        ('there/mine.py', 'work_dirs/mine_ghm'),
    ):
        main(['harmonize', 'mine.py', '--out', out])
        assert Config.fromfile(out).work_dir == work_dir
    Path('mine.py').write_text(base, encoding='utf-8')
    capsys.readouterr()
    for out, is_said in (('there/mine.py', True), ('mine_ghm.py', False)):
        main(['harmonize', 'mine.py', '--out', out, '--force'])
        said = 'MMDetection trains both configs in work_dirs/mine, unless --work-dir names another'
        assert (said in capsys.readouterr().out) == is_said


# The baseline: the config's own losses, the gradient clipped in most iterations.


def test_the_baseline_has_the_losses_of_the_original_and_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    text = """_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
work_dir = 'work_dirs/mine'
optim_wrapper = dict(clip_grad=dict(max_norm=35, error_if_nonfinite=True))
"""
    Path('mine.py').write_text(text, encoding='utf-8')
    outs = ['--out', 'mine_ghm.py', '--baseline', 'mine_clipped.py']
    main(['harmonize', 'mine.py', *outs, '--record'])
    said = capsys.readouterr().out
    assert 'written to mine_clipped.py\n' in said
    assert 'compare it with mine_clipped.py, not with mine.py alone' in said
    original, ghm, baseline = map(Config.fromfile, ('mine.py', 'mine_ghm.py', 'mine_clipped.py'))
    assert baseline.optim_wrapper.clip_grad == dict(max_norm=2, norm_type=2)
    assert baseline.model == original.model
    assert baseline.work_dir == 'work_dirs/mine_clipped' != ghm.work_dir
    assert baseline.custom_hooks == ghm.custom_hooks, 'both are recorded'
    changed = {key for key in baseline if baseline[key] != original.get(key)}
    assert changed == {'optim_wrapper', 'work_dir', 'custom_hooks'}
    with pytest.raises(SystemExit, match=r'mine_clipped\.py exists: --force overwrites it'):
        main(['harmonize', 'mine.py', '--baseline', 'mine_clipped.py'])


@pytest.mark.parametrize(
    ('wrapper', 'why'),
    [
        (
            'dict(clip_grad=dict(max_norm=0.1))',
            r'its own baseline: .* at norm 0\.1',
        ),
        ('dict(clip_grad=dict(max_norm=2))', 'its own baseline: .* at norm 2'),
        ("dict(type='DeepSpeedOptimWrapper')", 'can not be clipped: not set, for DeepSpeed'),
    ],
)
def test_no_baseline_where_there_can_be_none(wrapper: str, why: str, tmp_path: Path) -> None:
    base = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
    path = tmp_path / 'mine.py'
    path.write_text(f'{base}optim_wrapper = {wrapper}\n', encoding='utf-8')
    outs = ['--out', str(tmp_path / 'ghm.py'), '--baseline', str(tmp_path / 'b.py')]
    with pytest.raises(SystemExit, match=why):
        main(['harmonize', str(path), *outs])
    assert [x.name for x in tmp_path.iterdir()] == ['mine.py'], 'nothing is written'


def test_the_baseline_is_another_file_than_both_others(tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n", encoding='utf-8')
    out = str(tmp_path / 'ghm.py')
    for baseline, why in (
        (out, 'another file than --out'),
        (str(path), 'another file than the config'),
        (str(tmp_path / 'b.yaml'), r'--baseline must end with \.py'),
    ):
        with pytest.raises(SystemExit, match=why):
            main(['harmonize', str(path), '--out', out, '--baseline', baseline])
    assert [x.name for x in tmp_path.iterdir()] == ['mine.py']


@pytest.mark.parametrize('where', [['--dry-run'], ['--out', 'ghm.py']])
def test_every_harmonize_says_with_what_to_compare(
    where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    main(['harmonize', name, *where])
    lines = [x for x in ''.join(capfd.readouterr()).splitlines() if x.startswith('compare it')]
    assert lines == [
        f'compare it with its own losses clipped at norm 2 (--baseline FILE), not with {name} '
        f'alone: `ghm-mmdet compare {name}` trains all three'
    ]


# The record.


def test_the_record_is_of_the_first_logits_and_the_last_offsets() -> None:
    cfg = faster()
    cfg.custom_hooks = [dict(type='NumClassCheckHook')]
    hook = dict(
        type='ghm_mmdet.GradientDensityHook', loss_cls='rpn_head.loss_cls',
        loss_bbox='roi_head.bbox_head.loss_bbox',
    )  # fmt: skip
    for preset in (None, 'released'):
        new = harmonize(cfg, preset=preset, record=True)
        assert new.custom_hooks == [dict(type='NumClassCheckHook'), hook]
    assert harmonize(cfg, reg=False, record=True).custom_hooks[1].loss_bbox is None
    softmax = harmonize(cfg, preset='released', head='Shared2FC*', record=True)
    assert softmax.custom_hooks[1].loss_cls is None, 'of a softmax'
    assert harmonize(cfg).custom_hooks == cfg.custom_hooks
    of_softmax = dict(preset='released', head='Shared2FC*', reg=False)
    with pytest.raises(ValueError, match='record=True has no effect: no GHM-C of sigmoids'):
        harmonize(cfg, record=True, **of_softmax)


def test_a_config_with_ghm_can_be_recorded() -> None:
    ghm = harmonize(config(work_dir='a'))
    new = harmonize(ghm, record=True)
    assert new.custom_hooks[0].loss_cls == 'bbox_head.loss_cls'
    assert new.model == ghm.model and new.work_dir == 'a_ghm_ghm'
    for key in ('custom_hooks', 'default_hooks'):
        hook = dict(type='ghm_mmdet.GradientDensityHook')
        there = config(**{key: [hook] if key == 'custom_hooks' else dict(mine=hook)})
        assert harmonize(there, record=True).get(key) == there[key]
        assert 'record: the config has a GradientDensityHook' in str(
            losses_found(there, record=True)
        )


def test_the_recorded_config_trains_with_its_hook(tmp_path: Path) -> None:
    runner = Runner.from_cfg(harmonize(toy(tmp_path), record=True))
    [hook] = [hook for hook in runner.hooks if type(hook).__name__ == 'GradientDensityHook']
    for name in (hook.observed.loss_cls, hook.observed.loss_bbox):
        assert type(runner.model.get_submodule(name)).__name__.startswith('GHM')
