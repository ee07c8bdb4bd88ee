"""Kernels and ops are told by their names, by what launched them, and else not at all."""

import ast
from pathlib import Path

import pytest

import litespark.ops
from litespark.benchmarks.profile.classes import CLASSES, class_of, launcher, own_names, scope, within
from litespark.planning.roofline import KERNEL_CLASSES

NATIVE = "void at::native::"
COPY = f"{NATIVE}vectorized_elementwise_kernel<4, at::native::bfloat16_copy_kernel_cuda(at::TensorIteratorBase&)>"
MUL = f"{NATIVE}vectorized_elementwise_kernel<4, at::native::BinaryFunctor<float, at::native::MulFunctor<float>>>"
REDUCE = f"{NATIVE}reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>"
GEMM = "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN"
ENGINE = "autograd::engine::evaluate_function: "


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (GEMM, "gemm"),
        ("triton_tem_fused_mm_3", "gemm"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7_64x64x128", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, cutlass::bfloat16_t>>", "attention"),
        ("triton_tem_fused_flex_attention_2", "attention"),
        (f"{NATIVE}(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", "optimizer"),
        ("aten::_foreach_norm", "optimizer"),
        (f"{NATIVE}(anonymous namespace)::cunn_SoftMaxForward<LogSoftMaxForwardEpilogue>", "loss"),
        ("triton_per_fused__log_softmax_nll_loss_forward_2", "loss"),
        ("liger_cross_entropy_kernel", "loss"),
        ("triton_poi_fused_mul_silu_1", "activation"),
        ("_swiglu_forward_kernel", "activation"),
        ("graph_0_cpp_fused__unsafe_view_mul_silu_3", "activation"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_5", "norm"),
        ("_rms_norm_forward_kernel", "norm"),
        ("triton_poi_fused_add_cat_mul_neg_slice_backward_7", "rope"),
        ("_triton_rope", "rope"),
        ("triton_poi_fused__to_copy_3", "copies"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        (COPY, "copies"),
        # ours, as the source names them
        ("rms_norm_backward_kernel", "norm"),
        ("attention_key_value_gradient_kernel", "attention"),
        ("losses_kernel", "loss"),
        ("transpose_kernel", "copies"),
        ("amax_kernel", "copies"),
        ("litespark::rms_norm_backward", "norm"),
        ("litespark::linear_cross_entropy_sum", "loss"),
        # neither says what it is for
        ("void fbgemm_gpu::permute_indices_weights_kernel<false, int>", "other"),
        (MUL, "other"),
        (REDUCE, "other"),
        ("litespark::something", "other"),
    ],
)
def test_a_name_alone(name, expected):
    assert class_of(name) == expected


@pytest.mark.parametrize(
    ("name", "launched_by", "forward", "expected"),
    [
        # a plain kernel is of the scope around its op
        (MUL, ["aten::mul", scope("norm")], [], "norm"),
        (COPY, ["aten::copy_", "aten::to", scope("norm")], [], "norm"),
        # a backward op is of its forward op's scope
        (MUL, ["aten::mul", "MulBackward0", ENGINE + "MulBackward0"], ["aten::mul", scope("rope")], "rope"),
        ("aten::add_", [ENGINE + "SiluBackward0"], ["aten::silu"], "activation"),
        # products within the loss and the MLP are products, within attention and the optimizer not
        (GEMM, ["aten::mm", scope("loss")], [], "gemm"),
        (GEMM, ["aten::mm", "litespark::swiglu_backward"], [], "gemm"),
        (REDUCE, ["aten::sum", "litespark::rms_normBackward"], [], "norm"),
        (GEMM, ["aten::bmm", "aten::matmul", scope("attention")], [], "attention"),
        (GEMM, ["aten::bmm", "BmmBackward0"], ["aten::bmm", scope("attention")], "attention"),
        (GEMM, ["aten::addmm", "Optimizer.step#Muon.step"], [], "optimizer"),
        (MUL, ["aten::mul_", "Optimizer.step#AdamW.step"], [], "optimizer"),
        # the library's op is as good as a scope
        (REDUCE, ["aten::mul", "aten::_fused_rms_norm", within("attention")], [], "norm"),
        (MUL, ["aten::mul", "aten::scaled_dot_product_attention"], [], "attention"),
        (COPY, ["aten::copy_", "litespark::attention_backward"], [], "attention"),
        # casts of autocast, the embedding, sums of gradients
        (COPY, ["aten::copy_", "aten::to", "aten::linear", within("attention")], [], "copies"),
        (MUL, ["aten::embedding_dense_backward"], [], "copies"),
        ("aten::add", [ENGINE + "MmBackward0"], ["aten::mm", "aten::linear"], "copies"),
        (MUL, ["aten::add_", ENGINE + "torch::autograd::AccumulateGrad"], [], "copies"),
        # what nothing tells is of the module around it, and without one of none
        (MUL, ["aten::add", within("norm")], [], "norm"),
        (MUL, ["aten::add", "aten::relu"], [], "other"),
        # the nearest scope counts
        (MUL, ["aten::mul", scope("rope"), within("attention")], [], "rope"),
        # what a product launches beside itself
        (REDUCE, ["aten::mm", "aten::linear"], [], "gemm"),
        # a product of codes is one, and what is made ready for it is moved
        ("nvjet_qqtst_128x256_128x4_2x1_v_bz_coopA_TNT", ["aten::_scaled_mm"], [], "gemm"),
        ("aten::_scaled_mm", [scope("norm")], [], "gemm"),
        ("aten::copy_", ["aten::to", scope("copies"), scope("norm")], [], "copies"),
    ],
)
def test_what_launched_it(name, launched_by, forward, expected):
    assert class_of(name, launched_by, forward) == expected


def test_a_kernel_is_told_with_the_op_that_launched_it_and_the_node_that_ran_for():
    assert launcher(["aten::mul", "MulBackward0", ENGINE + "MulBackward0"]) == "aten::mul in MulBackward0"
    assert launcher(["MulBackward0", ENGINE + "MulBackward0"]) == "MulBackward0"
    assert launcher([scope("norm"), "aten::linear"]) == "aten::linear"
    assert launcher([scope("norm")]) is None


def test_every_launched_kernel_and_custom_op_of_ours_has_a_class():
    """Read in another way than the code reads it: a launch is `name[grid]`."""
    launched, ops = set(), set()
    for file in Path(litespark.ops.__path__[0]).glob("*/*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("litespark::"):
                ops.add(node.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                name = getattr(node.func.value, "id", "")
                launched |= {name} if name.endswith("kernel") else set()
    assert {*CLASSES, "idle"} == {*KERNEL_CLASSES, "other"}
    assert len(launched) > 8
    assert len(ops) > 10
    assert launched <= set(own_names())
    assert {name for name in ops if class_of(name) == "other"} == set()
