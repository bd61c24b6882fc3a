// Which kernel runs, and on how many threads.

#include <algorithm>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "pool.h"
#include "state_lock.h"

namespace blockenc {
namespace {

bool always() { return true; }

#if defined(__x86_64__) && defined(__GNUC__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi");
}
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#endif

const Level kLevels[] = {
#if defined(__x86_64__) && defined(__GNUC__)
    {"avx512", has_avx512, make_avx512},
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

const Level& choose(int level) {
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

// A plan comes from outside: what indexes, or is an index, must lie inside what it indexes.
void check(const Plan& plan) {
  if (!(*plan.in_scale >= 0 && *plan.in_scale <= plan.in_values - 1)) {  // not a number fails
    throw std::invalid_argument("plan: the scale of its float input is out of range");
  }
  for (int p = 0; p < plan.length; ++p) {
    if (plan.source[p] < 0 || plan.source[p] >= plan.length || plan.table_of[p] > plan.table_count) {
      throw std::invalid_argument("plan: an index in it is out of range");
    }
  }
  for (int t = 0; t < plan.table_count * plan.in_values; ++t) {
    if (plan.tables[t] >= plan.out_values) {
      throw std::invalid_argument("plan: a table value in it is out of range");
    }
  }
}

}  // namespace

const Level* levels(int* count) {
  *count = static_cast<int>(std::size(kLevels));
  return kLevels;
}

namespace {

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

void run(const Kernel& kernel, const Job& job, int threads) {
  const int64_t rows = job.n * (job.h / job.plan.block_size);
  if (rows == 0) return;
  const int64_t bytes = job.n * job.h * job.w * job.plan.channels * item_size(job.out_type);
  const int64_t piece = std::clamp(bytes / (threads * kPiecesPerThread), kLeastPiece, kMostPiece);
  const int64_t pieces = threads > 1 ? std::clamp(bytes / piece, int64_t{1}, rows) : 1;
  in_parallel(pieces, threads,
              [&](int64_t k) { kernel.run(job, rows * k / pieces, rows * (k + 1) / pieces); });
}

}  // namespace

// A copy of a plan, and the kernels made for it so far.
struct Applier::Ready {
  std::vector<char> packed;
  Plan plan;
  std::map<std::tuple<const Level*, Type, Type, Layout>, std::shared_ptr<const Kernel>> kernels;  // locked

  Ready(const Plan& given, const char* from, int64_t bytes) : packed(from, from + bytes) {
    unpack_plan(packed.data(), given.block_size, given.channels, given.table_count, given.flags, &plan);
    check(plan);
  }

  bool holds(const Plan& given, const char* from, int64_t bytes) const {
    return plan.block_size == given.block_size && plan.channels == given.channels &&
           plan.table_count == given.table_count && plan.flags == given.flags &&
           static_cast<int64_t>(packed.size()) == bytes && std::memcmp(packed.data(), from, bytes) == 0;
  }

  // Two threads that need a kernel at once may both make it; the first one's is kept.
  std::shared_ptr<const Kernel> kernel(const Job& job, const Level& level) {
    const std::tuple key{&level, job.in_type, job.out_type, layout_of(job)};
    {
      const std::lock_guard<std::mutex> lock(state_lock());
      const auto found = kernels.find(key);
      if (found != kernels.end()) return found->second;
    }
    std::shared_ptr<const Kernel> made = level.make(plan, job.in_type, job.out_type, layout_of(job));
    const std::lock_guard<std::mutex> lock(state_lock());
    return kernels.emplace(key, std::move(made)).first->second;
  }
};

void Applier::apply(Job job, int64_t plan_bytes, int threads, int level) {
  const char* packed = reinterpret_cast<const char*>(job.plan.in_scale);  // where a packed plan begins
  std::shared_ptr<Ready> ready;
  {
    const std::lock_guard<std::mutex> lock(state_lock());
    ready = ready_;
  }
  if (!ready || !ready->holds(job.plan, packed, plan_bytes)) {
    ready = std::make_shared<Ready>(job.plan, packed, plan_bytes);
    std::shared_ptr<Ready> before = ready;
    const std::lock_guard<std::mutex> lock(state_lock());
    ready_.swap(before);  // `before` outlives the lock: to free a plan takes longer than a moment
  }
  job.plan = ready->plan;
  run(*ready->kernel(job, choose(level)), job, threads);
}

}  // namespace blockenc
