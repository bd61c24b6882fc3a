#include "plan_cache.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "../job.h"
#include "../state_lock.h"
#include "kernels.h"

namespace blockenc {
namespace {

constexpr int64_t kMaxKeptPlans = 32, kMaxKeptBytes = 64 << 20;

// A plan comes from outside and is not trusted: every index in it must be one into the array it is for.
void check(const Plan& plan) {
  if (!(*plan.in_scale >= 0 && *plan.in_scale <= plan.in_values - 1)) {  // not a number fails
    throw std::invalid_argument("plan: the scale of its float input is out of range");
  }
  auto check_indices = [](const auto* values, int64_t count, int64_t end) {
    const bool inside = std::all_of(values, values + count, [=](auto v) { return v >= 0 && v < end; });
    if (!inside) throw std::invalid_argument("plan: an index in it is out of range");
  };
  check_indices(plan.source, int64_t{plan.variants} * plan.cells, plan.cells);
  check_indices(plan.table_of, plan.positions(), plan.table_count + 1);
  check_indices(plan.moves, plan.keys * plan.blocks(), plan.blocks());
  check_indices(plan.variant, plan.keys * plan.blocks(), plan.variants);
  check_indices(plan.key_of_image, plan.images, plan.keys);
  const uint16_t* tables_end = plan.tables + int64_t{plan.table_count} * plan.in_values;
  if (std::any_of(plan.tables, tables_end, [&](uint16_t value) { return value >= plan.out_values; })) {
    throw std::invalid_argument("plan: a table value in it is out of range");
  }
}

// A copy of a plan, and the kernels made for it so far.
struct Entry {
  using Key = std::tuple<const Level*, Type, Type, Layout>;

  std::vector<char> packed;
  Plan plan;
  std::map<Key, std::shared_ptr<const Kernel>> kernels;  // under state_lock()

  explicit Entry(const Job& job)
      : packed(static_cast<const char*>(job.packed),
               static_cast<const char*>(job.packed) + job.header.bytes) {
    if (std::memcmp(packed.data(), &job.header, sizeof job.header) != 0) {
      throw std::invalid_argument("plan: it was written to while it was read");
    }
    unpack_plan(job.header, packed.data(), &plan);
    check(plan);
  }

  const Header& header() const { return *reinterpret_cast<const Header*>(packed.data()); }
  int64_t bytes() const { return static_cast<int64_t>(packed.size()); }

  // Two threads that need a kernel at once may both make it; the first one's is kept.
  std::shared_ptr<const Kernel> kernel(const Job& job, const Level& level) {
    const Layout layout = layout_of(job);
    const Key key{&level, job.in_type, job.out_type, layout};
    {
      const std::lock_guard<std::mutex> lock(state_lock());
      const auto found = kernels.find(key);
      if (found != kernels.end()) return found->second;
    }
    std::shared_ptr<const Kernel> made = kernel_for(level, plan, job.in_type, job.out_type, layout);
    const std::lock_guard<std::mutex> lock(state_lock());
    return kernels.emplace(key, std::move(made)).first->second;
  }
};

// The last used one is the last. Under state_lock(), and never destroyed: threads may outlive static objects.
std::vector<std::shared_ptr<Entry>>& entries() {
  static auto* kept = new std::vector<std::shared_ptr<Entry>>;
  return *kept;
}

// The entry with the digest of a header, which becomes the last used one; null if there is none.
std::shared_ptr<Entry> find(const Header& header) {
  const std::lock_guard<std::mutex> lock(state_lock());
  auto& kept = entries();
  for (auto entry = kept.rbegin(); entry != kept.rend(); ++entry) {
    if (std::memcmp((*entry)->header().digest, header.digest, sizeof header.digest) == 0) {
      std::rotate(entry.base() - 1, entry.base(), kept.end());
      return kept.back();
    }
  }
  return nullptr;
}

// Keeps an entry in the place of one with the same digest; those that were not used for longest go.
void keep(const std::shared_ptr<Entry>& entry) {
  std::vector<std::shared_ptr<Entry>> gone;  // freed after the lock is given back, since that may take long
  const std::lock_guard<std::mutex> lock(state_lock());
  auto& kept = entries();
  auto take = [&](auto place) {
    gone.push_back(std::move(*place));
    kept.erase(place);
  };
  const auto same = std::find_if(kept.begin(), kept.end(), [&](const auto& other) {
    return std::memcmp(other->header().digest, entry->header().digest, sizeof(Header::digest)) == 0;
  });
  if (same != kept.end()) take(same);
  kept.push_back(entry);
  int64_t bytes = 0;
  for (const auto& one : kept) bytes += one->bytes();
  while (static_cast<int64_t>(kept.size()) > kMaxKeptPlans || bytes > kMaxKeptBytes) {
    bytes -= kept.front()->bytes();
    take(kept.begin());
  }
}

}  // namespace

void run_job(Job job, int threads, int level) {
  std::shared_ptr<Entry> entry = find(job.header);
  if (!entry || entry->bytes() != job.header.bytes ||
      std::memcmp(entry->packed.data(), job.packed, entry->packed.size()) != 0) {
    entry = std::make_shared<Entry>(job);
    // Plans with keys of images are for one batch. One that is too large would put out all others.
    if (entry->plan.keys == 1 && entry->bytes() <= kMaxKeptBytes) keep(entry);
  }
  job.plan = entry->plan;
  run_kernel(*entry->kernel(job, choose_level(level)), job, threads);
}

Kept kept_plans() {
  const std::lock_guard<std::mutex> lock(state_lock());
  Kept kept{0, 0};
  for (const auto& entry : entries()) kept = {kept.plans + 1, kept.bytes + entry->bytes()};
  return kept;
}

}  // namespace blockenc
