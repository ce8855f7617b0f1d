// One KAN layer of B-splines, prepared for evaluation: y[b, o] = start[o] + sum over i of
//   base(x[b, i]) * weight[i, o] + sum over the k + 1 live functions c of B_c(x[b, i]) * coef[c, i, o].
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace kanserve {

constexpr int kTaps = 4;          // functions that live in one cell, for degrees 1 to 3
constexpr int kPolynomials = kTaps * 4;  // floats: of every tap, from the constant on, one power after the other
constexpr int kRows = 64;         // of one pass over the coefficients

// Memory that begins where a line of the cache does: a vector that lies on two lines costs two reads.
template <typename T>
struct OnLines {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  OnLines() = default;
  template <typename U>
  OnLines(const OnLines<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* at, size_t) { ::operator delete(at, kLine); }
  template <typename U>
  bool operator==(const OnLines<U>&) const { return true; }
  template <typename U>
  bool operator!=(const OnLines<U>&) const { return false; }
};
using Floats = std::vector<float, OnLines<float>>;

enum class Base { kNone, kSilu };

// What a graph holds. Pointers stay the caller's and are read in `prepare` only.
struct Tensors {
  const float* knots;    // [knot_rows, knots_of_row]; one row where all sources share them
  const float* coef;     // [functions * sources, outputs], of function 0 first
  const float* weights;  // [sources, outputs] of the base branch, or null
  int64_t knot_rows, knots_of_row, sources, functions, outputs;
  int degree;
  float scale;           // every function is multiplied by it
  Base base;
  bool spreads;          // whether a source that is not finite makes all of its row NaN
};

// How the cell of a value is found where knots are many. Values of one bucket, a range of equal width, have a table entry:
// the number of knots below the bucket, less one. `steps` knots at most are in a bucket, and are compared. Without buckets
// the cell is found by halves.
struct Search {
  bool used = false;
  bool small = false;                 // knots that all sources share, of which there are 63 at most, as there are buckets
  int buckets = 0, steps = 0;
  int knots_of_row = 0;               // knots of a row in `knots`, with NaN behind the last
  std::vector<int> lane_knots, lane_table;  // where each lane's source has its own, from the first lane's on
  Floats knots;                       // [rows, knots_of_row]
  Floats first, inverse;              // by lane: bucket = (x - first) * inverse
  std::vector<int32_t> table;         // [rows, buckets + 1]
};

struct Layer {
  int sources = 0, outputs = 0, knots = 0;
  int last = 0;          // the highest number that the first of four functions in a row has
  int degree = 0;
  int per_source = 0;    // rows of coefficients a source: the functions, and the base branch's weights
  int padded = 0;        // outputs, to whole vectors
  int block = 0;         // sources whose basis is known at a time
  int part = 0;          // of them, sources whose coefficients are read at a time
  int lanes = 0;         // values that are looked at together: vectors of one row, or of several where rows are short
  int lane_rows = 1;     // rows of which they are
  bool shared = false;   // all sources have one row of knots
  bool silu = false, spreads = false;
  std::vector<int> columns;        // vectors of each block of outputs
  std::vector<int> lane_polynomials;  // where each lane's source has its own, from the first lane's on
  Floats knots_by_lane;  // [groups of sources, knots and NaN to a multiple of 4, vector]
  Search search;
  Floats polynomials;    // [sources or 1, cells + 2, kPolynomials], the first and last cell outside
  Floats coef;           // [blocks of outputs][sources, per_source, outputs of the block]
};

struct Scratch {
  Floats sums, taps, base;
  std::vector<int> starts;
  void fit(const Layer& layer, int64_t rows);  // throws std::bad_alloc
};

// `x` [rows, sources] to `y` [rows, outputs]; `start` [rows or 1, outputs], `start_step` 0 or outputs.
using Evaluate = void (*)(const Layer&, const float* x, int64_t rows, const float* start, int64_t start_step, float* y,
                          Scratch&);

struct Machine {
  const char* name;
  int width;  // floats of a vector
  Evaluate evaluate;
};

// The best of what this processor has, or the one that KANKERNEL_MACHINE names.
const Machine& machine();

// Throws std::invalid_argument for tensors that are no layer, std::bad_alloc.
Layer prepare(const Tensors&, const Machine&);

}  // namespace kanserve
