// Checks of a program, which somebody may have made to harm: all that the instructions read and write is within registers,
// constants, tables and inputs, and was written before.
#include "program.h"

#include <algorithm>
#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace kanserve {
namespace {

constexpr int64_t kMostInstructions = 1 << 18, kMostRegisters = 1 << 13, kMostConstants = 1 << 18, kMostRows = 1 << 18;
constexpr int64_t kMostNumbers = 1 << 28;

int operands(Op op) {
  if (op <= Op::kBell) return 2;
  return op <= Op::kHill ? 1 : 3;
}

class Checker {
 public:
  Checker(const ProgramTensors& t, const std::string& name) : t_(t), name_(name), written_(t.registers, false) {}

  Instruction read(int64_t at) {
    const float* code = t_.code + at * 5;
    const int op = whole(code[0], 0, static_cast<int>(Op::kOps) - 1, at);
    Instruction result{static_cast<Op>(op), whole(code[1], 0, static_cast<int>(t_.registers) - 1, at), {0, 0, 0}};
    for (int which = 0; which < 3; ++which) {
      if (which >= operands(result.op)) continue;
      result.of[which] = operand(code[2 + which], at);
    }
    written_[result.to] = true;
    return result;
  }

  void end() const {
    for (int64_t at = 0; at < t_.functions; ++at)
      if (!written_[at]) fail("no instruction writes function " + std::to_string(at));
  }

  [[noreturn]] void fail(const std::string& why) const { throw std::invalid_argument(name_ + ": " + why); }

 private:
  int whole(float value, int low, int high, int64_t at) const {
    if (!(value >= static_cast<float>(low) && value <= static_cast<float>(high)) || value != std::floor(value))
      fail("instruction " + std::to_string(at) + " has a number out of range");
    return static_cast<int>(value);
  }

  int operand(float value, int64_t at) const {
    const int number = whole(value, -(1 << 20), (1 << 21) + 1, at);
    bool right = false;
    if (number < 0) right = -number <= t_.constant_count;
    else if (number >= kInput) right = number - kInput < t_.inputs;
    else if (number >= kTable) right = number - kTable < t_.table_rows;
    else right = number < t_.registers && written_[number];
    if (!right) fail("instruction " + std::to_string(at) + " reads a value that no instruction before it writes");
    return number;
  }

  const ProgramTensors& t_;
  const std::string& name_;
  std::vector<bool> written_;
};

// Ridges have one e up to this distance from the first to the last, and e^kSteepest at most.
constexpr double kFarthestRidge = 12, kSteepest = 32;

// Whether a second ridge has the operand and the rate of a first one, and is `after` instructions later.
bool together(const Instruction& first, const Instruction& second, int after) {
  return second.op == Op::kRidge && second.of[0] == first.of[0] && second.of[2] == first.of[2] && second.of[1] < 0 &&
         second.to == first.to + after && second.to != first.of[0];
}

// One instruction in place of several ridges next to each other.
void join_ridges(const ProgramTensors& t, Program& program) {
  const auto constant = [&](int operand) { return static_cast<double>(t.constants[-1 - operand]); };
  std::vector<Instruction> joined;
  const auto& all = program.instructions;
  for (size_t at = 0, end; at < all.size(); at = end) {
    const Instruction& first = all[at];
    end = at + 1;
    const bool apart = first.op != Op::kRidge || first.of[1] >= 0 || first.of[2] >= 0 || first.to == first.of[0] ||
                       first.of[0] < 0 || (first.of[0] >= kTable && first.of[0] < kInput);
    const double rate = apart ? 0 : constant(first.of[2]);
    double low = apart ? 0 : constant(first.of[1]), high = low;
    for (; !apart && end < all.size() && together(first, all[end], static_cast<int>(end - at)); ++end) {
      const double centre = constant(all[end].of[1]);
      if (!(std::fabs(rate) * (std::max(high, centre) - std::min(low, centre)) <= kFarthestRidge)) break;
      low = std::min(low, centre);
      high = std::max(high, centre);
    }
    if (end == at + 1) {
      joined.push_back(first);
      continue;
    }
    const float middle = static_cast<float>((low + high) / 2);
    Ridges ridges{middle, static_cast<float>(rate), static_cast<float>(kSteepest - std::fabs(rate) * (high - low) / 2), {}};
    for (size_t of = at; of < end; ++of)
      ridges.factors.push_back(static_cast<float>(std::exp((middle - constant(all[of].of[1])) * rate)));
    joined.push_back({kRidges, first.to, {first.of[0], static_cast<int>(program.ridges.size()), 0}});
    program.ridges.push_back(ridges);
  }
  program.instructions = joined;
}

}  // namespace

Program program_of(const ProgramTensors& t, const std::string& name) {
  if (t.functions < 1 || t.functions > t.registers || t.registers > kMostRegisters || t.instructions < 1 ||
      t.instructions > kMostInstructions || t.constant_count > kMostConstants || t.table_rows > kMostRows ||
      t.table_rows * t.table_lanes > kMostNumbers)
    throw std::invalid_argument(name + ": its program is too large, or is empty");
  Program program;
  program.registers = static_cast<int>(t.registers);
  program.functions = static_cast<int>(t.functions);
  Checker checker(t, name);
  for (int64_t at = 0; at < t.instructions; ++at) {
    program.instructions.push_back(checker.read(at));
    for (const int operand : program.instructions.back().of)
      if (operand >= kInput) program.reads[operand - kInput] = true;
  }
  checker.end();
  join_ridges(t, program);
  program.constants.resize(static_cast<size_t>(t.constant_count) * kWidestVector);
  for (int64_t at = 0; at < t.constant_count; ++at)
    std::fill_n(program.constants.begin() + at * kWidestVector, kWidestVector, t.constants[at]);
  const int lanes = static_cast<int>(t.table_lanes);
  program.table_lanes = (lanes * t.repeat + kWidestVector - 1) / kWidestVector * kWidestVector;
  program.tables.resize(static_cast<size_t>(t.table_rows) * program.table_lanes);
  for (int64_t row = 0; row < t.table_rows; ++row)
    for (int again = 0; again < t.repeat; ++again)
      std::copy_n(t.tables + row * lanes, lanes, program.tables.begin() + row * program.table_lanes + again * lanes);
  return program;
}

}  // namespace kanserve
