// Compiles TorchScript, runs it, saves it as a module and runs what comes back.
#include <torch/script.h>

#include <iostream>

int main(int, char** words) {
  torch::jit::Module module("scaled");
  module.register_parameter("scale", torch::full({3}, 2.5), false);
  module.define(R"JIT(
def forward(self, x):
    for step in range(3):
        if step != 1:
            x = x * self.scale + float(step)
    return x
)JIT");
  module.save(words[1]);
  auto result = torch::jit::load(words[1]).forward({torch::arange(3, torch::kFloat32)}).toTensor();
  for (int i = 0; i < 3; ++i) std::cout << result[i].item<float>() << '\n';
}
