// Registration of the operators, and the first of them: domain "kanserve", SplineLayer, version 1, on the CPU, float32.
//
// Inputs    x [B, I]; start [1 or B, O]; knots [1 or I, K + degree + 1]; coef [K * I, O], function by function;
//           weights [I, O] of the base branch, may be left out. All but x and start are constants.
// Attributes  degree 1 to 3; scale of every function (1); base, "" or "silu"; nan_spreads, 1 where a source that is
//           not finite makes all of its row NaN.
// Output    y [B, O]
//
// Constants are checked once, shapes at every run; what does not fit is an error of the session or the run.
#include "operator_kernel.h"

using ort::Matrix;

namespace {

enum Input : size_t { kX, kStart, kKnots, kCoef, kWeights, kInputCount };

}  // namespace

kanserve::Layer kanserve::spline_layer(const ort::Info* info, const std::string& name) {
  const Matrix knots = ort::constant(info, kKnots, name + ": knots"), coef = ort::constant(info, kCoef, name + ": coef");
  Tensors t{};
  const int64_t degree = ort::integer(info, "degree");
  if (degree < 1 || degree > 3) throw std::invalid_argument(name + ": degree is not 1 to 3");
  t.degree = static_cast<int>(degree);
  t.scale = ort::number(info, "scale");
  t.spreads = ort::integer(info, "nan_spreads") != 0;
  const std::string base = ort::text(info, "base");
  if (!base.empty() && base != "silu") throw std::invalid_argument(name + ": base is neither \"\" nor \"silu\"");
  t.base = base.empty() ? Base::kNone : Base::kSilu;
  t.knots = knots.data;
  t.knot_rows = knots.rows;
  t.knots_of_row = knots.columns;
  t.functions = knots.columns - t.degree - 1;
  if (t.functions < 1 || coef.rows % t.functions != 0)
    throw std::invalid_argument(name + ": rows of coef are no whole number of functions");
  t.coef = coef.data;
  t.sources = coef.rows / t.functions;
  t.outputs = coef.columns;
  if (!base.empty()) {
    const Matrix weights = ort::constant(info, kWeights, name + ": weights");
    if (weights.rows != t.sources || weights.columns != t.outputs)
      throw std::invalid_argument(name + ": weights are not [sources, outputs]");
    t.weights = weights.data;
  }
  return prepare(t, machine());
}

namespace {

struct OfSplines {
  using Layer = kanserve::Layer;
  using Scratch = kanserve::Scratch;
  static constexpr const char* kName = "SplineLayer";
  static constexpr size_t kInputs = kInputCount, kRequiredInputs = kWeights;

  static Layer prepared(const ort::Info* info) { return kanserve::spline_layer(info, kName); }

  static void evaluate(const Layer& layer, const float* x, int64_t rows, const float* start, int64_t step, float* y,
                       Scratch& scratch) {
    kanserve::machine().evaluate(layer, x, rows, start, step, y, scratch);
  }
};

const kanserve::Operator<OfSplines> kSplines;
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
    const ort::CustomOp* every[] = {&kSplines, kanserve::single_edge_operator(), kanserve::basis_operator(),
                                    kanserve::edge_operator(), kanserve::norm_operator()};
    for (const ort::CustomOp* one : every) {
      if (auto* error = ort::call<ort::Domain*, const ort::CustomOp*>(ort::CustomOpDomain_Add, created, one)) {
        ort::release(ort::ReleaseCustomOpDomain, created);
        return error;
      }
    }
    domain = created;
  }
  return ort::call<ort::SessionOptions*, ort::Domain*>(ort::AddCustomOpDomain, options, domain);
}

// The name of the instruction set that the library selected, for people.
extern "C" __attribute__((visibility("default"))) const char* kanserve_kernel_machine() { return kanserve::machine().name; }
