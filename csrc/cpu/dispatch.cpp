// Which kernel runs, and on how many threads.

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "thread_pool.h"

namespace blockenc {
namespace {

bool always() { return true; }

#if defined(__x86_64__) && defined(__GNUC__)
bool has_avx512_vbmi() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi");
}
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#endif

const Level kLevels[] = {
#if defined(__x86_64__) && defined(__GNUC__)
    {"avx512_vbmi", has_avx512_vbmi, make_avx512_vbmi},
    {"avx2", has_avx2, make_avx2},
#elif defined(__aarch64__)
    {"neon", always, make_neon},
#endif
    {"portable", always, make_portable},
};

// A piece of work for a thread. Smaller batches are for one thread: another would have to fetch from the
// first one's caches.
constexpr int64_t kLeastPiece = 512 * 1024, kMostPiece = 8 << 20;
constexpr int64_t kPiecesPerThread = 8;

}  // namespace

const Level* levels(int* count) {
  *count = static_cast<int>(std::size(kLevels));
  return kLevels;
}

const Level& choose_level(int level) {
  int count;
  const Level* all = levels(&count);
  if (level >= count) throw std::invalid_argument("level: there are " + std::to_string(count));
  if (level >= 0) {
    if (!all[level].supported()) {
      throw std::invalid_argument(std::string("level: this processor has no ") + all[level].name);
    }
    return all[level];
  }
  return *std::find_if(all, all + count, [](const Level& candidate) { return candidate.supported(); });
}

Layout layout_of(const Job& job) {
  const int c = job.plan.channels;
  auto planar = [](const int64_t* stride) { return stride[3] == 1; };
  auto interleaved = [&](const int64_t* stride) { return stride[1] == 1 && stride[3] == c; };
  if (planar(job.in_stride) && planar(job.out_stride)) {
    return Layout::planar;
  }
  if (interleaved(job.in_stride) && interleaved(job.out_stride)) {
    return Layout::interleaved;
  }
  return Layout::any;
}

void run_kernel(const Kernel& kernel, const Job& job, int threads) {
  const int64_t rows = job.n * (job.h / job.plan.block_size);
  if (rows == 0) return;
  const int64_t bytes = job.n * job.h * job.w * job.plan.channels * item_size(job.out_type);
  const int64_t piece = std::clamp(bytes / (threads * kPiecesPerThread), kLeastPiece, kMostPiece);
  const int64_t pieces = threads > 1 ? std::clamp(bytes / piece, int64_t{1}, rows) : 1;
  in_parallel(pieces, threads,
              [&](int64_t k) { kernel.run(job, rows * k / pieces, rows * (k + 1) / pieces); });
}

}  // namespace blockenc
