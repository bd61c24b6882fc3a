// Which kernel runs, and on how many threads.

#include <algorithm>
#include <exception>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"

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
    {"avx512", has_avx512, run_avx512},
    {"avx2", has_avx2, run_avx2},
#elif defined(__aarch64__)
    {"neon", always, run_neon},
#endif
    {"portable", always, run_portable},
};

// Below this much work a second thread costs more than it brings.
constexpr int64_t kBytesPerThread = 512 * 1024;

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

// A plan comes from outside: indices it holds must lie inside what they index.
void check(const Plan& plan) {
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

void apply(const Job& job, int threads, int level) {
  check(job.plan);
  const Level& chosen = choose(level);
  const int64_t rows = job.n * (job.h / job.plan.block_size);
  const int64_t bytes = job.n * job.h * job.w * job.plan.channels * item_size(job.out_type);
  const int64_t workers = std::min({int64_t{threads}, rows, 1 + bytes / kBytesPerThread});
  if (workers <= 1) return chosen.run(job, 0, rows);
  // Threads live for one call: there is nothing for a fork to lose, and callers may come from any thread.
  std::vector<std::exception_ptr> errors(workers);
  std::vector<std::thread> pool;
  auto share = [&](int64_t k) {
    try {
      chosen.run(job, rows * k / workers, rows * (k + 1) / workers);
    } catch (...) {
      errors[k] = std::current_exception();
    }
  };
  for (int64_t k = 1; k < workers; ++k) pool.emplace_back(share, k);
  share(0);
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace blockenc
