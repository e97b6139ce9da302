"""Checkpoints whose parts are not what train.py writes are told from whole ones."""

import copy

import pytest
import torch

from cli.damage import find_damaged_metric, find_damaged_part

PROGRESS = {"total": {"ready": 3, "completed": 3}, "current": {"ready": 0, "completed": 0}, "is_last_batch": False}
WHOLE = {
    "global_step": 3,
    "epoch": 1,
    "pytorch-lightning_version": "2.6.6",
    "state_dict": {"weight": torch.zeros(2)},
    "loops": {
        "fit_loop": {
            "state_dict": {"combined_loader": [{"epoch": 0, "position": 3}]},
            "epoch_loop.batch_progress": PROGRESS,
        },
        "validate_loop": {"state_dict": {}, "batch_progress": PROGRESS},
    },
    "callbacks": {
        "Checkpoint": {"best_k_models": {"/runs/vae/v/checkpoints/best.ckpt": torch.tensor(1.0)}, 3: (1, None)}
    },
    "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"params": [0], "lr": 0.1}]}],
    "lr_schedulers": [],
}


def test_a_whole_checkpoint_has_no_damaged_part():
    assert find_damaged_part(WHOLE) is None
    assert find_damaged_part({"global_step": 0, "state_dict": {}}) is None
    other = copy.deepcopy(WHOLE)
    other["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [{"anything": "of a user's loader"}]
    assert find_damaged_part(other) is None


OPTIMIZER = {"state": {0: 3}, "param_groups": []}
DAMAGED = {
    "global_step": [True, -1, 1.0, "3", None, torch.tensor(3), float("nan"), 2**70, [3]],
    "epoch": [True, -1, "x"],
    "pytorch-lightning_version": ["", "x", None, [], {}],
    "state_dict": [None, [], "x", {"weight": 3}, {3: torch.zeros(2)}, {"weight": [torch.zeros(2)]}],
    "loops": [None, [], {}, {"fit_loop": 3}, {"fit_loop": {"state_dict": []}}],
    "callbacks": [
        None,
        [],
        {3: {}},
        {"Checkpoint": {"best_k_models": {"/runs/vae/v/checkpoints/../../../../important": 1}}},
        {"Checkpoint": {"kth_best_model_path": "s3://bucket/important"}},
        {"Checkpoint": {"kth_best_model_path": ["simplecache::/important"]}},
    ],
    "optimizer_states": [None, {}, [], [3], [{}], [{"state": [], "param_groups": []}], [OPTIMIZER]],
    "lr_schedulers": [None, {}],
    "hyper_parameters": [None, [], {3: 4}],
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_part_of_another_kind_is_named(name):
    for value in DAMAGED[name]:
        assert find_damaged_part(WHOLE | {name: value}) == name, value


@pytest.mark.parametrize("value", ["3", -1, 1.5, None, [None], torch.tensor(1)])
def test_a_count_of_a_loop_that_is_no_count_is_damage(value):
    other = copy.deepcopy(WHOLE)
    other["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] = value
    assert find_damaged_part(other) == "loops"
    other = copy.deepcopy(WHOLE)
    other["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["position"] = value
    assert find_damaged_part(other) == "loops"


ROW = {"value": 1.0, "error": None, "n": 10, "floor": 0.1, "better": "lower"}
TEST = {"metrics": {"fid/mnist_cnn": ROW}, "iteration": 3, "data": "ab", "extractor": {"name": "a", "sha256": "b"}}
METRICS = {"fit": {"iteration": 3, "val/fid": float("nan")}, "test": TEST, "earlier_tests": [TEST], "validate": {}}


def test_whole_metrics_have_no_damage():
    for metrics in (
        {},
        METRICS,
        {"diverged": {"iteration": 3, "reason": "a loss is nan"}},
        {"test": {"test/loss": 1.0}},
    ):
        assert find_damaged_metric(metrics) is None


@pytest.mark.parametrize(
    ("metrics", "place"),
    [
        ([], "the whole file"),
        (None, "the whole file"),
        (3, "the whole file"),
        ({"fit": []}, "`fit`"),
        ({"fit": {"val/fid": "x"}}, "`fit`"),
        ({"fit": {"val/fid": True}}, "`fit`"),
        ({"fit": {"val/fid": 10**400}}, "`fit`"),
        ({"validate": None}, "`validate`"),
        ({"diverged": 3}, "`diverged`"),
        ({"earlier_tests": {}}, "`earlier_tests`"),
        ({"earlier_tests": [TEST, 3]}, "`earlier_tests`"),
        ({"test": []}, "`test`"),
        ({"test": TEST | {"iteration": "3"}}, "`test.iteration`"),
        ({"test": {"metrics": {}}}, "`test.iteration`"),
        ({"test": TEST | {"extractor": "x"}}, "`test.extractor`"),
        ({"test": TEST | {"extractor": {"name": "x"}}}, "`test.extractor`"),
        ({"test": TEST | {"data": 3}}, "`test.data`"),
        ({"test": TEST | {"likelihood": "\x1b[2J"}}, "`test.likelihood`"),
        ({"test": TEST | {"metrics": [ROW]}}, "`test.metrics`"),
        ({"test": TEST | {"metrics": {"fid": ROW | {"n": 1.5}}}}, "`test.metrics.fid`"),
        ({"test": TEST | {"metrics": {"fid": ROW | {"n": None}}}}, "`test.metrics.fid`"),
        ({"test": TEST | {"metrics": {"fid": ROW | {"better": "x"}}}}, "`test.metrics.fid`"),
        ({"test": TEST | {"metrics": {"fid": ROW | {"other": 1}}}}, "`test.metrics.fid`"),
        ({"test": TEST | {"metrics": {"fid": {"value": 1.0}}}}, "`test.metrics.fid`"),
    ],
)
def test_the_place_of_damage_in_metrics_is_named(metrics, place):
    assert find_damaged_metric(metrics) == place
