"""The build itself: what was compiled, for what, and whether the suite checks all of it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING

import mmcv
import mmcv._ext
import pytest
from checks import checks_assertions
from mmcv import ops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Facts

# Every function of mmcv._ext that works on the CPU, with the kernels that it dispatches to there; those without call
# their CPU code directly. What a newer release adds fails the suite until it is listed and tested.
ON_CPU = {
    "active_rotated_filter_backward": {"active_rotated_filter_backward_impl"},
    "active_rotated_filter_forward": {"active_rotated_filter_forward_impl"},
    "bbox_overlaps": {"bbox_overlaps_impl"},
    "bezier_align_backward": {"bezier_align_backward_impl"},
    "bezier_align_forward": {"bezier_align_forward_impl"},
    "box_iou_quadri": {"box_iou_quadri_impl"},
    "box_iou_rotated": {"box_iou_rotated_impl"},
    "contour_expand": set(),
    "deform_conv_backward_input": {"deformable_col2im_coord_impl", "deformable_col2im_impl"},
    "deform_conv_backward_parameters": {"deformable_im2col_impl"},
    "deform_conv_forward": {"deformable_im2col_impl"},
    "dynamic_voxelize_forward": {"dynamic_voxelize_forward_impl"},
    "get_compiler_version": set(),
    "get_compiling_cuda_version": set(),
    "hard_voxelize_forward": {"hard_voxelize_forward_impl"},
    "modulated_deform_conv_backward": {
        "modulated_deformable_col2im_coord_impl",
        "modulated_deformable_col2im_impl",
        "modulated_deformable_im2col_impl",
    },
    "modulated_deform_conv_forward": {"modulated_deformable_im2col_impl"},
    "nms": {"nms_impl"},
    "nms_match": {"nms_match_impl"},
    "nms_quadri": set(),
    "nms_rotated": set(),
    "pixel_group": {"pixel_group_impl"},
    "points_in_boxes_cpu_forward": set(),
    "psamask_backward": {"psamask_backward_impl"},
    "psamask_forward": {"psamask_forward_impl"},
    "roi_align_backward": {"roi_align_backward_impl"},
    "roi_align_forward": {"roi_align_forward_impl"},
    "roi_align_rotated_backward": {"roi_align_rotated_backward_impl"},
    "roi_align_rotated_forward": {"roi_align_rotated_forward_impl"},
    "rotated_feature_align_backward": {"rotated_feature_align_backward_impl"},
    "rotated_feature_align_forward": {"rotated_feature_align_forward_impl"},
    "softnms": {"softnms_impl"},
}

# The rest, which works on an accelerator alone.
ON_GPU_ONLY = frozenset(
    {
        "assign_score_withk_backward",
        "assign_score_withk_forward",
        "ball_query_forward",
        "bias_act",
        "border_align_backward",
        "border_align_forward",
        "carafe_backward",
        "carafe_forward",
        "carafe_naive_backward",
        "carafe_naive_forward",
        "chamfer_distance_backward",
        "chamfer_distance_forward",
        "convex_giou",
        "convex_iou",
        "correlation_backward",
        "correlation_forward",
        "deform_roi_pool_backward",
        "deform_roi_pool_forward",
        "diff_iou_rotated_sort_vertices_forward",
        "dynamic_point_to_voxel_backward",
        "dynamic_point_to_voxel_forward",
        "filtered_lrelu",
        "filtered_lrelu_act_",
        "furthest_point_sampling_forward",
        "furthest_point_sampling_with_dist_forward",
        "fused_bias_leakyrelu",
        "fused_indice_conv_forward",
        "gather_points_backward",
        "gather_points_forward",
        "get_indice_pairs_2d_backward",
        "get_indice_pairs_2d_forward",
        "get_indice_pairs_3d_backward",
        "get_indice_pairs_3d_forward",
        "get_indice_pairs_4d_forward",
        "group_points_backward",
        "group_points_forward",
        "indice_conv_backward",
        "indice_conv_forward",
        "indice_maxpool_backward",
        "indice_maxpool_forward",
        "iou3d_boxes_overlap_bev_forward",
        "iou3d_nms3d_forward",
        "iou3d_nms3d_normal_forward",
        "knn_forward",
        "masked_col2im_forward",
        "masked_im2col_forward",
        "min_area_polygons",
        "ms_deform_attn_backward",
        "ms_deform_attn_forward",
        "points_in_boxes_all_forward",
        "points_in_boxes_part_forward",
        "points_in_polygons_forward",
        "prroi_pool_backward",
        "prroi_pool_coor_backward",
        "prroi_pool_forward",
        "riroi_align_rotated_backward",
        "riroi_align_rotated_forward",
        "roi_pool_backward",
        "roi_pool_forward",
        "roiaware_pool3d_backward",
        "roiaware_pool3d_forward",
        "roipoint_pool3d_forward",
        "sigmoid_focal_loss_backward",
        "sigmoid_focal_loss_forward",
        "softmax_focal_loss_backward",
        "softmax_focal_loss_forward",
        "stack_ball_query_forward",
        "stack_group_points_backward",
        "stack_group_points_forward",
        "sync_bn_backward_data",
        "sync_bn_backward_param",
        "sync_bn_forward_mean",
        "sync_bn_forward_output",
        "sync_bn_forward_var",
        "three_interpolate_backward",
        "three_interpolate_forward",
        "three_nn_forward",
        "tin_shift_backward",
        "tin_shift_forward",
        "upfirdn2d",
    }
)

PACKAGE = Path(mmcv.__file__).parent


def exported() -> set[str]:
    """The functions of the extension."""
    return {name for name in dir(mmcv._ext) if not name.startswith("__")}  # noqa: SLF001  # the thing under test


def calls(path: Path, function: str) -> Iterator[ast.Call]:
    """Every call in a file of a function or method of that name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == function:
            yield node


