/* The table of one instruction set. Included by isa_avx2.c and isa_avx512.c, which are compiled for theirs.
 */

#include "kernels/cpu/dequant.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_math.h"

#include "kernels/cpu/rows_impl.h"

#include "kernels/cpu/gemm_impl.h"

#include "kernels/cpu/rope_impl.h"

#include "kernels/cpu/attention_impl.h"

const struct cpu_isa ISA(cpu_isa) = {
    .panel_rows = VW,
    .tile_sizes = tile_sizes,
    .norm_row = norm_row,
    .quantize_row = quantize_row,
    .gemm = {FOR_DTYPES(GEMM_ENTRY)},
    .store_tile = store_tile,
    .rope_kv_row = rope_kv_row,
    .attend_f32 = attend_f32,
    .attend_f16 = attend_f16,
    .attend_bf16 = attend_bf16,
    .attend_merge = attend_merge,
};
