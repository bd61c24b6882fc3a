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

// A plan comes from outside and is not trusted: every index in it must be one into the array it is for.
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
struct PlanCache::Entry {
  using Key = std::tuple<const Level*, Type, Type, Layout>;

  std::vector<char> packed;
  Plan plan;
  std::map<Key, std::shared_ptr<const Kernel>> kernels;  // under state_lock()

  Entry(const Plan& given, const char* given_bytes, int64_t count)
      : packed(given_bytes, given_bytes + count) {
    unpack_plan(packed.data(), given.block_size, given.channels, given.table_count, given.flags, &plan);
    check(plan);
  }

  // Whether this is the entry of a plan, which begins at `given_bytes`.
  bool holds(const Plan& given, const char* given_bytes, int64_t count) const {
    return plan.block_size == given.block_size && plan.channels == given.channels &&
           plan.table_count == given.table_count && plan.flags == given.flags &&
           static_cast<int64_t>(packed.size()) == count &&
           std::memcmp(packed.data(), given_bytes, count) == 0;
  }

  // Two threads that need a kernel at once may both make it; the first one's is kept.
  std::shared_ptr<const Kernel> kernel(const Job& job, const Level& level) {
    const Key key{&level, job.in_type, job.out_type, layout_of(job)};
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

void PlanCache::run(Job job, int64_t plan_bytes, int threads, int level) {
  const char* packed = reinterpret_cast<const char*>(job.plan.in_scale);  // where a packed plan begins
  std::shared_ptr<Entry> entry;
  {
    const std::lock_guard<std::mutex> lock(state_lock());
    entry = last_;
  }
  if (!entry || !entry->holds(job.plan, packed, plan_bytes)) {
    entry = std::make_shared<Entry>(job.plan, packed, plan_bytes);
    // Freeing the entry before it may take long, so that happens after the lock is given back: variables are
    // destroyed in the reverse order of their declarations.
    std::shared_ptr<Entry> swapped = entry;
    const std::lock_guard<std::mutex> lock(state_lock());
    last_.swap(swapped);
  }
  job.plan = entry->plan;
  run_kernel(*entry->kernel(job, choose_level(level)), job, threads);
}

}  // namespace blockenc
