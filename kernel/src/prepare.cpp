// From the tensors of a graph, which somebody may have made to harm, to a layer. All that `evaluate` reads lies at
// places that follow from what is checked here, and never from a value.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "edges.h"
#include "layer.h"

namespace kanserve {

namespace avx512 {
void evaluate(const Layer&, const float*, int64_t, const float*, int64_t, float*, Scratch&);
void evaluate_single_edges(const Layer&, const float*, int, int, int, const EdgeSink&, Scratch&);
}
namespace avx2 {
void evaluate(const Layer&, const float*, int64_t, const float*, int64_t, float*, Scratch&);
void evaluate_single_edges(const Layer&, const float*, int, int, int, const EdgeSink&, Scratch&);
}
namespace portable {
void evaluate(const Layer&, const float*, int64_t, const float*, int64_t, float*, Scratch&);
void evaluate_single_edges(const Layer&, const float*, int, int, int, const EdgeSink&, Scratch&);
}

namespace {

constexpr int64_t kMostUnits = 1 << 24, kMostFunctions = 1 << 20;
constexpr size_t kWidest = 16;           // floats of the widest vector
constexpr int kVectors = 8;              // of outputs in one block
constexpr int64_t kCache = 40 * 1024;    // bytes of a core's first cache that coefficients may fill
constexpr int kMostBlock = 64;           // sources whose basis is known at a time
constexpr int kLeastPart = 4;            // sources whose coefficients are read at a time, or sums are fetched too often
// Knots that are compared one after the other, which is faster up to these numbers: those that all sources share, or that
// each source has by itself, where a table for each source costs more reads.
constexpr int kLinearShared = 48, kLinearOwn = 128;
constexpr int kSmall = 64;               // numbers of four vectors of the widest machine
constexpr int kMostSteps = 3;            // knots of a bucket that are compared
constexpr double kNarrowestCell = 1e-10, kWidestCell = 1e10;  // of a cell: its cube and the inverse of it are float32 numbers
constexpr double kFarthest = 1e30;       // of a knot, as in kanexport/bases/bspline.py

const Machine kMachines[] = {
#if defined(__x86_64__)
    {"avx512", 16, avx512::evaluate},
    {"avx2", 8, avx2::evaluate},
#endif
    {"portable", 4, portable::evaluate},
};

bool has(const Machine& machine) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (machine.width == 16) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (machine.width == 8) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return machine.width == 4;
}

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument("SplineLayer: " + why); }

void check_knots(const Tensors& t) {
  for (int64_t row = 0; row < t.knot_rows; ++row) {
    const float* knots = t.knots + row * t.knots_of_row;
    for (int64_t at = 0; at < t.knots_of_row; ++at) {
      const double step = at ? static_cast<double>(knots[at]) - knots[at - 1] : 1.0;
      if (!(std::fabs(knots[at]) < kFarthest) || !(step >= kNarrowestCell && step <= kWidestCell))
        refuse("knots of source " + std::to_string(row) + " are too far or too near, or do not increase");
    }
  }
}

void check(const Tensors& t) {
  if (t.degree < 1 || t.degree > 3) refuse("degree is " + std::to_string(t.degree) + ", expected 1 to 3");
  if (!std::isfinite(t.scale)) refuse("scale is not finite");
  if (t.sources < 1 || t.outputs < 1 || t.functions <= t.degree || t.sources > kMostUnits || t.outputs > kMostUnits ||
      t.functions > kMostFunctions)
    refuse(std::to_string(t.sources) + " sources, " + std::to_string(t.outputs) + " outputs and " +
           std::to_string(t.functions) + " functions of degree " + std::to_string(t.degree) + " are no layer");
  if (t.knots_of_row != t.functions + t.degree + 1)
    refuse(std::to_string(t.knots_of_row) + " knots for " + std::to_string(t.functions) + " functions");
  if (t.knot_rows != 1 && t.knot_rows != t.sources)
    refuse("knots of " + std::to_string(t.knot_rows) + " sources, expected 1 or " + std::to_string(t.sources));
  check_knots(t);
}

