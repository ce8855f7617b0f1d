// What the operators share: a layer that is prepared once, rows by threads, scratch memory that runs borrow, and the
// description for onnxruntime. A traits class `Of` of an operator has
//
//   Layer, Scratch; kName, kInputs, kRequiredInputs
//   static Layer prepared(const ort::Info*)    throws std::invalid_argument
//   static void evaluate(const Layer&, x, rows, start, start_step, y, Scratch&)
//
// Inputs 0 and 1 of an operator are x [B, I] and start [1 or B, O]; all others are constants. The output is y [B, O].
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "layer.h"
#include "ort_abi.h"

namespace kanserve {

// The exception that `work` throws, as a status: nothing may be thrown through the runtime.
template <typename Work>
ort::Status* guarded(const char* name, Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return ort::status(ort::kFail, (std::string(name) + ": failed to allocate memory").c_str());
  } catch (const std::exception& error) {
    return ort::status(ort::kInvalidArgument, error.what());
  } catch (...) {
    return ort::status(ort::kFail, (std::string(name) + ": failed").c_str());
  }
}

// Scratch memory that runs borrow, as many as were ever at it at once.
template <typename Scratch>
class Pool {
 public:
  std::unique_ptr<Scratch> borrow() {
    const std::lock_guard<std::mutex> hold(mutex_);
    if (idle_.empty()) return std::make_unique<Scratch>();
    auto last = std::move(idle_.back());
    idle_.pop_back();
    return last;
  }

  void give_back(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard<std::mutex> hold(mutex_);
    idle_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> idle_;
};

template <typename Of>
class Kernel {
 public:
  using Layer = typename Of::Layer;
  using Scratch = typename Of::Scratch;

  explicit Kernel(const ort::Info* info) : layer_(Of::prepared(info)) {}

  void run(ort::Context* context) {
    const std::string name = Of::kName;
    const ort::Matrix x = ort::input(context, 0, name + ": x"), start = ort::input(context, 1, name + ": start");
    if (x.columns != layer_.sources) throw std::invalid_argument(name + ": x has another number of sources");
    if (start.columns != layer_.outputs || (start.rows != 1 && start.rows != x.rows))
      throw std::invalid_argument(name + ": start is not [1 or rows, outputs]");
    float* y = ort::output(context, 0, x.rows, layer_.outputs);
    Job job(this, x, start, y);
    const int64_t parts = (x.rows + kRows - 1) / kRows;
    if (parts <= 1) {
      job.part(0);
    } else {
      const auto part = [](void* of, size_t at) { static_cast<const Job*>(of)->part(static_cast<int64_t>(at)); };
      ort::parallel(context, static_cast<size_t>(parts), part, &job);
    }
    if (job.failed) throw std::bad_alloc();
  }

 private:
  // Rows by as many threads as the runtime has for it. Which of them takes which rows changes no bit.
  struct Job {
    Kernel* kernel;
    ort::Matrix x, start;
    float* y;
    mutable std::atomic<bool> failed{false};

    Job(Kernel* of, ort::Matrix in, ort::Matrix from, float* out) : kernel(of), x(in), start(from), y(out) {}

    void part(int64_t at) const {
      const int64_t first = at * kRows, rows = std::min<int64_t>(kRows, x.rows - first);
      if (rows <= 0) return;
      try {
        const int64_t step = start.rows == 1 ? 0 : start.columns;
        auto scratch = kernel->pool_.borrow();
        scratch->fit(kernel->layer_, rows);
        Of::evaluate(kernel->layer_, x.data + first * x.columns, rows, start.data + first * step, step,
                     y + first * start.columns, *scratch);
        kernel->pool_.give_back(std::move(scratch));
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
  };

  const Layer layer_;
  Pool<Scratch> pool_;
};

// The description of an operator with one output. `Runs`: its kernel, which is made from the node and has `run`.
template <typename Of, typename Runs = Kernel<Of>>
struct Operator : ort::CustomOp {
  Operator() {
    using Op = const ort::CustomOp*;
    name = [](Op) { return Of::kName; };
    provider = [](Op) { return "CPUExecutionProvider"; };
    input_count = [](Op) -> size_t { return Of::kInputs; };
    input_type = [](Op, size_t) { return ort::kFloat; };
    input_characteristic = [](Op, size_t at) { return at < Of::kRequiredInputs ? ort::kRequired : ort::kOptional; };
    input_memory = [](Op, size_t) { return ort::kDefaultMemory; };
    output_count = [](Op) -> size_t { return 1; };
    output_type = [](Op, size_t) { return ort::kFloat; };
    output_characteristic = [](Op, size_t) { return ort::kRequired; };
    variadic_input_least = variadic_input_same = variadic_output_least = variadic_output_same = [](Op) { return 0; };
    first_version = last_version = [](Op) { return 1; };
    create_kernel_v2 = [](Op, ort::Api*, const ort::Info* info, void** kernel) -> ort::Status* {
      *kernel = nullptr;
      return guarded(Of::kName, [&] { *kernel = new Runs(info); });
    };
    compute_v2 = [](void* kernel, ort::Context* context) -> ort::Status* {
      return guarded(Of::kName, [&] { static_cast<Runs*>(kernel)->run(context); });
    };
    destroy = [](void* kernel) { delete static_cast<Runs*>(kernel); };
  }
};

// The layer of a SplineLayer, or of another operator with the same constants. Throws std::invalid_argument.
Layer spline_layer(const ort::Info* info, const std::string& name);

// The operator of edges_operator.cpp.
const ort::CustomOp* single_edge_operator();

// The operators of program_operators.cpp.
const ort::CustomOp* basis_operator();
const ort::CustomOp* edge_operator();
const ort::CustomOp* norm_operator();

}  // namespace kanserve
