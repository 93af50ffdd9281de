// A few threads that run one function together. They spin briefly between runs and barriers, then sleep: nothing burns
// when nothing runs.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace herd {

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

class Pool {
 public:
  explicit Pool(int threads) : count_(threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return count_; }

  // Run `job(thread)` on every thread, this one as thread 0, and wait for all.
  void run(const std::function<void(int)>& job) {
    job_ = &job;
    done_.store(0, std::memory_order_relaxed);
    {
      std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load()) wake_.notify_all();
    job(0);
    for (int spins = 0; done_.load(std::memory_order_acquire) != count_ - 1; spins++) rest(spins);
  }

  // Wait until every thread of a run is here, and call meanwhile() again and again until then.
  template <class F>
  void barrier(F&& meanwhile) {
    int turn = turn_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1, std::memory_order_release);
    } else {
      for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; spins++) {
        meanwhile();
        rest(spins);
      }
    }
  }

 private:
  static void rest(int spins) {
    if (spins < 4000) {
      pause_cpu();
    } else {
      sched_yield();  // another program has the processor that our other thread needs
    }
  }

  void work(int thread) {
    unsigned seen = 0;
    while (true) {
      for (int spins = 0; spins < 20000 && generation_.load(std::memory_order_acquire) == seen && !stop_; spins++) pause_cpu();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return stop_ || generation_.load(std::memory_order_acquire) != seen; });
        sleeping_.fetch_sub(1);
      }
      if (stop_) return;
      seen = generation_.load(std::memory_order_acquire);
      (*job_)(thread);
      done_.fetch_add(1, std::memory_order_acq_rel);
    }
  }

  int count_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* job_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<unsigned> generation_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> turn_{0};
};

}  // namespace herd
