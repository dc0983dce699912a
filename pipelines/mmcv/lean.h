// What mmcv's sources use of torch. The headers that they name (torch/types.h and others, see CMakeLists.txt) bring every
// operator besides, which costs each unit several seconds, and nvcc reads all of it three times. A source that is compiled
// apart because it needs more gets torch's own headers.
#pragma once
#define AT_PER_OPERATOR_HEADERS  // torch's own switch: its headers name single operators instead of all
#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_unique.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/broadcast_to.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/max.h>
#include <ATen/ops/min.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/unique_dim.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#ifdef MMCV_INDEXING
#include <ATen/TensorIndexing.h>
#endif
#ifdef __CUDACC__
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#define AT_CUDA_CHECK(EXPR) C10_CUDA_CHECK(EXPR)  // as ATen/cuda/Exceptions.h has it
#endif

namespace at {

inline auto device_of(const Tensor& t) { return (t.defined() ? t.options() : TensorOptions()).device_opt(); }

#ifdef __CUDACC__
namespace cuda {

template <typename T>
__host__ __device__ __forceinline__ T ATenCeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace cuda
#endif
}  // namespace at

namespace torch {

using namespace at;
constexpr auto kUInt8 = at::kByte;
constexpr auto kInt32 = at::kInt;
constexpr auto kInt64 = at::kLong;
constexpr auto kFloat32 = at::kFloat;

}  // namespace torch
