#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace blockenc {
namespace {

// Tells the processor that this thread only waits.
void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// How long a thread that has nothing to do looks for tasks before it sleeps. Programs call in loops, and the
// time between two calls is shorter than waking a thread would take.
constexpr auto kSpin = std::chrono::microseconds(100);

// Waits for done() to be true, for kSpin at most; returns whether it is.
template <class Done>
bool spin(Done&& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int k = 0; k < 32; ++k) {
      if (done()) return true;
      cpu_relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

class Pool {
 public:
  // Returns false, with nothing done, while another call uses the pool.
  bool run(int64_t tasks, int threads, const std::function<void(int64_t)>& do_task) {
    std::unique_lock<std::mutex> call(in_call_, std::try_to_lock);
    if (!call) return false;
    start(threads - 1);
    keep_off_the_caller();
    do_task_ = &do_task;
    open_tasks_ = range(0, static_cast<uint32_t>(tasks));
    error_ = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = std::min(threads - 1, static_cast<int>(handles_.size()));
    }
    wake_.notify_all();
    do_tasks(true);
    {
      // No task is left for a thread that has not woken by now.
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = 0;
    }
    auto all_left = [&] { return working_ == 0; };
    if (!spin(all_left)) {
      std::unique_lock<std::mutex> lock(mutex_);
      left_.wait(lock, all_left);
    }
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  // Starts threads until there are `count`. They block all signals, which are for the program's own threads.
  void start(int count) {
    handles_.reserve(count);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (static_cast<int>(handles_.size()) < count) {
        std::thread thread(&Pool::serve, this);
        handles_.push_back(thread.native_handle());
        thread.detach();
        caller_processor_ = -1;  // unknown to the new thread
      }
    } catch (const std::system_error&) {
      // The system allows no more threads: those there are do the tasks.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  // Lets the threads run where the caller may, but not on the processor where it runs now. In virtual
  // machines Linux was seen to wake them there although another one was idle, and there they wait for the
  // caller.
  void keep_off_the_caller() {
#if defined(__linux__)
    const int processor = sched_getcpu();
    if (processor < 0 || processor == caller_processor_) return;
    caller_processor_ = processor;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
    CPU_CLR(processor, &allowed);
    for (const auto handle : handles_) pthread_setaffinity_np(handle, sizeof allowed, &allowed);
#endif
  }

  // Joins the call in progress; false if it wants no more threads.
  bool join() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (wanted_ == 0) return false;
    --wanted_;
    ++working_;
    return true;
  }

  void serve() {
    for (;;) {
      // A thread that woke too late for a short call keeps looking for a while: the next call may come soon.
      if (!spin([&] { return wanted_ > 0; })) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (wanted_ == 0) wake_.wait(lock);
        continue;
      }
      if (!join()) continue;
      do_tasks(false);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--working_ == 0) left_.notify_one();
    }
  }

  // The tasks [first, last) in one number, so that a thread takes one by one atomic exchange.
  static uint64_t range(uint32_t first, uint32_t last) { return uint64_t{last} << 32 | first; }

  // Does tasks until none is open. The caller takes the first open one, the other threads the last: in a loop
  // of calls on the same memory, each core then mostly gets what its own caches hold from the call before.
  void do_tasks(bool from_front) {
    uint64_t open = open_tasks_;
    for (;;) {
      const auto first = static_cast<uint32_t>(open), last = static_cast<uint32_t>(open >> 32);
      if (first == last) return;
      const uint64_t rest = from_front ? range(first + 1, last) : range(first, last - 1);
      if (!open_tasks_.compare_exchange_weak(open, rest)) continue;
      try {
        (*do_task_)(from_front ? first : last - 1);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
        open_tasks_ = 0;
      }
      open = open_tasks_;
    }
  }

  std::mutex in_call_;                                    // held during a call
  std::vector<std::thread::native_handle_type> handles_;  // of the threads that were started
  int caller_processor_ = -1;                             // where the caller ran when it was last asked
  std::mutex mutex_;                                      // held to change wanted_, working_ or error_
  std::condition_variable wake_, left_;
  std::atomic<int> wanted_{0};   // threads that the call in progress still waits for to join
  std::atomic<int> working_{0};  // threads that have joined and not left yet
  const std::function<void(int64_t)>* do_task_ = nullptr;
  std::atomic<uint64_t> open_tasks_{0};  // tasks that nobody has taken, as a range()
  std::exception_ptr error_;
};

std::atomic<Pool*> pool{nullptr};

// A forked child has none of its parent's threads, and the pool's locks may be held by them. So the child
// forgets the pool and makes its own. This is registered when the extension is loaded, not at the first call,
// in the middle of which another thread might fork.
const bool child_forgets_pool = [] {
  pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });
  return true;
}();

// The pool of this process, made at the first call. Never freed: its threads wait in it until the process
// ends.
Pool& the_pool() {
  Pool* here = pool;
  if (!here) {
    auto* made = new Pool;
    if (pool.compare_exchange_strong(here, made)) return *made;
    delete made;
  }
  return *here;
}

}  // namespace

void in_parallel(int64_t tasks, int threads, const std::function<void(int64_t)>& do_task) {
  threads = static_cast<int>(std::min<int64_t>(threads, tasks));  // more would find no task
  if (threads > 1 && the_pool().run(tasks, threads, do_task)) return;
  for (int64_t k = 0; k < tasks; ++k) do_task(k);
}

}  // namespace blockenc
