// An operator of the kind that a layer above compiles: x * x * sin(y), with a backward of its own.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SquareSine : torch::autograd::Function<SquareSine> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& y) {
    context->save_for_backward({x, y});
    return x * x * y.sin();
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &y = saved[1];
    return {gradients[0] * 2 * x * y.sin(), gradients[0] * x * x * y.cos()};
  }
};

at::Tensor square_sine(const at::Tensor& x, const at::Tensor& y) {
  TORCH_CHECK(x.sizes() == y.sizes(), "square_sine wants two tensors of one shape");
  return SquareSine::apply(x, y);
}

}  // namespace

TORCH_LIBRARY(mmstack_verify, library) {
  library.def("square_sine", square_sine);
}
