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

#define ORT_API_MANUAL_INIT
#include "onnxruntime_cxx_api.h"
#undef ORT_API_MANUAL_INIT

#include "layer.h"

namespace {

using kanserve::Layer;
using kanserve::Scratch;

constexpr uint32_t kApi = 17;  // what of the runtime's interface is used here is in it; any newer runtime has it too
enum Input : size_t { kX, kStart, kKnots, kCoef, kWeights, kInputs };

OrtStatus* failure(const char* what) { return Ort::GetApi().CreateStatus(ORT_INVALID_ARGUMENT, what); }

// What `work` throws, as a status: nothing may be thrown through the runtime.
template <typename Work>
OrtStatus* guarded(Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return Ort::GetApi().CreateStatus(ORT_FAIL, "SplineLayer: failed to allocate memory");
  } catch (const std::exception& error) {
    return failure(error.what());
  } catch (...) {
    return failure("SplineLayer: failed");
  }
}

struct Matrix {
  const float* data;
  int64_t rows, columns;
};

Matrix matrix(const Ort::ConstValue& value, const char* name) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const auto shape = info.GetShape();
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || shape.size() != 2 || shape[0] < 0 || shape[1] < 0)
    throw std::invalid_argument(std::string("SplineLayer: ") + name + " is no matrix of float32");
  return {value.GetTensorData<float>(), shape[0], shape[1]};
}

Matrix constant(const Ort::ConstKernelInfo& info, Input at, const char* name) {
  int is_constant = 0;
  const auto value = info.GetTensorConstantInput(at, &is_constant);
  if (!is_constant) throw std::invalid_argument(std::string("SplineLayer: ") + name + " is no constant");
  return matrix(value, name);
}

Layer prepared(const Ort::ConstKernelInfo& info) {
  const Matrix knots = constant(info, kKnots, "knots"), coef = constant(info, kCoef, "coef");
  kanserve::Tensors t{};
  const int64_t degree = info.GetAttribute<int64_t>("degree");
  if (degree < 1 || degree > 3) throw std::invalid_argument("SplineLayer: degree is not 1 to 3");
  t.degree = static_cast<int>(degree);
  t.scale = info.GetAttribute<float>("scale");
  t.spreads = info.GetAttribute<int64_t>("nan_spreads") != 0;
  const std::string base = info.GetAttribute<std::string>("base");
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
    const Matrix weights = constant(info, kWeights, "weights");
    if (weights.rows != t.sources || weights.columns != t.outputs)
      throw std::invalid_argument("SplineLayer: weights are not [sources, outputs]");
    t.weights = weights.data;
  }
  return kanserve::prepare(t, kanserve::machine());
}

class Kernel {
 public:
  explicit Kernel(const OrtKernelInfo* info) : layer_(prepared(Ort::ConstKernelInfo(info))) {}

  void run(OrtKernelContext* given) {
    Ort::KernelContext context(given);
    const Matrix x = matrix(context.GetInput(kX), "x"), start = matrix(context.GetInput(kStart), "start");
    if (x.columns != layer_.sources) throw std::invalid_argument("SplineLayer: x has another number of sources");
    if (start.columns != layer_.outputs || (start.rows != 1 && start.rows != x.rows))
      throw std::invalid_argument("SplineLayer: start is not [1 or rows, outputs]");
    const int64_t shape[] = {x.rows, layer_.outputs};
    float* y = context.GetOutput(0, shape, 2).GetTensorMutableData<float>();
    Job job(this, x, start, y);
    const int64_t parts = (x.rows + kanserve::kRows - 1) / kanserve::kRows;
    if (parts <= 1) {
      job.part(0);
    } else {
      const auto part = [](void* of, size_t at) { static_cast<const Job*>(of)->part(static_cast<int64_t>(at)); };
      Ort::ThrowOnError(Ort::GetApi().KernelContext_ParallelFor(given, part, static_cast<size_t>(parts), 0,
                                                                &job));
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

struct Operator : OrtCustomOp {
  Operator() : OrtCustomOp{} {
    version = kApi;
    GetName = [](const OrtCustomOp*) { return "SplineLayer"; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
    GetInputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t at) {
      return at == kWeights ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) -> OrtStatusPtr {
      *kernel = nullptr;
      return guarded([&] { *kernel = new Kernel(info); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatusPtr {
      return guarded([&] { static_cast<Kernel*>(kernel)->run(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

const Operator kOperator;
OrtCustomOpDomain* domain = nullptr;

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApi);
  if (!api) return nullptr;  // a runtime before 1.17: it will say that it does not know the operator
  static std::mutex mutex;
  const std::lock_guard<std::mutex> hold(mutex);
  if (!domain) {
    Ort::Global<void>::api_ = api;
    OrtCustomOpDomain* made = nullptr;
    if (OrtStatus* status = api->CreateCustomOpDomain("kanserve", &made)) return status;
    if (OrtStatus* status = api->CustomOpDomain_Add(made, &kOperator)) {
      api->ReleaseCustomOpDomain(made);
      return status;
    }
    domain = made;
  }
  return api->AddCustomOpDomain(options, domain);
}

// Which of the evaluations runs here, for people.
extern "C" __attribute__((visibility("default"))) const char* kanserve_kernel_machine() { return kanserve::machine().name; }