struct Polynomial {
  double of[kTaps] = {};  // from the constant on, of how far a value is above the knot at its cell's start

  // Adds (low + slope * d) * other.
  void add(double low, double slope, const Polynomial& other) {
    for (int power = 0; power < kTaps; ++power) {
      of[power] += low * other.of[power];
      if (power + 1 < kTaps) of[power + 1] += slope * other.of[power];
    }
  }
};

// The functions that live in one cell, `cell - degree` to `cell`, by the Cox-de Boor recursion on polynomials, in
// double precision. A function that would reach beyond the knots stays zero.
void in_cell(const float* knots, int count, int cell, int degree, Polynomial (&live)[kTaps]) {
  const double here = knots[cell];
  live[0] = Polynomial{{1.0}};
  for (int level = 1; level <= degree; ++level) {
    Polynomial next[kTaps];
    for (int r = 0; r <= level; ++r) {
      const int function = cell - level + r;
      if (function < 0 || function + level + 1 >= count) continue;
      const double first = knots[function], second = knots[function + 1];
      const double before_last = knots[function + level], last = knots[function + level + 1];
      if (r > 0) next[r].add((here - first) / (before_last - first), 1 / (before_last - first), live[r - 1]);
      if (r < level) next[r].add((last - here) / (last - second), -1 / (last - second), live[r]);
    }
    std::copy(std::begin(next), std::end(next), std::begin(live));
  }
}

void set_polynomials(const Tensors& t, Layer& layer) {
  const int count = layer.knots;
  // Lanes beyond the last source look into the table too.
  const size_t rows = layer.shared || layer.lane_rows > 1 ? t.knot_rows : t.knot_rows + kWidest;
  layer.polynomials.assign(rows * (count + 1) * kPolynomials, 0.0f);
  for (int64_t row = 0; row < t.knot_rows; ++row) {
    for (int cell = 0; cell + 1 < count; ++cell) {
      Polynomial live[kTaps];
      in_cell(t.knots + row * count, count, cell, t.degree, live);
      float* out = layer.polynomials.data() + (static_cast<size_t>(row) * (count + 1) + cell + 1) * kPolynomials;
      const int start = std::min(std::max(cell - t.degree, 0), layer.last);
      for (int r = 0; r <= t.degree; ++r) {
        const int function = cell - t.degree + r;
        if (function < 0 || function >= t.functions) continue;
        for (int power = 0; power < kTaps; ++power)
          out[power * kTaps + function - start] = static_cast<float>(t.scale * live[r].of[power]);
      }
    }
  }
  for (const float value : layer.polynomials)
    if (!std::isfinite(value)) refuse("cells next to each other are too unlike, or the scale is too large");
}

void set_lanes(const Tensors& t, int width, Layer& layer) {
  layer.lane_rows = std::max(1, width / layer.sources);
  layer.lanes = layer.lane_rows > 1 ? layer.lane_rows * layer.sources : width;
  if (layer.lane_rows > 1) layer.block = layer.sources;  // rows follow one another without a gap
  const auto source_of = [&](int lane) { return layer.lane_rows > 1 ? lane % layer.sources : lane; };
  for (int lane = 0; lane < width; ++lane) {
    const bool beyond = layer.shared || source_of(lane) >= layer.sources;
    layer.lane_polynomials.push_back(beyond ? 0 : source_of(lane) * (layer.knots + 1) * kPolynomials);
  }
  const int groups = layer.shared ? 1 : (layer.sources + width - 1) / width;
  const size_t rows = (layer.knots + 3) / 4 * 4;
  layer.knots_by_lane.assign(groups * rows * width, std::numeric_limits<float>::quiet_NaN());
  for (int group = 0; group < groups; ++group) {
    for (int lane = 0; lane < width; ++lane) {
      const int source = layer.shared ? 0 : group * width + source_of(lane);
      if (source >= layer.sources) continue;
      for (int at = 0; at < layer.knots; ++at)
        layer.knots_by_lane[(group * rows + at) * width + lane] =
            t.knots[static_cast<size_t>(source) * layer.knots + at];
    }
  }
}

