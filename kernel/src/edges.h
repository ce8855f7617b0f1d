// Single edges of a layer of splines: all of their values, or the k of largest magnitude of a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "layer.h"

namespace kanserve {

constexpr int64_t kMostEdges = int64_t{1} << 31;  // sources times outputs: an edge is a number of 32 bits
constexpr int64_t kMostStrongest = 4096;          // k, at most

// The k edges of largest magnitude among those that were offered, in any order. NaN counts as infinite, and of equal
// magnitudes the edge with the lower number is first, so that the result does not depend on the order.
class Strongest {
 public:
  struct Found {
    uint64_t rank;  // the bits of the magnitude, then those of the edge's number, inverted
    float value;
    uint32_t edge() const { return ~static_cast<uint32_t>(rank); }
  };

  // Forget what was offered. Throws std::bad_alloc.
  void start(size_t count) {
    count_ = count;
    floor_ = 0;
    found_.clear();
    found_.reserve(count + kSpare);
  }

  // Bits of a magnitude: an edge below is not among the strongest.
  int32_t least() const { return static_cast<int32_t>(floor_ >> 32); }

  void offer(uint32_t edge, float value) {
    offer(Found{rank_of(value) << 32 | static_cast<uint32_t>(~edge), value});
  }

  void offer(const Found& found) {
    if (found.rank <= floor_) return;
    found_.push_back(found);
    if (found_.size() == count_ + kSpare) cut();
  }

  // The strongest, strongest first.
  const std::vector<Found>& sorted() {
    if (found_.size() > count_) cut();
    std::sort(found_.begin(), found_.end(), above);
    return found_;
  }

  const std::vector<Found>& found() const { return found_; }

 private:
  static constexpr size_t kSpare = 256;  // edges that are kept until the weakest are dropped

  static bool above(const Found& one, const Found& other) { return one.rank > other.rank; }

  static uint64_t rank_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return std::min<uint32_t>(bits & 0x7FFFFFFF, 0x7F800000);
  }

  void cut() {
    std::nth_element(found_.begin(), found_.begin() + (count_ - 1), found_.end(), above);
    found_.resize(count_);
    floor_ = found_.back().rank;
  }

  size_t count_ = 0;
  uint64_t floor_ = 0;
  std::vector<Found> found_;
};

// The largest magnitudes of coefficients, by which most edges are seen to be too small without their coefficients. A chunk is
// up to 16 outputs of a block.
struct Bounds {
  struct Chunk {
    size_t coef;       // where the coefficients of source 0 are
    int width;         // outputs of the block
    int column;        // the first output
    int filled;        // outputs
  };
  int padded = 0;      // chunks, to whole vectors
  std::vector<Chunk> chunks;
  Floats most;         // [sources, per_source, padded]; infinite for NaN
};

// Throws std::bad_alloc.
Bounds prepare_bounds(const Layer&, const Machine&);

// Where the values of one run are written: all values [rows, sources, outputs], or `strongest` of each row.
struct EdgeSink {
  float* values;
  Strongest* strongest;
  const Bounds* bounds;  // where `strongest` is
};

// The edges of `x` [rows, sources], at most kRows rows, from the sources `first` to `end`; `first` is a multiple of the
// layer's block.
using EvaluateSingleEdges = void (*)(const Layer&, const float* x, int rows, int first, int end, const EdgeSink&, Scratch&);

EvaluateSingleEdges single_edges(const Machine&);

}  // namespace kanserve
