// Random layers, right and wrong ones, beside a plain evaluation in double precision; for the sanitizers.
//   harness SEED COUNT
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "edges.h"
#include "layer.h"

using namespace kanserve;

namespace {

std::mt19937_64 rng;
int upto(int most) { return static_cast<int>(rng() % (most + 1)); }
double uniform(double low, double high) { return low + (high - low) * (rng() >> 11) * 0x1.0p-53; }
template <typename T> const T* exact(const std::vector<T>& of) {  // without room behind the last
  static std::vector<std::unique_ptr<T[]>> kept;
  kept.emplace_back(new T[of.size()]);
  std::copy(of.begin(), of.end(), kept.back().get());
  if (kept.size() > 64) kept.erase(kept.begin(), kept.begin() + 32);
  return kept.back().get();
}

double spline(const float* t, int count, int degree, int function, double x) {
  if (degree == 0) return x >= t[function] && x < t[function + 1] ? 1 : 0;
  const double left = (x - t[function]) / (static_cast<double>(t[function + degree]) - t[function]);
  const double right = (t[function + degree + 1] - x) / (static_cast<double>(t[function + degree + 1]) - t[function + 1]);
  return left * spline(t, count, degree - 1, function, x) + right * spline(t, count, degree - 1, function + 1, x);
}

float odd() {
  const float values[] = {0, -0.0f, 1e-45f, 1e30f, -1e30f, 3e38f, std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  return values[upto(8)];
}

// The values of all edges [rows, sources, outputs], after a comparison of the strongest with a sort of all values.
std::vector<float> edges_of(const Layer& layer, const float* x, int rows) {
  const size_t each = static_cast<size_t>(layer.sources) * layer.outputs;
  std::vector<float> values(rows * each);
  const Bounds bounds = prepare_bounds(layer, machine());
  const size_t count = 1 + rng() % std::min<size_t>(each, upto(3) ? 20 : 600);
  Scratch scratch;
  for (int done = 0; done < rows; done += kRows) {
    const int some = std::min(kRows, rows - done);
    scratch.fit(layer, some);
    float* to = values.data() + done * each;
    single_edges(machine())(layer, x + done * layer.sources, some, 0, layer.sources, {to, nullptr, nullptr}, scratch);
    std::vector<Strongest> strongest(some);
    for (Strongest& one : strongest) one.start(count);
    const EdgeSink sink{nullptr, strongest.data(), &bounds};
    single_edges(machine())(layer, x + done * layer.sources, some, 0, layer.sources, sink, scratch);
    for (int row = 0; row < some; ++row) {
      std::vector<uint32_t> order(each);
      for (size_t at = 0; at < each; ++at) order[at] = static_cast<uint32_t>(at);
      const auto size = [&](uint32_t edge) {
        const float value = to[row * each + edge];
        return std::isnan(value) ? std::numeric_limits<float>::infinity() : std::fabs(value);
      };
      std::stable_sort(order.begin(), order.end(), [&](uint32_t one, uint32_t other) { return size(one) > size(other); });
      const auto& found = strongest[row].sorted();
      for (size_t at = 0; at < count; ++at) {
        const float expected = to[row * each + order[at]];
        if (found[at].edge() == order[at] && std::memcmp(&found[at].value, &expected, sizeof expected) == 0) continue;
        std::printf("row %d, strongest %zu of %zu: edge %u, value %.9g, expected %u, %.9g\n", row, at, count, found[at].edge(),
                    found[at].value, order[at], expected);
        std::exit(1);
      }
    }
  }
  return values;
}

// One layer: 0 refused, 1 right; ends the process where it is wrong.
int once(long number, bool hostile) {
  const int sources = 1 + upto(upto(3) ? 20 : 70), outputs = 1 + upto(upto(3) ? 20 : 300), degree = 1 + upto(2);
  const int cells = 1 + upto(upto(2) ? 8 : upto(3) ? 60 : 200), functions = cells + degree, count = functions + degree + 1;
  const int rows = upto(4) ? 1 + upto(20) : 60 + upto(80), knot_rows = upto(1) ? 1 : sources;
  std::vector<float> knots, coef(static_cast<size_t>(functions) * sources * outputs), weights(sources * outputs);
  for (int row = 0; row < knot_rows; ++row) {
    float at = static_cast<float>(uniform(-3, 0));
    for (int knot = 0; knot < count; ++knot) {
      knots.push_back(at);
      at += static_cast<float>(uniform(0.05, 1));
    }
  }
  for (float& one : coef) one = static_cast<float>(uniform(-1, 1));
  for (float& one : weights) one = static_cast<float>(uniform(-1, 1));
  Tensors t{exact(knots), exact(coef), upto(2) ? exact(weights) : nullptr, knot_rows, count, sources, functions, outputs,
            degree, upto(1) ? 1.0f : 0.75f, Base::kNone, upto(1) == 1};
  if (t.weights) t.base = Base::kSilu;
  if (hostile) {
    for (int change = 0; change <= upto(3); ++change) {
      switch (upto(5)) {
        case 0: knots[rng() % knots.size()] = odd(); t.knots = exact(knots); break;
        case 1: std::swap(knots[rng() % knots.size()], knots[rng() % knots.size()]); t.knots = exact(knots); break;
        case 2: t.scale = odd(); break;
        case 3: t.degree = upto(8) - 2; break;
        case 4: knots[rng() % knots.size()] = std::nextafter(knots[0], 1e9f); t.knots = exact(knots); break;
        default: coef[rng() % coef.size()] = odd(); t.coef = exact(coef);
      }
    }
  }
  Layer layer;
  try {
    layer = prepare(t, machine());
  } catch (const std::invalid_argument&) {
    return 0;
  }
  std::vector<float> x(static_cast<size_t>(rows) * sources), start(outputs), y(static_cast<size_t>(rows) * outputs);
  for (float& one : x) one = upto(30) ? static_cast<float>(uniform(-4, 6)) : upto(2) || hostile ? knots[upto(count - 1)] : odd();
  for (float& one : start) one = static_cast<float>(uniform(-1, 1));
  Scratch scratch;
  scratch.fit(layer, rows);
  machine().evaluate(layer, exact(x), rows, exact(start), 0, y.data(), scratch);
  const std::vector<float> edges = edges_of(layer, exact(x), rows);
  std::vector<float> alone(outputs);
  const int row = upto(rows - 1);
  Scratch other;
  other.fit(layer, 1);
  machine().evaluate(layer, x.data() + static_cast<size_t>(row) * sources, 1, start.data(), 0, alone.data(), other);
  const std::vector<float> edges_alone = edges_of(layer, x.data() + static_cast<size_t>(row) * sources, 1);
  for (int output = 0; output < outputs; ++output) {
    double sum = start[output], size = 1;
    for (int source = 0; source < sources; ++source) {
      const double value = x[static_cast<size_t>(row) * sources + source];
      const float* own = knots.data() + (knot_rows == 1 ? 0 : static_cast<size_t>(source) * count);
      double edge = 0, edge_size = 1;
      if (std::isfinite(value))
        for (int function = 0; function < functions; ++function) {
          const double part = t.scale * spline(own, count, degree, function, value) *
                              coef[(static_cast<size_t>(function) * sources + source) * outputs + output];
          edge += part;
          edge_size += std::fabs(part);
        }
      if (t.weights) {
        const double part = value / (1 + std::exp(-value)) * weights[static_cast<size_t>(source) * outputs + output];
        edge += part;
        edge_size += std::fabs(part);
      }
      if (t.spreads) edge += value - value;
      sum += edge;
      size += edge_size - 1;
      const float own_edge = edges_alone[static_cast<size_t>(source) * outputs + output];
      const float in_batch = edges[(static_cast<size_t>(row) * sources + source) * outputs + output];
      const bool close = std::isfinite(edge) ? std::fabs(own_edge - edge) <= 3e-6 * edge_size : std::isnan(own_edge) == std::isnan(edge);
      if (!(hostile || close) || std::memcmp(&own_edge, &in_batch, sizeof in_batch) != 0) {
        std::printf("layer %ld: edge [%d, %d] is %.9g, in a batch %.9g, expected %.9g\n", number, source, output, own_edge, in_batch, edge);
        std::exit(1);
      }
    }
    const float found = y[static_cast<size_t>(row) * outputs + output];
    const bool same = std::isnan(found) ? std::isnan(alone[output]) : found == alone[output];
    const bool right = hostile || (std::isfinite(sum) && std::fabs(sum) < 1e30 ? std::fabs(found - sum) <= 3e-6 * size
                                                    : std::isfinite(sum) || std::isnan(found) == std::isnan(sum));
    if (!same || !right) {
      std::printf("layer %ld: [%d, %d], %d functions of degree %d, row %d of %d, output %d: %.9g, alone %.9g, expected %.9g of %.3g\n",
                  number, sources, outputs, functions, degree, row, rows, output, found, alone[output], sum, size);
      std::exit(1);
    }
  }
  return 1;
}

}  // namespace

int main(int, char** given) {
  const long seed = std::atol(given[1]), count = std::atol(given[2]);
  long right = 0, refused = 0;
  for (long at = 0; at < count; ++at) {
    rng.seed(seed + at);
    const bool hostile = at % 2;
    (once(seed + at, hostile) ? right : refused) += 1;
  }
  std::printf("%s %ld %ld\n", machine().name, right, refused);
}