def test_version(facts: Facts) -> None:
    """The package, its metadata and the layers below are those of the stack."""
    assert mmcv.__version__ == facts.version
    for name in ("torch", "mmengine", "mmcv"):
        assert importlib.metadata.version(name).split("+")[0] == facts.layers[name]


@pytest.mark.kernels("get_compiler_version", "get_compiling_cuda_version")
def test_toolchain(facts: Facts) -> None:
    """The extension names its compiler, and the CUDA version of the stack or none."""
    assert re.fullmatch(r"(GCC|clang|MSVC) \d+[\d.]*", ops.get_compiler_version())
    assert ops.get_compiling_cuda_version() == ("not available" if facts.cuda == "cpu" else facts.cuda)


def test_release_build() -> None:
    """The kernels are compiled without assertions: one of upstream's (in pixel_group) fails on every valid input.

    Compilers are told so by Python's own flags, which a CFLAGS variable replaces.
    """
    assert not checks_assertions()


def test_every_function_asked_for_is_there() -> None:
    """The extension exports whatever the Python side loads from it."""
    wanted = {
        name
        for path in (PACKAGE / "ops").glob("*.py")
        for call in calls(path, "load_ext")
        for name in ast.literal_eval(call.args[1])
    }
    assert len(wanted) > 100
    assert wanted <= exported()


def test_every_function_is_known() -> None:
    """The suite knows of each exported function whether it works on the CPU."""
    assert exported() == ON_CPU.keys() | ON_GPU_ONLY


def test_every_cpu_kernel_is_known() -> None:
    """The CPU kernels that the sources in the package register are those listed here."""
    sources = [path.read_text(encoding="utf-8") for path in (PACKAGE / "ops" / "csrc" / "pytorch").rglob("*.cpp")]
    registered = {name for text in sources for name in re.findall(r"REGISTER_DEVICE_IMPL\(\s*(\w+),\s*CPU\b", text)}
    assert registered == set().union(*ON_CPU.values())


def test_every_cpu_function_is_tested() -> None:
    """Each function that works on the CPU is claimed by a test of this suite."""
    suite = Path(__file__).parent.glob("test_*.py")
    tested = {ast.literal_eval(name) for path in suite for call in calls(path, "kernels") for name in call.args}
    assert tested == ON_CPU.keys()