// The bucket of a value as `evaluate` computes it: no operation here may be joined with another, so that both are the same,
// and a larger value is in the same bucket or in a later one.
int bucket_of(float x, float first, float inverse, int buckets) {
  const float place = (x - first) * inverse;
  return static_cast<int>(std::min(place > 0 ? place : 0.0f, static_cast<float>(buckets)));
}

// Knots of a row in one bucket, at most. `table`: [buckets + 1], the number of knots in buckets before each, less one.
int set_table(const float* knots, int count, float inverse, int buckets, int32_t* table) {
  int most = 0, before = 0;
  for (int bucket = 0; bucket <= buckets; ++bucket) {
    table[bucket] = before - 1;
    int inside = 0;
    while (before < count && bucket_of(knots[before], knots[0], inverse, buckets) == bucket) ++before, ++inside;
    most = std::max(most, inside);
  }
  return most;
}

void set_search(const Tensors& t, int width, Layer& layer) {
  const int count = layer.knots;
  if (count <= (layer.shared ? kLinearShared : kLinearOwn)) return;
  Search& search = layer.search;
  search.used = true;
  int halves = 1;
  while (halves <= count) halves *= 2;
  search.knots_of_row = halves + 1;
  const size_t rows = static_cast<size_t>(t.knot_rows);
  const size_t padded = rows + (layer.shared || layer.lane_rows > 1 ? 0 : kWidest);  // lanes beyond the last source read too
  search.knots.assign(padded * search.knots_of_row, std::numeric_limits<float>::quiet_NaN());
  for (size_t row = 0; row < rows; ++row)
    std::memcpy(search.knots.data() + row * search.knots_of_row, t.knots + row * count, count * sizeof(float));
  std::vector<float> inverse(rows), chosen(rows);
  for (const int factor : {1, 2, 4}) {
    const int buckets = factor * (count - 1);
    std::vector<int32_t> table(padded * (buckets + 1));
    int steps = 0;
    for (size_t row = 0; row < rows; ++row) {
      const float* knots = t.knots + row * count;
      inverse[row] = static_cast<float>(buckets / (static_cast<double>(knots[count - 1]) - knots[0]));
      steps = std::max(steps, set_table(knots, count, inverse[row], buckets, table.data() + row * (buckets + 1)));
    }
    if (steps > kMostSteps || (search.buckets && steps >= search.steps)) continue;
    search.buckets = buckets;
    search.steps = steps;
    search.table = std::move(table);
    chosen = inverse;
    if (steps == 1) break;
  }
  search.small = layer.shared && search.buckets && search.buckets < kSmall && count < kSmall;
  if (search.small) search.table.resize(kSmall);
  const size_t lanes = layer.shared || layer.lane_rows > 1 ? width : rows + width;
  search.first.assign(lanes, 0.0f);
  search.inverse.assign(lanes, 0.0f);
  for (size_t lane = 0; lane < lanes; ++lane) {
    const size_t row = layer.shared ? 0 : layer.lane_rows > 1 ? lane % layer.sources : lane;
    const bool beyond = row >= padded;
    search.first[lane] = row < rows ? t.knots[row * count] : 0.0f;
    search.inverse[lane] = row < rows ? chosen[row] : 0.0f;
    if (lane >= static_cast<size_t>(width)) continue;
    search.lane_knots.push_back(beyond ? 0 : static_cast<int>(row) * search.knots_of_row);
    search.lane_table.push_back(beyond ? 0 : static_cast<int>(row) * (search.buckets + 1));
  }
}

void set_coefficients(const Tensors& t, int width, Layer& layer) {
  layer.coef.resize(static_cast<size_t>(layer.sources) * layer.per_source * layer.padded);
  float* out = layer.coef.data();
  int column = 0;
  for (const int vectors : layer.columns) {
    const int block = vectors * width, filled = std::min(block, layer.outputs - column);
    for (int64_t source = 0; source < t.sources; ++source) {
      for (int row = 0; row < layer.per_source; ++row, out += block) {
        const float* from = nullptr;
        if (row < t.functions) from = t.coef + (row * t.sources + source) * t.outputs;
        if (row == layer.per_source - 1) from = t.weights ? t.weights + source * t.outputs : nullptr;
        if (from) std::memcpy(out, from + column, filled * sizeof(float));
      }
    }
    column += block;
  }
}

}  // namespace

