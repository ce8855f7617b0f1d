// The operators BasisLayer, EdgeLayer and NormLayer of the domain "kanserve", version 1, on the CPU, float32.
//
// Inputs      x [B, I]; start [1 or B, O]; program [N, 5], constants [1, C], and
//             BasisLayer  tables [T, I], one value for each source; coef [K * I, O] of one to four terms, function by function
//             EdgeLayer   centre, rate and coef [I * K, O], source by source
// Attributes  registers of the program; nan_spreads, 1 where a source that is not finite makes all of its row NaN;
//             BasisLayer  terms, the number of coef inputs; normalized, 1 where input 1 of the program is the layer
//                         normalization of the row, without scale and bias; epsilon of it
//             EdgeLayer   functions, K
// Output      y [B, O]
//
// NormLayer has the inputs x [B, I], start [1 or B, I] and scale [1, I], and the attributes groups and epsilon.
//
// program.h has the instructions. Of the tables, a first row that no instruction reads makes an empty matrix unnecessary.
#include "basis_layer.h"
#include "operator_kernel.h"

namespace kanserve {
namespace {

using ort::Matrix;

ProgramTensors program_tensors(const ort::Info* info, const std::string& name, int64_t functions) {
  const Matrix code = ort::constant(info, 2, name + ": program"), constants = ort::constant(info, 3, name + ": constants");
  if (code.columns != 5 || constants.rows != 1) throw std::invalid_argument(name + ": program is not [instructions, 5]");
  ProgramTensors program{};
  program.code = code.data;
  program.instructions = code.rows;
  program.constants = constants.data;
  program.constant_count = constants.columns;
  program.registers = ort::integer(info, "registers");
  program.functions = functions;
  return program;
}

struct OfBasis {
  using Layer = BasisLayer;
  using Scratch = BasisScratch;
  static constexpr const char* kName = "BasisLayer";
  static constexpr size_t kInputs = 9, kRequiredInputs = 6;

  static Layer prepared(const ort::Info* info) {
    const std::string name = kName;
    const int64_t terms = ort::integer(info, "terms");
    if (terms < 1 || terms > 4) throw std::invalid_argument(name + ": terms is not 1 to 4");
    BasisTensors t{};
    const Matrix tables = ort::constant(info, 4, name + ": tables");
    t.sources = tables.columns;
    if (t.sources < 1) throw std::invalid_argument(name + ": tables have no sources");
    int64_t functions = 0;
    for (int64_t term = 0; term < terms; ++term) {
      const Matrix coef = ort::constant(info, 5 + term, name + ": coef");
      if (coef.rows < 1 || coef.rows % t.sources != 0 || (term && coef.columns != t.outputs))
        throw std::invalid_argument(name + ": coef is not [functions * sources, outputs]");
      t.coef[term] = coef.data;
      t.coef_functions[term] = coef.rows / t.sources;
      t.outputs = coef.columns;
      functions += t.coef_functions[term];
    }
    t.program = program_tensors(info, name, functions);
    t.program.tables = tables.data;
    t.program.table_rows = tables.rows;
    t.program.table_lanes = tables.columns;
    t.spreads = ort::integer(info, "nan_spreads") != 0;
    t.normalized = ort::integer(info, "normalized") != 0;
    t.epsilon = ort::number(info, "epsilon");
    return prepare(t, machine().width);
  }

  static void evaluate(const Layer& layer, const float* x, int64_t rows, const float* start, int64_t step, float* y,
                       Scratch& scratch) {
    static const EvaluateBasis function = basis_evaluation(machine());
    function(layer, x, rows, start, step, y, scratch);
  }
};

struct OfEdges {
  using Layer = EdgeLayer;
  using Scratch = EdgeScratch;
  static constexpr const char* kName = "EdgeLayer";
  static constexpr size_t kInputs = 7, kRequiredInputs = 7;

  static Layer prepared(const ort::Info* info) {
    const std::string name = kName;
    const Matrix centre = ort::constant(info, 4, name + ": centre"), rate = ort::constant(info, 5, name + ": rate"),
                 coef = ort::constant(info, 6, name + ": coef");
    EdgeTensors t{};
    t.functions = ort::integer(info, "functions");
    for (const Matrix& other : {centre, rate})
      if (other.rows != coef.rows || other.columns != coef.columns)
        throw std::invalid_argument(name + ": centre, rate and coef have different shapes");
    if (t.functions < 1 || coef.rows % t.functions != 0)
      throw std::invalid_argument(name + ": rows of coef are not a whole number of functions");
    t.centre = centre.data;
    t.rate = rate.data;
    t.coef = coef.data;
    t.sources = coef.rows / t.functions;
    t.outputs = coef.columns;
    t.program = program_tensors(info, name, 1);
    t.spreads = ort::integer(info, "nan_spreads") != 0;
    return prepare(t, machine().width);
  }

  static void evaluate(const Layer& layer, const float* x, int64_t rows, const float* start, int64_t step, float* y,
                       Scratch& scratch) {
    static const EvaluateEdges function = edge_evaluation(machine());
    function(layer, x, rows, start, step, y, scratch);
  }
};

struct OfNorm {
  using Layer = NormLayer;
  using Scratch = NormScratch;
  static constexpr const char* kName = "NormLayer";
  static constexpr size_t kInputs = 3, kRequiredInputs = 3;

  static Layer prepared(const ort::Info* info) {
    const Matrix scale = ort::constant(info, 2, "NormLayer: scale");
    if (scale.rows != 1) throw std::invalid_argument("NormLayer: scale is not [1, sources]");
    return prepare_norm(scale.data, scale.columns, ort::integer(info, "groups"), ort::number(info, "epsilon"));
  }

  static void evaluate(const Layer& layer, const float* x, int64_t rows, const float* start, int64_t step, float* y,
                       Scratch& scratch) {
    static const EvaluateNorm function = norm_evaluation(machine());
    function(layer, x, rows, start, step, y, scratch);
  }
};

}  // namespace

const ort::CustomOp* basis_operator() {
  static const Operator<OfBasis> described;
  return &described;
}

const ort::CustomOp* edge_operator() {
  static const Operator<OfEdges> described;
  return &described;
}

const ort::CustomOp* norm_operator() {
  static const Operator<OfNorm> described;
  return &described;
}

}  // namespace kanserve
