// Computes a little of everything and prints it as JSON; test_program.py computes the same in NumPy.
#include <torch/torch.h>
#include <ATen/Parallel.h>

#include <atomic>
#include <iostream>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace {

const auto kDouble = torch::kFloat64;

torch::Tensor ramp(int64_t count, double first, double last) {
  return torch::linspace(first, last, count, kDouble);
}

void print(const std::string& name, torch::Tensor values, bool last = false) {
  values = values.detach().to(kDouble).contiguous().flatten();
  std::cout << "\"" << name << "\": [";
  for (int64_t i = 0; i < values.numel(); ++i) {
    std::cout << (i ? ", " : "") << values[i].item<double>();
  }
  std::cout << (last ? "]\n" : "],\n");
}

void print(const std::string& name, const std::string& text) {
  std::cout << "\"" << name << "\": \"";
  for (char c : text) {
    if (c == '\n') std::cout << "\\n";
    else if (c == '"' || c == '\\') std::cout << '\\' << c;
    else std::cout << c;
  }
  std::cout << "\",\n";
}

struct Net : torch::nn::Module {
  Net() {
    first = register_module("first", torch::nn::Linear(torch::nn::LinearOptions(2, 3)));
    second = register_module("second", torch::nn::Linear(torch::nn::LinearOptions(3, 1)));
    to(kDouble);
    torch::NoGradGuard no_grad;
    first->weight.copy_(ramp(6, -0.5, 0.5).view({3, 2}));
    first->bias.copy_(ramp(3, -0.1, 0.1));
    second->weight.copy_(ramp(3, 0.3, -0.2).view({1, 3}));
    second->bias.zero_();
  }
  torch::Tensor forward(torch::Tensor x) { return second(torch::tanh(first(x))); }
  torch::nn::Linear first{nullptr}, second{nullptr};
};

void tensors() {
  auto a = ramp(12, -1, 2).view({3, 4}), b = ramp(20, 0, 1).view({4, 5});
  print("product", a.matmul(b));
  print("sums", (a * a).sum(0));
  print("sorted", std::get<0>(torch::sort(torch::sin(10 * a.flatten()))));
  print("moved", a.t().index({torch::indexing::Slice(1, torch::indexing::None, 2)}));
}

void gradients() {
  auto x = ramp(5, -1, 1).set_requires_grad(true);
  auto y = (x.sin() * x.pow(2)).sum();
  y.backward();
  print("gradient", x.grad());
}

void training(const std::string& file) {
  auto net = std::make_shared<Net>();
  auto x = ramp(8, -1, 1).view({4, 2}), y = ramp(4, 1, -1).view({4, 1});
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.2).momentum(0.9));
  std::vector<double> losses;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    auto loss = torch::mse_loss(net->forward(x), y);
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  print("losses", torch::tensor(losses, kDouble));
  torch::save(net, file);
  auto again = std::make_shared<Net>();
  torch::load(again, file);
  print("weight", net->first->weight);
  print("reloaded", torch::equal(again->forward(x), net->forward(x)) ? "the same" : "another");
}

void linear_algebra() {
  auto a = ramp(9, -1, 2).view({3, 3}).cos() + 2 * torch::eye(3, kDouble), b = ramp(3, 1, 2);
  print("solution", torch::linalg_solve(a, b));
  print("eigenvalues", torch::linalg_eigvalsh(a + a.t()));
  print("singular values", torch::linalg_svdvals(a));
  print("determinant", torch::linalg_det(a));
  print("cholesky", torch::linalg_cholesky(a.matmul(a.t())));
}

void fourier() {
  for (int64_t count : {12, 31}) {
    print("spectrum " + std::to_string(count), torch::view_as_real(torch::fft_fft(ramp(count, 0, 3).exp().sin())));
  }
}

void threads() {
  at::set_num_threads(4);
  std::vector<std::atomic<int>> seen(4);
  std::atomic<int64_t> sum(0);
  at::parallel_for(0, 1000, 1, [&](int64_t begin, int64_t end) {
    seen[at::get_thread_num()]++;
    for (int64_t i = begin; i < end; ++i) sum += i;
  });
  std::vector<double> found{double(sum)};
  for (auto& count : seen) found.push_back(count);
  print("threads", torch::tensor(found, kDouble));
}

std::string complaint() {
  try {
    torch::ones({2, 3}).matmul(torch::ones({2, 3}));
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "none";
}

}  // namespace

int main(int, char** words) {
  std::cout.precision(std::numeric_limits<double>::max_digits10);
  std::cout << "{\n";
  print("version", std::string(TORCH_VERSION));
  print("settings", at::show_config());
  print("complaint", complaint());
  tensors();
  gradients();
  training(words[1]);
  linear_algebra();
  fourier();
  threads();
  print("end", torch::ones({1}, kDouble), true);
  std::cout << "}\n";
}
