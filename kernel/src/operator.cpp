// The operator as onnxruntime sees it: domain "kanserve", SplineLayer, version 1, on the CPU, float32.
//
// Inputs    x [B, I]; start [1 or B, O]; knots [1 or I, K + degree + 1]; coef [K * I, O], function by function;
//           weights [I, O] of the base branch, may be left out. All but x and start are constants.
// Attributes  degree 1 to 3; scale of every function (1); base, "" or "silu"; nan_spreads, 1 where a source that is
//           not finite makes all of its row NaN.
// Output    y [B, O]
//
// Constants are checked once, shapes at every run; what does not fit is an error of the session or the run.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "layer.h"
#include "ort_abi.h"

namespace {

using kanserve::Layer;
using kanserve::Scratch;

using ort::Matrix;

enum Input : size_t { kX, kStart, kKnots, kCoef, kWeights, kInputs };

// The exception that `work` throws, as a status: nothing may be thrown through the runtime.
template <typename Work>
ort::Status* guarded(Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return ort::status(ort::kFail, "SplineLayer: failed to allocate memory");
  } catch (const std::exception& error) {
    return ort::status(ort::kInvalidArgument, error.what());
  } catch (...) {
    return ort::status(ort::kFail, "SplineLayer: failed");
  }
}

Layer prepared(const ort::Info* info) {
  const Matrix knots = ort::constant(info, kKnots, "SplineLayer: knots"), coef = ort::constant(info, kCoef, "SplineLayer: coef");
  kanserve::Tensors t{};
  const int64_t degree = ort::integer(info, "degree");
  if (degree < 1 || degree > 3) throw std::invalid_argument("SplineLayer: degree is not 1 to 3");
  t.degree = static_cast<int>(degree);
  t.scale = ort::number(info, "scale");
  t.spreads = ort::integer(info, "nan_spreads") != 0;
  const std::string base = ort::text(info, "base");
  if (!base.empty() && base != "silu") throw std::invalid_argument("SplineLayer: base is neither \"\" nor \"silu\"");
  t.base = base.empty() ? kanserve::Base::kNone : kanserve::Base::kSilu;
  t.knots = knots.data;
  t.knot_rows = knots.rows;
  t.knots_of_row = knots.columns;
  t.functions = knots.columns - t.degree - 1;
  if (t.functions < 1 || coef.rows % t.functions != 0)
    throw std::invalid_argument("SplineLayer: rows of coef are no whole number of functions");
  t.coef = coef.data;
  t.sources = coef.rows / t.functions;
  t.outputs = coef.columns;
  if (!base.empty()) {
    const Matrix weights = ort::constant(info, kWeights, "SplineLayer: weights");
    if (weights.rows != t.sources || weights.columns != t.outputs)
      throw std::invalid_argument("SplineLayer: weights are not [sources, outputs]");
    t.weights = weights.data;
  }
  return kanserve::prepare(t, kanserve::machine());
}

class Kernel {
 public:
  explicit Kernel(const ort::Info* info) : layer_(prepared(info)) {}

  void run(ort::Context* context) {
    const Matrix x = ort::input(context, kX, "SplineLayer: x"), start = ort::input(context, kStart, "SplineLayer: start");
    if (x.columns != layer_.sources) throw std::invalid_argument("SplineLayer: x has another number of sources");
    if (start.columns != layer_.outputs || (start.rows != 1 && start.rows != x.rows))
      throw std::invalid_argument("SplineLayer: start is not [1 or rows, outputs]");
    float* y = ort::output(context, 0, x.rows, layer_.outputs);
    Job job(this, x, start, y);
    const int64_t parts = (x.rows + kanserve::kRows - 1) / kanserve::kRows;
    if (parts <= 1) {
      job.part(0);
    } else {
      const auto part = [](void* of, size_t at) { static_cast<const Job*>(of)->part(static_cast<int64_t>(at)); };
      ort::parallel(context, static_cast<size_t>(parts), part, &job);
      if (job.failed) throw std::bad_alloc();
    }
  }

 private:
  // Rows by as many threads as the runtime has for it. Which of them takes which rows changes no bit.
  struct Job {
    Kernel* kernel;
    Matrix x, start;
    float* y;
    mutable std::atomic<bool> failed{false};

    Job(Kernel* of, Matrix in, Matrix from, float* out) : kernel(of), x(in), start(from), y(out) {}

    void part(int64_t at) const {
      const int64_t first = at * kanserve::kRows, rows = std::min<int64_t>(kanserve::kRows, x.rows - first);
      if (rows <= 0) return;
      try {
        const int64_t step = start.rows == 1 ? 0 : start.columns;
        auto scratch = kernel->borrow();
        scratch->fit(kernel->layer_, rows);
        kanserve::machine().evaluate(kernel->layer_, x.data + first * x.columns, rows, start.data + first * step, step,
                                     y + first * start.columns, *scratch);
        kernel->give_back(std::move(scratch));
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
  };

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

  const Layer layer_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> idle_;  // as many as runs were ever at it at once
};

struct Operator : ort::CustomOp {
  Operator() {
    using Op = const ort::CustomOp*;
    name = [](Op) { return "SplineLayer"; };
    provider = [](Op) { return "CPUExecutionProvider"; };
    input_count = [](Op) -> size_t { return kInputs; };
    input_type = [](Op, size_t) { return ort::kFloat; };
    input_characteristic = [](Op, size_t at) { return at == kWeights ? ort::kOptional : ort::kRequired; };
    input_memory = [](Op, size_t) { return ort::kDefaultMemory; };
    output_count = [](Op) -> size_t { return 1; };
    output_type = [](Op, size_t) { return ort::kFloat; };
    output_characteristic = [](Op, size_t) { return ort::kRequired; };
    variadic_input_least = variadic_input_same = variadic_output_least = variadic_output_same = [](Op) { return 0; };
    first_version = last_version = [](Op) { return 1; };
    create_kernel_v2 = [](Op, ort::Api*, const ort::Info* info, void** kernel) -> ort::Status* {
      *kernel = nullptr;
      return guarded([&] { *kernel = new Kernel(info); });
    };
    compute_v2 = [](void* kernel, ort::Context* context) -> ort::Status* {
      return guarded([&] { static_cast<Kernel*>(kernel)->run(context); });
    };
    destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

const Operator kOperator;
ort::Domain* domain = nullptr;

}  // namespace

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                const ort::ApiBase* base) {
  ort::Api* table = base->get_api(ort::kVersion);
  if (!table) return nullptr;  // an older runtime: its message names the operator that it does not know
  static std::mutex mutex;
  const std::lock_guard<std::mutex> hold(mutex);
  if (!domain) {
    ort::table = table;
    ort::Domain* created = nullptr;
    if (auto* error = ort::call<const char*, ort::Domain**>(ort::CreateCustomOpDomain, "kanserve", &created)) return error;
    if (auto* error = ort::call<ort::Domain*, const ort::CustomOp*>(ort::CustomOpDomain_Add, created, &kOperator)) {
      ort::release(ort::ReleaseCustomOpDomain, created);
      return error;
    }
    domain = created;
  }
  return ort::call<ort::SessionOptions*, ort::Domain*>(ort::AddCustomOpDomain, options, domain);
}

// The name of the instruction set that the library selected, for people.
extern "C" __attribute__((visibility("default"))) const char* kanserve_kernel_machine() { return kanserve::machine().name; }
