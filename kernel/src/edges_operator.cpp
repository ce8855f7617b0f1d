// The operator SplineEdges of the domain "kanserve", version 1, on the CPU, float32: the edges of a SplineLayer.
//
// Inputs      x [B, I]; k [1, 1], a whole number; knots, coef and weights as those of SplineLayer (operator.cpp)
// Attributes  those of SplineLayer
// Output      y [B, I * O] for k = 0: the value of every edge, source by source. Otherwise y [B, 3 k]: the values of the k
//             edges of largest magnitude, strongest first, then their sources, then their outputs. NaN counts as infinite.
//             Of equal magnitudes the lower source is first, then the lower output.
#include <cmath>

#include "edges.h"
#include "operator_kernel.h"

namespace kanserve {
namespace {

using ort::Matrix;

// At least, so that a thread is worth its start: values that are written, or only compared.
constexpr int64_t kEdgesOfPart = 1 << 16, kComparedOfPart = 1 << 20;
constexpr int64_t kMostParts = 8;

class EdgeKernel {
 public:
  explicit EdgeKernel(const ort::Info* info) : layer_(spline_layer(info, "SplineEdges")), bounds_(prepare_bounds(layer_, machine())) {
    if (edges() >= kMostEdges) throw std::invalid_argument("SplineEdges: the layer has too many edges");
  }

  void run(ort::Context* context) {
    const Matrix x = ort::input(context, 0, "SplineEdges: x"), k = ort::input(context, 1, "SplineEdges: k");
    if (x.columns != layer_.sources) throw std::invalid_argument("SplineEdges: x has another number of sources");
    if (k.rows != 1 || k.columns != 1 || !(k.data[0] >= 0 && k.data[0] <= std::min<int64_t>(kMostStrongest, edges())) ||
        k.data[0] != std::floor(k.data[0]))
      throw std::invalid_argument("SplineEdges: k is not a whole number from 0 to 4096, and at most the number of edges");
    const int64_t count = static_cast<int64_t>(k.data[0]), columns = count ? 3 * count : edges();
    float* y = ort::output(context, 0, x.rows, columns);
    for (int64_t done = 0; done < x.rows; done += kRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kRows, x.rows - done));
      some_rows(context, x.data + done * x.columns, rows, count, y + done * columns);
    }
  }

 private:
  // The sources of some rows by as many threads as the runtime has for it. Which of them takes which changes no bit.
  struct Job {
    EdgeKernel* kernel;
    const float* x;
    int rows, sources;  // sources of a part
    float* values;
    std::vector<Strongest> strongest;  // [parts, rows]
    std::atomic<bool> failed{false};

    void part(size_t at) {
      const Layer& layer = kernel->layer_;
      const int first = static_cast<int>(at) * sources, end = std::min(first + sources, layer.sources);
      const EdgeSink sink{values, strongest.empty() ? nullptr : strongest.data() + at * rows, &kernel->bounds_};
      try {
        auto scratch = kernel->pool_.borrow();
        scratch->fit(layer, rows);
        static const EvaluateSingleEdges function = single_edges(machine());
        function(layer, x, rows, first, end, sink, *scratch);
        kernel->pool_.give_back(std::move(scratch));
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
  };

  int64_t edges() const { return int64_t{layer_.sources} * layer_.outputs; }

  void some_rows(ort::Context* context, const float* x, int rows, int64_t count, float* y) {
    const int64_t blocks = (layer_.sources + layer_.block - 1) / layer_.block;
    const int64_t most = std::min({kMostParts, blocks, 1 + rows * edges() / (count ? kComparedOfPart : kEdgesOfPart)});
    const int64_t of_part = (blocks + most - 1) / most;
    const size_t parts = static_cast<size_t>((blocks + of_part - 1) / of_part);
    Job job{this, x, rows, static_cast<int>(of_part * layer_.block), count ? nullptr : y, {}};
    if (count) {
      job.strongest.resize(parts * rows);
      for (Strongest& one : job.strongest) one.start(static_cast<size_t>(count));
    }
    if (parts == 1) {
      job.part(0);
    } else {
      ort::parallel(context, parts, [](void* of, size_t at) { static_cast<Job*>(of)->part(at); }, &job);
    }
    if (job.failed) throw std::bad_alloc();
    for (int row = 0; count && row < rows; ++row) write(job, row, parts, static_cast<size_t>(count), y + row * 3 * count);
  }

  void write(Job& job, int row, size_t parts, size_t count, float* y) const {
    Strongest& all = job.strongest[row];
    for (size_t part = 1; part < parts; ++part)
      for (const Strongest::Found& one : job.strongest[part * job.rows + row].found()) all.offer(one);
    const auto& sorted = all.sorted();
    for (size_t at = 0; at < count; ++at) {
      y[at] = sorted[at].value;
      y[count + at] = static_cast<float>(sorted[at].edge() / static_cast<uint32_t>(layer_.outputs));
      y[2 * count + at] = static_cast<float>(sorted[at].edge() % static_cast<uint32_t>(layer_.outputs));
    }
  }

  const Layer layer_;
  const Bounds bounds_;
  Pool<Scratch> pool_;
};

struct OfSingleEdges {
  static constexpr const char* kName = "SplineEdges";
  static constexpr size_t kInputs = 5, kRequiredInputs = 4;
};

}  // namespace

const ort::CustomOp* single_edge_operator() {
  static const Operator<OfSingleEdges, EdgeKernel> described;
  return &described;
}

}  // namespace kanserve
