// Random layers whose functions a program computes, right and wrong ones, compared with an evaluation in double precision;
// for the sanitizers.
//   program_harness SEED COUNT
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "basis_layer.h"

using namespace kanserve;

namespace {

std::mt19937_64 rng;
int upto(int most) { return static_cast<int>(rng() % (most + 1)); }
float uniform(double low, double high) { return static_cast<float>(low + (high - low) * (rng() >> 11) * 0x1.0p-53); }
std::vector<float> uniforms(size_t count, double low, double high) {
  std::vector<float> values(count);
  for (float& one : values) one = uniform(low, high);
  return values;
}

const float* exact(const std::vector<float>& of) {  // without room behind the last
  static std::vector<std::unique_ptr<float[]>> kept;
  kept.emplace_back(new float[of.size()]);
  std::copy(of.begin(), of.end(), kept.back().get());
  if (kept.size() > 64) kept.erase(kept.begin(), kept.begin() + 32);
  return kept.back().get();
}

float odd() {
  const float values[] = {0, -0.0f, 1e-45f, 0.5f, -1, 3, 1e9f, 3e38f, 1048576, 2097152, std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  return values[upto(12)];
}

// Instructions without jumps, which a rounding does not make large.
const Op kSmooth[] = {Op::kAdd,  Op::kSub,  Op::kMul,    Op::kMax,    Op::kMin,    Op::kNeg,     Op::kAbs,     Op::kSin,
                      Op::kCos,  Op::kTanh, Op::kSigmoid, Op::kRelu,  Op::kCopy,   Op::kSilu,    Op::kMulAdd,  Op::kMulSub,
                      Op::kSubMul, Op::kAffine, Op::kDistance, Op::kRadial, Op::kSinOf, Op::kCosOf, Op::kAtan, Op::kSoftplus, Op::kBellTimes, Op::kRidge};

double apply(Op op, double a, double b, double c) {
  const double e = std::exp(-a);
  switch (op) {
    case Op::kAdd: return a + b;
    case Op::kSub: return a - b;
    case Op::kMul: return a * b;
    case Op::kMax: return std::fmax(a, b);
    case Op::kMin: return std::fmin(a, b);
    case Op::kNeg: return -a;
    case Op::kAbs: return std::fabs(a);
    case Op::kSin: return std::sin(a);
    case Op::kCos: return std::cos(a);
    case Op::kTanh: return std::tanh(a);
    case Op::kSigmoid: return 1 / (1 + e);
    case Op::kRelu: return std::fmax(a, 0);
    case Op::kCopy: return a;
    case Op::kBellTimes: return a * std::exp(b * b * c);
    case Op::kAtan: return std::atan(a);
    case Op::kSoftplus: return std::log1p(std::exp(a));
    case Op::kSilu: return a / (1 + e);
    case Op::kMulAdd: return a * b + c;
    case Op::kMulSub: return a * b - c;
    case Op::kSubMul: return c - a * b;
    case Op::kAffine: return (a - b) * c;
    case Op::kDistance: return std::fabs(a - b) * c;
    case Op::kRadial: return std::exp(-((a - b) * c) * ((a - b) * c));
    case Op::kSinOf: return std::sin(a * b + c);
    case Op::kCosOf: return std::cos(a * b + c);
    case Op::kRidge: return 1 / (2 + std::exp((a - b) * c) + std::exp((b - a) * c));
    default: std::abort();
  }
}

// A program, its operands kept small by a tanh after every instruction of two values.
struct Random {
  std::vector<float> code, constants, tables;
  int registers, functions, rows, lanes, inputs;

  Random(int of_functions, int of_lanes, int table_rows, int of_inputs)
      : constants(uniforms(1 + upto(5), -1, 1)), tables(uniforms(static_cast<size_t>(table_rows) * of_lanes, -1, 1)),
        registers(of_functions + 2 + upto(4)), functions(of_functions), rows(table_rows), lanes(of_lanes), inputs(of_inputs) {
    std::vector<int> written;
    const auto any_constant = [&] { return -1 - upto(static_cast<int>(constants.size()) - 1); };
    const auto any = [&]() -> int {
      switch (upto(written.empty() ? 2 : 4)) {
        case 0: return any_constant();
        case 1: return kInput + upto(inputs - 1);
        case 2: return rows ? kTable + upto(rows - 1) : kInput;
        default: return written[upto(static_cast<int>(written.size()) - 1)];
      }
    };
    const auto add = [&](Op op, int to, int a, int b, int c) {
      for (const int number : {static_cast<int>(op), to, a, b, c}) code.push_back(static_cast<float>(number));
      written.push_back(to);
    };
    const int ridges = upto(2) ? 0 : upto(functions);  // next to each other, which are computed together
    for (int function = 0, rate = any_constant(); function < ridges; ++function)
      add(Op::kRidge, function, kInput + inputs - 1, any_constant(), rate);
    for (int function = ridges; function < functions; ++function) {
      for (int more = upto(3); more >= 0; --more) {
        const int temporary = functions + upto(registers - functions - 1);
        add(kSmooth[upto(sizeof kSmooth / sizeof *kSmooth - 1)], temporary, any(), any(), any());
        add(Op::kTanh, temporary, temporary, 0, 0);
      }
      add(upto(1) ? Op::kCopy : Op::kSin, function, any(), 0, 0);
    }
  }

  ProgramTensors tensors() const {
    ProgramTensors t{};
    t.code = exact(code);
    t.constants = exact(constants);
    t.tables = exact(tables);
    t.instructions = static_cast<int64_t>(code.size()) / 5;
    t.constant_count = static_cast<int64_t>(constants.size());
    t.table_rows = rows;
    t.table_lanes = lanes;
    t.registers = registers;
    t.functions = functions;
    t.repeat = 1;
    return t;
  }

  void damage() {
    // A logarithm of anything, whose value may jump, so that right programs have none.
    code[5 * (rng() % (code.size() / 5))] = static_cast<float>(Op::kLog);
    for (int change = 0; change <= upto(2); ++change) {
      float& number = code[rng() % code.size()];
      switch (upto(3)) {
        case 0: number = odd(); break;
        case 1: number += static_cast<float>(upto(8) - 4); break;
        case 2: number = static_cast<float>(upto(40)); break;
        default: constants[rng() % constants.size()] = odd();
      }
    }
  }

  std::vector<double> run(const double* given, int lane) const {
    std::vector<double> at(registers);
    const auto value = [&](float number) {
      const int of = static_cast<int>(number);
      if (of < 0) return static_cast<double>(constants[-1 - of]);
      if (of >= kInput) return given[of - kInput];
      if (of >= kTable) return static_cast<double>(tables[static_cast<size_t>(of - kTable) * lanes + lane]);
      return at[of];
    };
    for (size_t first = 0; first < code.size(); first += 5) {
      const float* of = code.data() + first;
      at[static_cast<int>(of[1])] = apply(static_cast<Op>(static_cast<int>(of[0])), value(of[2]), value(of[3]), value(of[4]));
    }
    return at;
  }
};

// Ends the process if a row differs from the same row by itself, or from the expected sums.
void compare(long number, const char* kind, const std::vector<float>& y, const std::vector<float>& single,
             const std::vector<double>& expected, const std::vector<double>& sizes, int row, bool hostile) {
  const int outputs = static_cast<int>(single.size());
  for (int output = 0; output < outputs; ++output) {
    const float found = y[static_cast<size_t>(row) * outputs + output];
    const bool same = std::isnan(found) ? std::isnan(single[output]) : found == single[output];
    const bool right = hostile || (std::isfinite(expected[output]) ? std::fabs(found - expected[output]) <= 1e-5 * sizes[output]
                                                                   : std::isnan(found) == std::isnan(expected[output]));
    if (!same || !right) {
      std::printf("%s %ld, row %d, output %d: %.9g, by itself %.9g, expected %.9g of %.3g\n", kind, number, row, output, found,
                  single[output], expected[output], sizes[output]);
      std::exit(1);
    }
  }
}

template <typename Layer, typename Scratch, typename Evaluate>
std::vector<float> evaluated(const Layer& layer, Evaluate evaluate, const std::vector<float>& x, const std::vector<float>& start) {
  const int64_t rows = static_cast<int64_t>(x.size()) / layer.sources;
  std::vector<float> y(static_cast<size_t>(rows) * layer.outputs);
  Scratch scratch;
  scratch.fit(layer, rows);
  evaluate(layer, exact(x), rows, exact(start), 0, y.data(), scratch);
  return y;
}

int basis(long number, bool hostile) {
  const int sources = 1 + upto(upto(3) ? 20 : 90), outputs = 1 + upto(upto(3) ? 20 : 200), functions = 1 + upto(upto(3) ? 8 : 40);
  const int rows = upto(4) ? 1 + upto(20) : 60 + upto(80), parts = 1 + upto(std::min(functions, 4) - 1);
  const bool normalized = sources > 2 && upto(2) == 0;
  Random program(functions, sources, upto(3), normalized ? 2 : 1);
  if (hostile) program.damage();
  BasisTensors t{};
  std::vector<std::vector<float>> coef;
  for (int part = 0, left = functions; part < parts; ++part) {
    t.coef_functions[part] = part == parts - 1 ? left : 1;
    left -= 1;
    coef.push_back(uniforms(static_cast<size_t>(t.coef_functions[part]) * sources * outputs, -1, 1));
    t.coef[part] = exact(coef.back());
  }
  t.sources = sources;
  t.outputs = outputs;
  t.program = program.tensors();
  t.spreads = upto(1) == 1;
  t.normalized = normalized;
  t.epsilon = 1e-3f;
  BasisLayer layer;
  try {
    layer = prepare(t, machine().width);
  } catch (const std::invalid_argument&) {
    return 0;
  }
  std::vector<float> x = uniforms(static_cast<size_t>(rows) * sources, -2, 2), start = uniforms(outputs, -1, 1);
  if (hostile) x[rng() % x.size()] = odd();
  const auto y = evaluated<BasisLayer, BasisScratch>(layer, basis_evaluation(machine()), x, start);
  const int row = upto(rows - 1);
  const float* own = x.data() + static_cast<size_t>(row) * sources;
  const auto single = evaluated<BasisLayer, BasisScratch>(layer, basis_evaluation(machine()), {own, own + sources}, start);
  std::vector<double> expected(start.begin(), start.end()), sizes(outputs, 1.0);
  double mean = 0, variance = 0;
  for (int source = 0; source < sources; ++source) mean += own[source] / static_cast<double>(sources);
  for (int source = 0; source < sources; ++source) variance += (own[source] - mean) * (own[source] - mean) / sources;
  for (int source = 0; source < sources && !hostile; ++source) {
    const double given[] = {own[source], (own[source] - mean) / std::sqrt(variance + t.epsilon)};
    const auto values = program.run(given, source);
    for (int function = 0, part = 0, first = 0; function < functions; ++function) {
      if (function - first == t.coef_functions[part]) first += static_cast<int>(t.coef_functions[part++]);
      for (int output = 0; output < outputs; ++output) {
        const double added = values[function] * coef[part][(static_cast<size_t>(function - first) * sources + source) * outputs + output];
        expected[output] += added;
        sizes[output] += std::fabs(added);
      }
    }
  }
  compare(number, "basis", y, single, expected, sizes, row, hostile);
  return 1;
}

int edges(long number, bool hostile) {
  const int sources = 1 + upto(20), outputs = 1 + upto(upto(3) ? 20 : 200), functions = 1 + upto(3), rows = 1 + upto(upto(3) ? 10 : 90);
  Random program(1, 1, 0, 1);
  if (hostile) program.damage();
  const size_t count = static_cast<size_t>(sources) * functions * outputs;
  std::vector<float> centre = uniforms(count, -1, 1), rate = uniforms(count, -1, 1), coef = uniforms(count, -1, 1);
  if (hostile && upto(1)) rate[rng() % count] = odd();
  EdgeLayer layer;
  try {
    layer = prepare(EdgeTensors{exact(centre), exact(rate), exact(coef), sources, outputs, functions, program.tensors(), false},
                    machine().width);
  } catch (const std::invalid_argument&) {
    return 0;
  }
  std::vector<float> x = uniforms(static_cast<size_t>(rows) * sources, -2, 2), start = uniforms(outputs, -1, 1);
  if (hostile) x[rng() % x.size()] = odd();
  const auto y = evaluated<EdgeLayer, EdgeScratch>(layer, edge_evaluation(machine()), x, start);
  const int row = upto(rows - 1);
  const float* own = x.data() + static_cast<size_t>(row) * sources;
  const auto single = evaluated<EdgeLayer, EdgeScratch>(layer, edge_evaluation(machine()), {own, own + sources}, start);
  std::vector<double> expected(start.begin(), start.end()), sizes(outputs, 1.0);
  for (size_t edge = 0; edge < count && !hostile; ++edge) {
    const double given[] = {(own[edge / outputs / functions] - static_cast<double>(centre[edge])) * rate[edge]};
    const double added = program.run(given, 0)[0] * coef[edge];
    expected[edge % outputs] += added;
    sizes[edge % outputs] += std::fabs(added);
  }
  compare(number, "edges", y, single, expected, sizes, row, hostile);
  return 1;
}

int norm(long number) {
  const int size = 1 + upto(40), groups = 1 + upto(3), sources = size * groups, rows = 1 + upto(4);
  const std::vector<float> scale = uniforms(sources, -1, 1), start = uniforms(sources, -1, 1);
  if (upto(3) == 0) {
    try {
      prepare_norm(scale.data(), sources, sources + 1 + upto(3), 1e-5f);
    } catch (const std::invalid_argument&) {
      return 0;
    }
    std::exit(1);
  }
  const NormLayer layer = prepare_norm(exact(scale), sources, groups, 1e-5f);
  const std::vector<float> x = uniforms(static_cast<size_t>(rows) * sources, -2, 2);
  const auto y = evaluated<NormLayer, NormScratch>(layer, norm_evaluation(machine()), x, start);
  const int row = upto(rows - 1);
  const float* own = x.data() + static_cast<size_t>(row) * sources;
  const auto single = evaluated<NormLayer, NormScratch>(layer, norm_evaluation(machine()), {own, own + sources}, start);
  std::vector<double> expected(sources), sizes(sources, 3.0);
  for (int first = 0; first < sources; first += size) {
    double mean = 0, variance = 0;
    for (int at = first; at < first + size; ++at) mean += own[at] / static_cast<double>(size);
    for (int at = first; at < first + size; ++at) variance += (own[at] - mean) * (own[at] - mean) / size;
    for (int at = first; at < first + size; ++at)
      expected[at] = (own[at] - mean) / std::sqrt(variance + layer.epsilon) * scale[at] + start[at];
  }
  compare(number, "norm", y, single, expected, sizes, row, false);
  return 1;
}

}  // namespace

int main(int, char** given) {
  const long seed = std::atol(given[1]), count = std::atol(given[2]);
  long right = 0, refused = 0;
  for (long at = 0; at < count; ++at) {
    rng.seed(seed + at);
    const bool hostile = at % 2;
    const int kind = at / 2 % 5;
    (kind < 3 ? basis(seed + at, hostile) : kind == 3 ? edges(seed + at, hostile) : norm(seed + at)) ? ++right : ++refused;
  }
  std::printf("%s %ld %ld\n", machine().name, right, refused);
}
