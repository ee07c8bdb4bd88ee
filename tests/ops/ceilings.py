"""What compiled kernels may take: what was counted with Triton 3.8, and a little more."""

# the targets that are looked at closely, and what multiplies matrices there
PRODUCTS = {"sm_80": "HMMA", "sm_89": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}
# name of a compilation -> bytes of stack that it may have on sm_90, where spilled registers go; none where it is not
# named
STACK_BYTES_ALLOWED = {
    # the width of models of 405 billion parameters: a row fills all registers that 512 threads can have
    "rms_norm_backward_kernel add bf16/bf16 D16384": 24,
    "rms_norm_backward_kernel add fp32/bf16 D16384": 24,
    "rms_norm_backward_kernel add fp32/fp32 D16384": 40,
    "rms_norm_backward_kernel fp32/bf16 D16384": 16,
    "rms_norm_backward_kernel fp32/fp32 D16384": 24,
    # in fp8 the largest value of each place is one more that waits
    "rms_norm_backward_kernel add bf16/bf16 D16384 to e5m2": 120,
    "rms_norm_backward_kernel bf16/bf16 D16384 to e5m2": 120,
    "rms_norm_backward_kernel add fp32/bf16 D16384 to e5m2": 144,
    "rms_norm_backward_kernel fp32/bf16 D16384 to e5m2": 144,
    # blocks that take all 255 registers of a thread and up to 16 more; fewer configurations do under the newest Triton
    "attention_key_value_gradient_kernel bf16 Dh128 configuration 0": 48,
    "attention_key_value_gradient_kernel bf16 Dh128 documents configuration 0": 48,
    "attention_key_value_gradient_kernel bf16 Dh64 documents configuration 1": 56,
    "attention_key_value_gradient_kernel bf16 Dh96 documents configuration 0": 48,
    "attention_key_value_gradient_kernel bf16 Dh256 documents configuration 0": 64,
    "attention_key_value_gradient_kernel fp32 Dh16 documents configuration 0": 16,
    "attention_query_gradient_kernel bf16 Dh128 documents configuration 1": 32,
    "attention_query_gradient_kernel bf16 Dh96 documents configuration 1": 24,
    "attention_query_gradient_kernel bf16 Dh256 documents configuration 0": 8,
    "attention_query_gradient_kernel fp32 Dh256 documents configuration 0": 24,
    # beside the scores, capped ones and their slopes
    "attention_key_value_gradient_kernel bf16 Dh128 documents softcap configuration 0": 80,
    "attention_key_value_gradient_kernel bf16 Dh256 documents softcap configuration 0": 64,
    "attention_query_gradient_kernel bf16 Dh128 documents softcap configuration 1": 32,
    "attention_query_gradient_kernel bf16 Dh256 documents softcap configuration 0": 24,
    "attention_query_gradient_kernel fp32 Dh256 documents softcap configuration 0": 24,
}
# kernel -> what its usual configuration may take at most: registers, instructions a value where it has no loop,
# barriers in one time round a loop
CEILINGS = {
    "adamw_kernel": (64, None, 0),
    "amax_kernel": (32, 6.2, 0),
    "attention_forward_kernel": (255, None, 2),
    "attention_key_value_gradient_kernel": (255, None, 2),
    "attention_query_gradient_kernel": (255, None, 2),
    "cast_kernel": (64, 12.5, 0),
    "gradient_kernel": (40, None, 0),
    "losses_kernel": (64, None, 0),
    "rms_norm_backward_kernel": (104, None, 3),
    "rms_norm_forward_kernel": (40, 20.0, 0),
    "rms_norm_of_update_backward_kernel": (128, None, 2),
    "rms_norm_of_update_forward_kernel": (48, 15.0, 0),
    "rope_kernel": (64, 11.0, 0),
    "swiglu_backward_kernel": (64, 25.0, 0),
    "swiglu_forward_kernel": (40, 13.0, 0),
    "swiglu_fp8_backward_kernel": (168, 42.0, 0),
    "swiglu_fp8_forward_kernel": (64, 21.0, 0),
    "transpose_kernel": (40, 6.0, 0),
}
# kernel, target -> the same where that target differs
CEILINGS_ELSEWHERE = {
    # products of a warp, which fetch their operands themselves: all warps meet around each block
    ("attention_forward_kernel", "sm_80"): (255, None, 11),
    ("attention_forward_kernel", "sm_89"): (255, None, 11),
    ("attention_key_value_gradient_kernel", "sm_80"): (232, None, 5),
    ("attention_key_value_gradient_kernel", "sm_89"): (176, None, 5),
    ("attention_query_gradient_kernel", "sm_80"): (255, None, 3),
    ("attention_query_gradient_kernel", "sm_89"): (200, None, 2),
    # sums are in tensor memory, and warps wait for barriers in memory that are no `BAR`
    ("attention_forward_kernel", "sm_100"): (224, None, 0),
    ("attention_key_value_gradient_kernel", "sm_100"): (224, None, 0),
    ("attention_query_gradient_kernel", "sm_100"): (168, None, 0),
    ("losses_kernel", "sm_100"): (72, None, 0),
    ("rms_norm_backward_kernel", "sm_80"): (128, None, 3),
    ("rms_norm_backward_kernel", "sm_89"): (128, None, 3),
}
# kernel -> share of its bytes that may go in loads and stores of less than 16 bytes; an eighth, such as labels, where
# it is not named
NARROW = {
    # addresses of tensors
    "adamw_kernel": 0.5,
    # label, maximum and sum of a row
    "gradient_kernel": 0.5,
    "losses_kernel": 0.25,
    # eight codes of a row a thread
    "cast_kernel": 0.5,
    "swiglu_fp8_backward_kernel": 0.5,
    "swiglu_fp8_forward_kernel": 0.5,
}
ASYNCHRONOUS = {name for name in CEILINGS if name.startswith("attention")} | {
    "rms_norm_backward_kernel",
    "rms_norm_of_update_backward_kernel",
}
# name of a compilation, target -> loads and stores of local memory in loops that it may have; none where it is not
# named, but any at the width of 405 billion parameters
LOCAL_IN_LOOPS_ALLOWED = {
    # in the loop over the heads of a group, and none in the walk over queries within it
    ("attention_key_value_gradient_kernel bf16 Dh128 documents configuration 0", "sm_90"): 7,
    ("attention_key_value_gradient_kernel bf16 Dh96 documents configuration 0", "sm_90"): 7,
    ("attention_key_value_gradient_kernel bf16 Dh256 documents configuration 0", "sm_90"): 5,
    ("attention_key_value_gradient_kernel fp32 Dh16 documents configuration 0", "sm_90"): 1,
    ("attention_key_value_gradient_kernel bf16 Dh128 documents softcap configuration 0", "sm_90"): 30,
    ("attention_key_value_gradient_kernel bf16 Dh256 documents softcap configuration 0", "sm_90"): 6,
    ("attention_query_gradient_kernel fp32 Dh128 documents softcap configuration 0", "sm_89"): 3,
    ("losses_kernel with gradient bf16 V32000 softcap", "sm_100"): 1,
    ("rms_norm_backward_kernel add fp32/fp32 D2048", "sm_100"): 1,
}
WIDEST = "D16384"
