// The lock of everything that calls keep for later calls.

#pragma once

#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace blockenc {

// One lock for the whole extension, held for moments only. A fork copies locks as they are: a lock that
// another thread holds would stay locked in the child for ever. So a fork first takes this lock, and parent
// and child release it. That works because there is one: locks in each object could not all be found and
// taken.
inline std::mutex& state_lock() {
  static std::mutex& lock = *new std::mutex;  // never freed: threads may outlive static objects
  return lock;
}

// Registered when the extension is loaded, not at the first call, in the middle of which another thread might
// fork.
inline const bool state_lock_survives_forks = [] {
  state_lock();
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork([] { state_lock().lock(); }, [] { state_lock().unlock(); }, [] { state_lock().unlock(); });
#endif
  return true;
}();

}  // namespace blockenc
