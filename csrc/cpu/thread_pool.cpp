#include "thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace blockenc {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// A thread that has worked looks for more for so long before it sleeps: to wake one takes longer, and a loop
// of calls leaves less between them.
constexpr auto kSpin = std::chrono::microseconds(100);

// Whether `done()` came true within kSpin.
template <class Done>
bool spin(Done&& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int k = 0; k < 32; ++k) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

class Pool {
 public:
  // False, and nothing done, if another call has the pool.
  bool run(int64_t pieces, int threads, const std::function<void(int64_t)>& work) {
    std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (!mine) return false;
    start(threads - 1);
    work_ = &work;
    left_over_ = range(0, static_cast<uint32_t>(pieces));
    error_ = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = std::min(threads - 1, started_);
    }
    wake_.notify_all();
    take(true);
    {
      // Who has not woken by now need not join any more.
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = 0;
    }
    auto idle = [&] { return inside_ == 0; };
    if (!spin(idle)) {
      std::unique_lock<std::mutex> lock(mutex_);
      left_.wait(lock, idle);
    }
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  void start(int count) {
    // Signals are for the threads of the program, Python's handlers for its main one.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (; started_ < count; ++started_) std::thread(&Pool::serve, this).detach();
    } catch (const std::system_error&) {
      // The system gives no more: those there are do the work.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  // Joins the call in progress if it wants another thread.
  bool join() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (wanted_ == 0) return false;
    --wanted_;
    ++inside_;
    return true;
  }

  void serve() {
    for (;;) {
      // Who wakes too late for one short call is awake for the next.
      if (!spin([&] { return wanted_ > 0; })) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (wanted_ == 0) wake_.wait(lock);
        continue;
      }
      if (!join()) continue;
      take(false);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--inside_ == 0) left_.notify_one();
    }
  }

  static uint64_t range(uint32_t first, uint32_t last) { return uint64_t{last} << 32 | first; }

  // The caller takes pieces from the front, the others from the back: in a loop of calls each then meets
  // mostly what its own caches hold.
  void take(bool front) {
    uint64_t pieces = left_over_;
    for (;;) {
      const auto first = static_cast<uint32_t>(pieces), last = static_cast<uint32_t>(pieces >> 32);
      if (first == last) return;
      const uint64_t rest = front ? range(first + 1, last) : range(first, last - 1);
      if (!left_over_.compare_exchange_weak(pieces, rest)) continue;
      try {
        (*work_)(front ? first : last - 1);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
        left_over_ = 0;
      }
      pieces = left_over_;
    }
  }

  std::mutex busy_;   // held for a call
  std::mutex mutex_;  // held to change wanted_, inside_ or error_
  std::condition_variable wake_, left_;
  int started_ = 0;
  std::atomic<int> wanted_{0}, inside_{0};  // threads asked for and not come yet; at work
  const std::function<void(int64_t)>* work_ = nullptr;
  std::atomic<uint64_t> left_over_{0};  // the range of pieces not taken: first, and last + 1 above it
  std::exception_ptr error_;
};

std::atomic<Pool*> pool{nullptr};

// A forked child has none of the threads of a pool, so it leaves that, whatever its state, for one of its
// own. Registered when the extension is loaded: a fork could cut a registration at the first call in two.
const bool child_leaves_pool = [] {
  pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });
  return true;
}();

// Never freed: threads wait in it until the process ends.
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

void in_parallel(int64_t pieces, int threads, const std::function<void(int64_t)>& work) {
  threads = static_cast<int>(std::min<int64_t>(threads, pieces));  // others would be started for nothing
  if (threads > 1 && pieces > 1 && the_pool().run(pieces, threads, work)) return;
  for (int64_t k = 0; k < pieces; ++k) work(k);
}

}  // namespace blockenc
