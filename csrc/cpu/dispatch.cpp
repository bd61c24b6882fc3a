// Which kernel runs, and how its work is divided among threads.

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "thread_pool.h"

namespace blockenc {
namespace {

#define BLOCKENC_LEVEL(name, supported) {#name, [] { return static_cast<bool>(supported); }, make_##name},
const Level kLevels[] = {BLOCKENC_INSTRUCTION_SETS(BLOCKENC_LEVEL)  //
                         BLOCKENC_LEVEL(portable, true)};
#undef BLOCKENC_LEVEL

// All in bytes of output. A task is what one thread does at a time.
constexpr int64_t kMinTaskBytes = 192 * 1024, kMaxTaskBytes = 8 << 20;
constexpr int64_t kTasksPerThread = 8;  // so that threads that come late, or are slow, have fewer tasks
// A smaller batch is done by the caller before a sleeping thread would have woken.
constexpr int64_t kMinSharedBytes = 1'000'000;
// With less for each thread beside the caller's, fetching the images from the caches of the caller's core
// would take most of what that thread gains.
constexpr int64_t kThreadBytes = 256 * 1024;

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
  const int64_t units = kernel.units(job);
  if (units == 0) return;
  const int64_t bytes = job.n * job.h * job.w * job.plan.channels * item_size(job.out_type);
  if (bytes < kMinSharedBytes) threads = 1;
  threads = static_cast<int>(std::min<int64_t>(threads, 1 + bytes / kThreadBytes));
  const int64_t task_bytes = std::clamp(bytes / (threads * kTasksPerThread), kMinTaskBytes, kMaxTaskBytes);
  const int64_t tasks = threads > 1 ? std::clamp(bytes / task_bytes, int64_t{1}, units) : 1;
  in_parallel(tasks, threads,
              [&](int64_t task) { kernel.run(job, units * task / tasks, units * (task + 1) / tasks); });
}

}  // namespace blockenc
