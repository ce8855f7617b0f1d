// Two kinds of KAN layers whose functions a program computes, and the layer normalization between layers:
//
//   BasisLayer   y[b, o] = start[o] + sum over i, k of f_k(x[b, i]) * coef[k, i, o]
//   EdgeLayer    y[b, o] = start[o] + sum over i, k of f((x[b, i] - centre[i, k, o]) * rate[i, k, o]) * coef[i, k, o]
//   NormLayer    y[b, i] = start[i] + (x[b, i] - mean) / sqrt(variance + epsilon) * scale[i], for each group of sources
#pragma once

#include "program.h"

namespace kanserve {

constexpr int kGroup = 16;  // sources whose products are added without another's between; the same on every machine

struct BasisTensors {
  const float* coef[4];      // [functions * sources, outputs] each, of function 0 first; null beyond the last
  int64_t coef_functions[4];
  int64_t sources, outputs;
  ProgramTensors program;
  bool spreads;              // whether a source that is not finite makes all of its row NaN
  bool normalized;           // whether input 1 of the program is the layer normalization of the row
  float epsilon;
};

struct BasisLayer {
  int sources = 0, outputs = 0, functions = 0, padded = 0;
  int packed = 1;            // rows that are evaluated as one, where sources are few
  int lanes = 0;             // of a packed row, a multiple of kGroup
  int values = 0;            // of a tile, at most
  bool spreads = false, normalized = false;
  float epsilon = 0;
  Program program;
  std::vector<int> columns;  // vectors of each block of outputs
  Floats coef;               // [groups of sources][blocks of outputs][functions, sources of the group, outputs of the block]
};

struct BasisScratch {
  Floats sums, registers, normalized, inputs, norm_row;
  void fit(const BasisLayer& layer, int64_t rows);  // throws std::bad_alloc
};

struct EdgeTensors {
  const float* centre;       // [sources * functions, outputs], as are the two others
  const float* rate;
  const float* coef;
  int64_t sources, outputs, functions;
  ProgramTensors program;
  bool spreads;
};

struct EdgeLayer {
  int sources = 0, outputs = 0, functions = 0, padded = 0;
  int block = 0;             // edges of one output that are evaluated at a time
  bool spreads = false;
  Program program;
  Floats centre, rate, coef;  // [sources * functions, padded]
};

struct EdgeScratch {
  Floats sums, registers, inputs;
  void fit(const EdgeLayer& layer, int64_t rows);
};

struct NormLayer {
  int sources = 0, outputs = 0, size = 0;  // sources of a group
  float epsilon = 0;
  Floats scale;                            // [sources]
};

struct NormScratch {
  Floats row;
  void fit(const NormLayer& layer, int64_t rows);
};

// Throw std::invalid_argument for tensors that are not a layer, std::bad_alloc. `width`: floats of a vector.
BasisLayer prepare(const BasisTensors&, int width);
EdgeLayer prepare(const EdgeTensors&, int width);
NormLayer prepare_norm(const float* scale, int64_t sources, int64_t groups, float epsilon);

// As `Evaluate` of layer.h.
using EvaluateBasis = void (*)(const BasisLayer&, const float* x, int64_t rows, const float* start, int64_t start_step,
                               float* y, BasisScratch&);
using EvaluateEdges = void (*)(const EdgeLayer&, const float* x, int64_t rows, const float* start, int64_t start_step,
                               float* y, EdgeScratch&);
using EvaluateNorm = void (*)(const NormLayer&, const float* x, int64_t rows, const float* start, int64_t start_step,
                              float* y, NormScratch&);

// The evaluations of `machine()`.
EvaluateBasis basis_evaluation(const Machine&);
EvaluateEdges edge_evaluation(const Machine&);
EvaluateNorm norm_evaluation(const Machine&);

}  // namespace kanserve