const Machine& machine() {
  static const Machine& chosen = []() -> const Machine& {
    const char* wanted = std::getenv("KANKERNEL_MACHINE");
    for (const Machine& one : kMachines)
      if (has(one) && (!wanted || std::strcmp(wanted, one.name) == 0)) return one;
    return kMachines[sizeof kMachines / sizeof *kMachines - 1];
  }();
  return chosen;
}

Bounds prepare_bounds(const Layer& layer, const Machine& machine) {
  Bounds bounds;
  size_t coef = 0;
  int column = 0;
  for (const int vectors : layer.columns) {
    const int width = vectors * machine.width, step = std::min<int>(width, kWidest);
    for (int at = 0; at < width && column + at < layer.outputs; at += step)
      bounds.chunks.push_back({coef + at, width, column + at, std::min(step, layer.outputs - column - at)});
    coef += static_cast<size_t>(layer.sources) * layer.per_source * width;
    column += width;
  }
  const size_t rows = static_cast<size_t>(layer.sources) * layer.per_source;
  const int count = static_cast<int>(bounds.chunks.size());
  bounds.padded = (count + machine.width - 1) / machine.width * machine.width;
  bounds.most.assign(rows * bounds.padded, 0.0f);
  for (int at = 0; at < count; ++at) {
    const Bounds::Chunk& chunk = bounds.chunks[at];
    for (size_t row = 0; row < rows; ++row) {
      const float* from = layer.coef.data() + chunk.coef + row * chunk.width;
      float& most = bounds.most[row * bounds.padded + at];
      for (int output = 0; output < chunk.filled; ++output) {
        const float size = std::fabs(from[output]);
        most = std::isnan(size) ? std::numeric_limits<float>::infinity() : std::max(most, size);
      }
    }
  }
  return bounds;
}

EvaluateSingleEdges single_edges(const Machine& machine) {
#if defined(__x86_64__)
  if (machine.width == 16) return avx512::evaluate_single_edges;
  if (machine.width == 8) return avx2::evaluate_single_edges;
#endif
  (void)machine;
  return portable::evaluate_single_edges;
}

void Scratch::fit(const Layer& layer, int64_t rows) {
  const size_t most = static_cast<size_t>(std::min<int64_t>(rows, kRows));
  if (sums.size() < most * layer.padded) sums.resize(most * layer.padded);
  const size_t values = most * layer.block + kWidest;
  if (starts.size() < values) {
    taps.resize(values * kTaps);
    base.resize(values);
    starts.resize(values);
  }
}

Layer prepare(const Tensors& t, const Machine& machine) {
  check(t);
  const int width = machine.width;
  Layer layer;
  layer.sources = static_cast<int>(t.sources);
  layer.outputs = static_cast<int>(t.outputs);
  layer.knots = static_cast<int>(t.knots_of_row);
  layer.degree = t.degree;
  const int functions = std::max<int>(static_cast<int>(t.functions), kTaps);
  layer.last = functions - kTaps;
  layer.per_source = functions + 1;
  layer.shared = t.knot_rows == 1;
  layer.silu = t.base == Base::kSilu;
  layer.spreads = t.spreads;
  int left = (layer.outputs + width - 1) / width;
  layer.padded = left * width;
  for (int vectors = kVectors; left > 0; left -= vectors) {
    while (vectors > left) vectors /= 2;
    layer.columns.push_back(vectors);
  }
  const int64_t bytes = int64_t{4} * layer.per_source * std::min(layer.padded, kVectors * width);
  for (layer.part = kLeastPart; layer.part * 2 * bytes <= kCache;) layer.part *= 2;
  layer.block = (std::min(layer.part, kMostBlock) + width - 1) / width * width;
  layer.part = std::min(layer.part, layer.block);
  set_lanes(t, width, layer);
  set_search(t, width, layer);
  set_polynomials(t, layer);
  set_coefficients(t, width, layer);
  return layer;
}

}  // namespace kanserve
