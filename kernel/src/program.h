// A program of vector instructions: the formulas of basis functions, as the exporter reads them from the portable graph
// (kanexport/lowering/vector_program.py). It has no jumps. Every register is a row of values, one for each lane.
//
// An operand is a number: a register from 0 on, -1 - i for constant i, kTable + t for row t of the tables, which have one
// value for each source, and kInput + v for the sources: as they are (0), or normalized (1).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layer.h"

namespace kanserve {

// The numbers are those of `vector_program.py`.
enum class Op : int {
  kAdd, kSub, kMul, kDiv, kMax, kMin, kLess, kLessEqual, kGreater, kGreaterEqual, kEqual,
  kBell,     // exp(a a b)
  kNeg, kAbs, kExp, kLog, kSqrt, kReciprocal, kSin, kCos, kTanh, kSigmoid, kRelu, kRound, kFloor, kSign, kIsNan, kCopy,
  kAtan, kSoftplus,
  kSilu,     // a / (1 + exp(-a))
  kHill,     // e / (1 + e)^2 with e = exp(a)
  kWhere,    // a is not 0 ? b : c
  kMulAdd,   // a b + c
  kMulSub,   // a b - c
  kSubMul,   // c - a b
  kAffine,   // (a - b) c
  kDistance,  // |a - b| c
  kRadial,   // exp(-((a - b) c)^2)
  kBellTimes,  // a exp(b b c)
  kSinOf,    // sin(a b + c), with all digits of the product
  kCosOf,
  kRidge,    // e / (1 + e)^2 with e = exp((a - b) c)
  kOps
};

// Several ridges, which no graph has: `program_of` puts one in place of instructions kRidge around different numbers.
constexpr Op kRidges = Op::kOps;

constexpr int kTable = 1 << 20, kInput = 1 << 21;

struct Instruction {
  Op op;
  int to;
  int of[3];
};

// Ridges (a - b) c of one operand a, with a constant c and constants b. Each e is that of the middle times a factor. Beyond
// the limit of (a - middle) c, where all of them are below 3e-9, they stay as they are there.
struct Ridges {
  float middle, rate, limit;
  std::vector<float> factors;
};

struct Program {
  std::vector<Instruction> instructions;
  std::vector<Ridges> ridges;        // of instructions kRidges, whose `of` has the operand and a number here
  int registers = 0, functions = 0;  // registers 0 to functions - 1 are the results
  Floats constants;                  // [constants, widest vector]: each fills one
  Floats tables;                     // [rows, lanes of a table]
  int table_lanes = 0;               // a multiple of the widest vector
  bool reads[2] = {};                // whether an instruction reads the sources, as they are and normalized
};

constexpr int kWidestVector = 16;

// What a graph holds of a program; pointers stay the caller's and are read in `program_of` only.
struct ProgramTensors {
  const float* code;       // [instructions, 5]: op, to, and three operands; unused ones are 0
  const float* constants;  // [constants]
  const float* tables;     // [rows, lanes]
  int64_t instructions, constant_count, table_rows, table_lanes, registers, functions, inputs;
  int repeat;              // times that a table's lanes are written one after the other
};

// Throws std::invalid_argument with `name` in front for a program that would read what is not there, or that leaves a
// result unwritten.
Program program_of(const ProgramTensors&, const std::string& name);

}  // namespace kanserve
