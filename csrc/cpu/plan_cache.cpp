#include "plan_cache.h"

#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "../state_lock.h"
#include "kernels.h"

namespace blockenc {
namespace {

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
  run_kernel(*ready->kernel(job, choose_level(level)), job, threads);
}

}  // namespace blockenc
