// The native kernels without Python: cases written by the oracle (tests/native_checks/cases.py), every level.
//
//     check CASES [alone] [together] [forked] [forked-busy] [plant=FAULT]
//
//   alone        each case at each level on 1, 2 and 4 threads, its memory in three kinds of places
//   together     several threads apply plans at once
//   forked       threads have worked in the parent; its child applies the cases too
//   forked-busy  the same, while other threads of the parent apply plans
//
// plant=overread|overread-hole|underread-hole|overwrite|value|overflow|race commits that fault itself, once,
// in the parts named after it: is it found? Exit status: 0 if all bytes are as expected, 1 if not, 2 if the
// program cannot tell; sanitizers have their own.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cinttypes>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/plan_cache.h"
#include "../../csrc/job.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
extern "C" void __sanitizer_set_death_callback(void (*callback)());
#else
#define SANITIZED 0
#endif

namespace {

using Bytes = std::vector<char>;

struct Case {
  std::string name;
  bool refused;  // apply has to throw std::invalid_argument and to write nothing
  int in_type, out_type;
  int64_t in_base, out_base;  // offsets in bytes of the first element
  std::vector<int64_t> shape, in_stride, out_stride;
  Bytes plan, in;       // `in` spans the elements, from the lowest to the highest, and no more
  Bytes before, after;  // the output's memory: the same in guard bytes, different in every byte of an element
  bool large() const { return after.size() > 1 << 20; }
};

// What cases.py writes: int64 numbers, and strings of bytes after their lengths.
class Reader {
 public:
  explicit Reader(const char* path) : file_(path, std::ios::binary) {
    file_.exceptions(std::ios::failbit | std::ios::badbit);
  }
  int64_t number() {
    int64_t value;
    file_.read(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  }
  int small() { return static_cast<int>(number()); }
  std::vector<int64_t> numbers() {
    std::vector<int64_t> values(number());
    for (int64_t& value : values) value = number();
    return values;
  }
  Bytes bytes() {
    Bytes values(number());
    file_.read(values.data(), static_cast<std::streamsize>(values.size()));
    return values;
  }

 private:
  std::ifstream file_;
};

std::vector<Case> read_cases(const char* path) {
  Reader reader(path);
  std::vector<Case> cases(reader.number());
  for (Case& c : cases) {
    const Bytes name = reader.bytes();
    c.name.assign(name.begin(), name.end());
    c.refused = reader.number();
    c.in_type = reader.small();
    c.out_type = reader.small();
    c.in_base = reader.number();
    c.out_base = reader.number();
    c.shape = reader.numbers();
    c.in_stride = reader.numbers();
    c.out_stride = reader.numbers();
    c.plan = reader.bytes();
    c.in = reader.bytes();
    c.before = reader.bytes();
    c.after = reader.bytes();
  }
  return cases;
}

// The heap: of exactly the size, for ASan. Pages: with no access right behind the last byte, or right before
// the first, which the processor itself checks, also in instructions that a sanitizer does not see.
enum class Place { heap, before_a_hole, after_a_hole };
const char* const kPlaces[] = {"on the heap", "ending at a hole", "starting at a hole"};

class Memory {
 public:
  Memory(Place place, const Bytes& bytes) : size_(bytes.size()) {
    if (place == Place::heap) {
      data_ = new char[size_];
    } else {
      const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
      const size_t inner = (size_ + page - 1) / page * page;
      mapped_bytes_ = inner + 2 * page;
      mapped_ =
          static_cast<char*>(mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      if (mapped_ == MAP_FAILED || (inner && mprotect(mapped_ + page, inner, PROT_READ | PROT_WRITE))) {
        std::perror("check: mmap");
        _exit(2);
      }
      data_ = mapped_ + page + (place == Place::before_a_hole ? inner - size_ : 0);
    }
    if (size_) std::memcpy(data_, bytes.data(), size_);
  }
  ~Memory() {
    if (mapped_) {
      munmap(mapped_, mapped_bytes_);
    } else {
      delete[] data_;
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* data() const { return data_; }
  // The index of the first byte that is not as expected, and how many are not.
  size_t differing(const Bytes& expected, size_t* first) const {
    if (size_ == 0 || std::memcmp(data_, expected.data(), size_) == 0) return 0;
    size_t count = 0;
    for (size_t k = size_; k-- > 0;) {
      if (data_[k] != expected[k]) *first = k, ++count;
    }
    return count;
  }

 private:
  size_t size_;
  char* data_;
  char* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
};

std::atomic<int> failures{0};
std::atomic<int> threads_started{0};
std::string planted;  // the fault still to be committed
int shared_number;    // by plant=race

// What the thread that calls apply is at, for a fault that ends the program: written before each call.
thread_local char doing[400];
char last_begun[400];  // without `together`, also what a thread of apply's own is at

void fail(const char* what) {
  if (failures.fetch_add(1) < 20) std::fprintf(stderr, "FAILED %s: %s\n", doing, what);
}

void tell_last() {
  const char* const at = doing[0] ? doing : last_begun;
  const char start[] = "check: it ended in ", end[] = "\n";
  for (const char* part : {start, at, end}) {
    if (write(2, part, std::strlen(part)) < 0) return;
  }
}

[[maybe_unused]] void on_signal(int signal) {
  tell_last();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void commit_planted_fault(const Case& c, Place place, const Memory& in, const Memory& out) {
  if (planted.empty() || c.refused || c.in.empty()) return;
  volatile char* const first = in.data();
  volatile int most = INT_MAX;
  if (planted == "overread" && place == Place::heap) {
    shared_number = first[c.in.size()];
  } else if (planted == "overread-hole" && place == Place::before_a_hole) {
    shared_number = first[c.in.size()];
  } else if (planted == "underread-hole" && place == Place::after_a_hole) {
    shared_number = first[-1];
  } else if (planted == "overwrite") {
    out.data()[c.out_base - 1] ^= 1;
  } else if (planted == "value") {
    out.data()[c.out_base] ^= 1;
  } else if (planted == "overflow") {
    most = most + 1;
  } else {
    return;
  }
  planted.clear();
}

void run_case(const Case& c, int level, int threads, Place place, const char* part, bool quick = false) {
  int count;
  const char* const level_name = blockenc::levels(&count)[level].name;
  std::snprintf(doing, sizeof doing, "%s: %s: level %s, %d threads, memory %s", part, c.name.c_str(),
                level_name, threads, kPlaces[static_cast<int>(place)]);
  if (std::strcmp(part, "together") != 0 && !quick) std::memcpy(last_begun, doing, sizeof doing);
  const Memory plan(place, c.plan), in(place, c.in), out(place, c.before);
  bool refused = false;
  try {
    auto address = [](const Memory& memory, int64_t base) {
      return reinterpret_cast<uintptr_t>(memory.data()) + static_cast<uintptr_t>(base);
    };
    const uintptr_t packed = address(plan, 0);
    const blockenc::Job job = blockenc::make_job(
        address(in, c.in_base), address(out, c.out_base), c.in_type, c.out_type, c.shape, c.in_stride,
        c.out_stride, packed, static_cast<int64_t>(c.plan.size()), reinterpret_cast<const void*>(packed));
    blockenc::run_job(job, threads, level);
  } catch (const std::invalid_argument& error) {
    refused = true;
    if (!c.refused) fail(error.what());
  }
  commit_planted_fault(c, place, in, out);
  if (c.refused && !refused) fail("it should have been refused");
  size_t first = 0;
  if (const size_t wrong = out.differing(c.after, &first)) {
    char text[200];
    std::snprintf(text, sizeof text, "%zu bytes differ, first %s byte %zu of %zu: 0x%02x, expected 0x%02x",
                  wrong, c.before[first] == c.after[first] ? "guard" : "output", first, c.after.size(),
                  static_cast<uint8_t>(out.data()[first]), static_cast<uint8_t>(c.after[first]));
    fail(text);
  }
  if (in.differing(c.in, &first)) fail("the input was written to");
  if (plan.differing(c.plan, &first)) fail("the plan was written to");
}

std::vector<int> supported_levels() {
  int count;
  const blockenc::Level* const all = blockenc::levels(&count);
  std::vector<int> found;
  for (int k = 0; k < count; ++k) {
    if (all[k].supported()) found.push_back(k);
  }
  return found;
}

void alone(const std::vector<Case>& cases) {
  for (const int level : supported_levels()) {
    for (const Case& c : cases) {
      run_case(c, level, 1, Place::heap, "alone");
      run_case(c, level, 4, Place::before_a_hole, "alone");
      run_case(c, level, 2, Place::after_a_hole, "alone");
    }
  }
}

void together(const std::vector<Case>& cases) {
  constexpr size_t kCallers = 4;
  const std::vector<int> levels = supported_levels();
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      if (planted == "race") ++shared_number;
      for (size_t k = 0; k < cases.size(); ++k) {  // each begins elsewhere, and has large ones of its own
        const size_t n = (k + caller * cases.size() / kCallers) % cases.size();
        const Case& c = cases[n];
        if (c.large() && n % kCallers != caller) continue;
        run_case(c, levels[(k + caller) % levels.size()], c.large() ? 3 : 2, Place::heap, "together");
      }
      // All of them meet at the large ones.
      for (const Case& c : cases) {
        if (c.large()) run_case(c, levels[caller % levels.size()], 2, Place::heap, "together");
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// Runs `work` in a child, which has to come to its end. The alarm ends one that waits for threads it lost.
void in_a_child(const char* part, const std::function<void()>& work) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGALRM, SIG_DFL);
    alarm(60);
    work();
    _exit(failures ? 1 : 0);
  }
  int status = 0;
  std::snprintf(doing, sizeof doing, "%s", part);
  if (child < 0 || waitpid(child, &status, 0) != child) {
    fail("no child");
  } else if (WIFSIGNALED(status)) {
    fail(WTERMSIG(status) == SIGALRM ? "the child never ended" : strsignal(WTERMSIG(status)));
  } else if (WEXITSTATUS(status)) {
    fail("in the child, see above");
  }
}

void apply_large(const std::vector<Case>& cases, int threads, const char* part) {
  for (const int level : supported_levels()) {
    for (const Case& c : cases) {
      if (c.large()) run_case(c, level, threads, Place::heap, part);
    }
  }
}

void forked(const std::vector<Case>& cases) {
  apply_large(cases, 4, "before the fork");
  in_a_child("forked", [&] {
    apply_large(cases, 2, "in the child");
    in_a_child("forked twice", [&] { apply_large(cases, 2, "in the child's child"); });
  });
  apply_large(cases, 4, "after the fork");
}

void forked_busy(const std::vector<Case>& cases) {
  const Case* large = nullptr;  // the smallest of them: many calls begin and end
  for (const Case& c : cases) {
    if (c.large() && (!large || c.after.size() < large->after.size())) large = &c;
  }
  if (!large) return;
  const int level = supported_levels().front();
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int k = 0; k < 2; ++k) {
    callers.emplace_back([&] {
      while (!stop) run_case(*large, level, 2, Place::heap, "beside the fork", true);
    });
  }
  for (int k = 0; k < 20 && !failures; ++k) {
    in_a_child("forked-busy", [&] { run_case(*large, level, 2, Place::heap, "in the child"); });
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

#if !SANITIZED && defined(__x86_64__)
#include <dlfcn.h>

// Counts threads, to see that the large cases are large enough for several.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                              void* argument) {
  static const auto real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  ++threads_started;
  return real(thread, attributes, start, argument);
}
#endif

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: check CASES PART...; see check.cpp\n");
    return 2;
  }
#if SANITIZED
  __sanitizer_set_death_callback(tell_last);
#else
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL}) std::signal(signal, on_signal);
#endif
  std::vector<Case> cases;
  try {
    cases = read_cases(arguments[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "check: cannot read %s: %s\n", arguments[1], error.what());
    return 2;
  }
  for (int k = 2; k < count; ++k) {
    const std::string part = arguments[k];
    const int threads_before = threads_started;
    if (part.rfind("plant=", 0) == 0) {
      planted = part.substr(6);
    } else if (part == "alone") {
      alone(cases);
      std::printf("threads started for calls: %d\n", threads_started - threads_before);
    } else if (part == "together") {
      together(cases);
    } else if (part == "forked") {
      forked(cases);
    } else if (part == "forked-busy") {
      forked_busy(cases);
    } else {
      std::fprintf(stderr, "check: no part %s\n", part.c_str());
      return 2;
    }
  }
  int levels;
  const blockenc::Level* const all = blockenc::levels(&levels);
  for (const int level : supported_levels()) std::printf("level: %s\n", all[level].name);
  std::printf("cases: %zu, failures: %d\n", cases.size(), failures.load());
  return failures ? 1 : 0;
}
