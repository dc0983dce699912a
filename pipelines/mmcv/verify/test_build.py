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

# The rest, which works on CUDA alone, with the checks that cover it. They are not run without a GPU; that each function
# has some is known everywhere.
ON_CUDA = {
    "assign_score_withk_backward": {"test_assign_score_withk"},
    "assign_score_withk_forward": {"test_assign_score_withk"},
    "ball_query_forward": {"test_ball_query"},
    "bias_act": {"test_bias_act", "test_bias_act_on_a_gpu", "test_bias_act_twice_differentiated"},
    "border_align_backward": {"test_border_align"},
    "border_align_forward": {"test_border_align"},
    "carafe_backward": {"test_carafe"},
    "carafe_forward": {"test_carafe"},
    "carafe_naive_backward": {"test_carafe"},
    "carafe_naive_forward": {"test_carafe"},
    "chamfer_distance_backward": {"test_chamfer_distance"},
    "chamfer_distance_forward": {"test_chamfer_distance"},
    "convex_giou": {"test_convex_giou"},
    "convex_iou": {"test_convex_iou"},
    "correlation_backward": {"test_correlation"},
    "correlation_forward": {"test_correlation"},
    "deform_roi_pool_backward": {"test_deform_roi_pool", "test_deform_roi_pool_without_offsets"},
    "deform_roi_pool_forward": {"test_deform_roi_pool", "test_deform_roi_pool_without_offsets"},
    "diff_iou_rotated_sort_vertices_forward": {
        "test_diff_iou_rotated_2d",
        "test_diff_iou_rotated_3d",
        "test_sort_vertices",
    },
    "dynamic_point_to_voxel_backward": {"test_dynamic_scatter"},
    "dynamic_point_to_voxel_forward": {"test_dynamic_scatter", "test_dynamic_scatter_of_nothing"},
    "filtered_lrelu": {"test_filtered_lrelu", "test_filtered_lrelu_on_a_gpu"},
    "filtered_lrelu_act_": {"test_filtered_lrelu_without_a_kernel"},
    "furthest_point_sampling_forward": {"test_furthest_point_sample"},
    "furthest_point_sampling_with_dist_forward": {"test_furthest_point_sample_with_dist"},
    "fused_bias_leakyrelu": {"test_fused_bias_leakyrelu", "test_fused_bias_leakyrelu_on_a_gpu"},
    "fused_indice_conv_forward": {"test_fused_convolution"},
    "gather_points_backward": {"test_gathering"},
    "gather_points_forward": {"test_gathering"},
    "get_indice_pairs_2d_backward": {"test_pairs_with_a_grid"},
    "get_indice_pairs_2d_forward": {
        "test_max_pooling",
        "test_pairs_with_a_grid",
        "test_sparse_convolution",
        "test_transposed_convolution",
    },
    "get_indice_pairs_3d_backward": {"test_pairs_with_a_grid"},
    "get_indice_pairs_3d_forward": {
        "test_fused_convolution",
        "test_inverse_convolution",
        "test_max_pooling",
        "test_pairs_with_a_grid",
        "test_sparse_convolution",
        "test_submanifold_convolution",
        "test_transposed_convolution",
    },
    "get_indice_pairs_4d_forward": {"test_sparse_convolution"},
    "group_points_backward": {"test_gathering"},
    "group_points_forward": {"test_gathering"},
    "indice_conv_backward": {
        "test_inverse_convolution",
        "test_sparse_convolution",
        "test_submanifold_convolution",
        "test_transposed_convolution",
    },
    "indice_conv_forward": {
        "test_inverse_convolution",
        "test_sparse_convolution",
        "test_submanifold_convolution",
        "test_transposed_convolution",
    },
    "indice_maxpool_backward": {"test_max_pooling"},
    "indice_maxpool_forward": {"test_max_pooling"},
    "iou3d_boxes_overlap_bev_forward": {"test_boxes_overlap_bev"},
    "iou3d_nms3d_forward": {"test_nms3d"},
    "iou3d_nms3d_normal_forward": {"test_nms3d"},
    "knn_forward": {"test_knn"},
    "masked_col2im_forward": {"test_masked_conv2d"},
    "masked_im2col_forward": {"test_masked_conv2d"},
    "min_area_polygons": {"test_min_area_polygons"},
    "ms_deform_attn_backward": {
        "test_multi_scale_deformable_attention",
        "test_multi_scale_deformable_attention_on_a_gpu",
    },
    "ms_deform_attn_forward": {
        "test_multi_scale_deformable_attention",
        "test_multi_scale_deformable_attention_on_a_gpu",
    },
    "points_in_boxes_all_forward": {"test_points_in_boxes", "test_points_on_the_faces_of_a_box"},
    "points_in_boxes_part_forward": {"test_points_in_boxes"},
    "points_in_polygons_forward": {"test_points_in_polygons"},
    "prroi_pool_backward": {"test_prroi_pool"},
    "prroi_pool_coor_backward": {"test_prroi_pool"},
    "prroi_pool_forward": {"test_prroi_pool"},
    "riroi_align_rotated_backward": {"test_riroi_align_rotated"},
    "riroi_align_rotated_forward": {"test_riroi_align_rotated"},
    "roi_pool_backward": {"test_roi_pool"},
    "roi_pool_forward": {"test_roi_pool"},
    "roiaware_pool3d_backward": {"test_roiaware_pool3d"},
    "roiaware_pool3d_forward": {"test_roiaware_pool3d"},
    "roipoint_pool3d_forward": {"test_roipoint_pool3d"},
    "sigmoid_focal_loss_backward": {"test_sigmoid_focal_loss"},
    "sigmoid_focal_loss_forward": {"test_sigmoid_focal_loss"},
    "softmax_focal_loss_backward": {"test_softmax_focal_loss"},
    "softmax_focal_loss_forward": {"test_softmax_focal_loss"},
    "stack_ball_query_forward": {"test_ball_query_of_stacked_clouds"},
    "stack_group_points_backward": {"test_gathering_of_stacked_clouds"},
    "stack_group_points_forward": {"test_gathering_of_stacked_clouds"},
    "sync_bn_backward_data": {"test_sync_bn"},
    "sync_bn_backward_param": {"test_sync_bn"},
    "sync_bn_forward_mean": {"test_sync_bn"},
    "sync_bn_forward_output": {"test_sync_bn", "test_sync_bn_of_nothing"},
    "sync_bn_forward_var": {"test_sync_bn"},
    "three_interpolate_backward": {"test_three_interpolate"},
    "three_interpolate_forward": {"test_three_interpolate"},
    "three_nn_forward": {"test_three_nn"},
    "tin_shift_backward": {"test_tin_shift"},
    "tin_shift_forward": {"test_tin_shift"},
    "upfirdn2d": {"test_filter2d_and_upsample2d", "test_upfirdn2d", "test_upfirdn2d_on_a_gpu"},
}

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
    """The extension names its compiler, and the version of the CUDA toolkit that compiled it, or none."""
    assert re.fullmatch(r"(GCC|clang|MSVC) \d+[\d.]*", ops.get_compiler_version())
    assert ops.get_compiling_cuda_version() == (facts.toolkit["version"] if facts.toolkit else "not available")


