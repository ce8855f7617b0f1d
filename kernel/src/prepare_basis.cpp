// From the tensors of a graph to layers whose functions a program computes. All that an evaluation reads is at places that
// follow from what is checked here, and never from a value.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "basis_layer.h"

namespace kanserve {

#define EVALUATIONS(name)                                                                                              \
  namespace name {                                                                                                     \
  void evaluate_basis(const BasisLayer&, const float*, int64_t, const float*, int64_t, float*, BasisScratch&);         \
  void evaluate_edges(const EdgeLayer&, const float*, int64_t, const float*, int64_t, float*, EdgeScratch&);           \
  void evaluate_norm(const NormLayer&, const float*, int64_t, const float*, int64_t, float*, NormScratch&);            \
  }
#if defined(__x86_64__)
EVALUATIONS(avx512)
EVALUATIONS(avx2)
#endif
EVALUATIONS(portable)

namespace {

constexpr int64_t kMostUnits = 1 << 24, kMostFunctions = 1 << 13;
constexpr int kVectors = 4;            // of outputs in one block
constexpr int kTileNumbers = 8 * 1024;  // of the registers of a tile, so that they stay in the first cache
constexpr int kMostValues = 512, kLeastValues = 64;
constexpr int kMostOfWidest = 384;     // the same for the widest vector: 24 rows, four products of six

int up(int64_t number, int to) { return static_cast<int>((number + to - 1) / to * to); }

void check(const std::string& name, int64_t sources, int64_t outputs, int64_t functions) {
  if (sources < 1 || outputs < 1 || functions < 1 || sources > kMostUnits || outputs > kMostUnits ||
      functions > kMostFunctions || sources * functions > (int64_t{1} << 31) / std::min<int64_t>(outputs, 1 << 20))
    throw std::invalid_argument(name + ": " + std::to_string(sources) + " sources, " + std::to_string(outputs) +
                                " outputs and " + std::to_string(functions) + " functions are not a layer");
}

int values_of(const Program& program, int multiple, int width) {
  const int limit = width == kWidestVector ? kMostOfWidest : kMostValues;
  const int most = std::min(std::max(kTileNumbers / program.registers, kLeastValues), limit);
  return std::max(most / multiple, 1) * multiple;
}

// A row of coefficients in the order of functions.
const float* row_of(const BasisTensors& t, int function, int64_t source) {
  int which = 0;
  for (int64_t left = function;; ++which) {
    if (left < t.coef_functions[which]) return t.coef[which] + (left * t.sources + source) * t.outputs;
    left -= t.coef_functions[which];
  }
}

void set_coefficients(const BasisTensors& t, int width, BasisLayer& layer) {
  layer.coef.resize(static_cast<size_t>(layer.functions) * layer.sources * layer.padded);
  float* out = layer.coef.data();
  for (int first = 0; first < layer.sources; first += kGroup) {
    const int end = std::min(first + kGroup, layer.sources);
    int column = 0;
    for (const int vectors : layer.columns) {
      const int block = vectors * width, filled = std::min(block, layer.outputs - column);
      for (int function = 0; function < layer.functions; ++function)
        for (int source = first; source < end; ++source, out += block)
          std::memcpy(out, row_of(t, function, source) + column, filled * sizeof(float));
      column += block;
    }
  }
}

}  // namespace

BasisLayer prepare(const BasisTensors& t, int width) {
  const std::string name = "BasisLayer";
  check(name, t.sources, t.outputs, t.program.functions);
  int64_t functions = 0;
  for (int which = 0; which < 4; ++which) functions += t.coef[which] ? t.coef_functions[which] : 0;
  if (functions != t.program.functions) throw std::invalid_argument(name + ": coefficients of another number of functions");
  if (t.program.table_rows > 0 && t.program.table_lanes != t.sources)
    throw std::invalid_argument(name + ": tables of another number of sources");
  if (t.normalized && !(t.epsilon >= 0 && std::isfinite(t.epsilon)))
    throw std::invalid_argument(name + ": epsilon is not a number from 0 on");
  BasisLayer layer;
  layer.sources = static_cast<int>(t.sources);
  layer.outputs = static_cast<int>(t.outputs);
  layer.functions = static_cast<int>(functions);
  layer.packed = std::max(1, kGroup / layer.sources);
  layer.lanes = up(int64_t{layer.packed} * layer.sources, kGroup);
  layer.spreads = t.spreads;
  layer.normalized = t.normalized;
  layer.epsilon = t.epsilon;
  ProgramTensors program = t.program;
  program.repeat = layer.packed;
  program.inputs = t.normalized ? 2 : 1;
  layer.program = program_of(program, name);
  layer.values = values_of(layer.program, kGroup, width);
  int left = (layer.outputs + width - 1) / width;
  layer.padded = left * width;
  for (int vectors = kVectors; left > 0; left -= vectors) {
    while (vectors > left) vectors /= 2;
    layer.columns.push_back(vectors);
  }
  set_coefficients(t, width, layer);
  return layer;
}

void BasisScratch::fit(const BasisLayer& layer, int64_t rows) {
  const size_t most = static_cast<size_t>(std::min<int64_t>(rows, kRows));
  const auto grow = [](Floats& floats, size_t size) {
    if (floats.size() < size) floats.resize(size);
  };
  grow(sums, most * layer.padded);
  grow(registers, static_cast<size_t>(layer.program.registers) * layer.values);
  grow(inputs, 2 * static_cast<size_t>(layer.values));
  if (layer.normalized) grow(normalized, most * layer.sources + kWidestVector);
  grow(norm_row, layer.sources + kWidestVector);
}

EdgeLayer prepare(const EdgeTensors& t, int width) {
  const std::string name = "EdgeLayer";
  check(name, t.sources, t.outputs, t.functions);
  if (t.program.functions != 1 || t.program.table_rows != 0)
    throw std::invalid_argument(name + ": its program has " + std::to_string(t.program.functions) + " results, expected 1");
  EdgeLayer layer;
  layer.sources = static_cast<int>(t.sources);
  layer.outputs = static_cast<int>(t.outputs);
  layer.functions = static_cast<int>(t.functions);
  layer.padded = up(t.outputs, width);
  layer.spreads = t.spreads;
  ProgramTensors program = t.program;
  program.repeat = 1;
  program.inputs = 1;
  layer.program = program_of(program, name);
  layer.block = std::max(1, values_of(layer.program, 1, width) / layer.padded);
  const size_t rows = static_cast<size_t>(layer.sources) * layer.functions;
  const auto filled = [&](const float* from, Floats& to) {
    to.resize(rows * layer.padded);
    for (size_t row = 0; row < rows; ++row)
      std::memcpy(to.data() + row * layer.padded, from + row * layer.outputs, layer.outputs * sizeof(float));
  };
  filled(t.centre, layer.centre);
  filled(t.rate, layer.rate);
  filled(t.coef, layer.coef);
  return layer;
}

void EdgeScratch::fit(const EdgeLayer& layer, int64_t rows) {
  const size_t most = static_cast<size_t>(std::min<int64_t>(rows, kRows));
  const size_t values = static_cast<size_t>(layer.block) * layer.padded;
  if (sums.size() < most * layer.padded) sums.resize(most * layer.padded);
  if (registers.size() < values * layer.program.registers) registers.resize(values * layer.program.registers);
  if (inputs.size() < values) inputs.resize(values);
}

NormLayer prepare_norm(const float* scale, int64_t sources, int64_t groups, float epsilon) {
  const std::string name = "NormLayer";
  check(name, sources, sources, 1);
  if (groups < 1 || sources % groups != 0) throw std::invalid_argument(name + ": groups do not divide the sources");
  if (!(epsilon >= 0 && std::isfinite(epsilon))) throw std::invalid_argument(name + ": epsilon is not a number from 0 on");
  NormLayer layer;
  layer.sources = layer.outputs = static_cast<int>(sources);
  layer.size = static_cast<int>(sources / groups);
  layer.epsilon = epsilon;
  layer.scale.assign(scale, scale + sources);
  return layer;
}

void NormScratch::fit(const NormLayer& layer, int64_t) {
  const size_t size = static_cast<size_t>(layer.size) + kWidestVector;
  if (row.size() < size) row.resize(size);
}

// The function of the instruction set that a machine has.
#if defined(__x86_64__)
#define OF_MACHINE(function) \
  (machine.width == 16 ? avx512::function : machine.width == 8 ? avx2::function : portable::function)
#else
#define OF_MACHINE(function) ((void)machine, portable::function)
#endif

EvaluateBasis basis_evaluation(const Machine& machine) { return OF_MACHINE(evaluate_basis); }
EvaluateEdges edge_evaluation(const Machine& machine) { return OF_MACHINE(evaluate_edges); }
EvaluateNorm norm_evaluation(const Machine& machine) { return OF_MACHINE(evaluate_norm); }

}  // namespace kanserve
