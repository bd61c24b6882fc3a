// The lock of what calls keep for later calls.

#pragma once

#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace blockenc {

// One for the whole extension, held for moments only. A fork copies locks as they are: one that another
// thread holds stays locked in the child for ever. So a fork takes this lock first, and both sides give it
// back; with a lock in each object there would be no list of them to take.
inline std::mutex& state_lock() {
  static std::mutex& lock = *new std::mutex;  // never freed: threads may outlive static objects
  return lock;
}

// When the extension is loaded: a fork could cut a registration at the first call in two.
inline const bool state_lock_survives_forks = [] {
  state_lock();
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork([] { state_lock().lock(); }, [] { state_lock().unlock(); }, [] { state_lock().unlock(); });
#endif
  return true;
}();

}  // namespace blockenc