def test_release_build() -> None:
    """The CPU kernels are compiled without assertions: one of upstream's (in pixel_group) fails on every valid input.

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
    assert exported() == ON_CPU.keys() | ON_CUDA.keys()


def test_every_cpu_kernel_is_known() -> None:
    """The CPU kernels that the sources in the package register are those listed here."""
    sources = [path.read_text(encoding="utf-8") for path in (PACKAGE / "ops" / "csrc" / "pytorch").rglob("*.cpp")]
    registered = {name for text in sources for name in re.findall(r"REGISTER_DEVICE_IMPL\(\s*(\w+),\s*CPU\b", text)}
    assert registered == set().union(*ON_CPU.values())


def test_every_function_is_tested(request: pytest.FixtureRequest) -> None:
    """Each function is claimed by a check of this suite, those for CUDA by just the checks listed; see evidence.py."""
    claims: dict[str, set[str]] = {}
    for item in request.session.items:
        for name in [name for mark in item.iter_markers("kernels") for name in mark.args]:
            claims.setdefault(name, set()).add(item.originalname if isinstance(item, pytest.Function) else item.name)
    if {item.path for item in request.session.items} < set(Path(__file__).parent.glob("test_*.py")):
        pytest.skip("not run: the rest of the suite was left out")
    assert claims.keys() == ON_CPU.keys() | ON_CUDA.keys()
    assert {name: tests for name, tests in claims.items() if name in ON_CUDA} == ON_CUDA
