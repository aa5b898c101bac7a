// Pieces of work on several threads: those of torch's OpenMP runtime where one is in the process. Its
// threads wait for their next work by spinning, so others beside them would have to share cores with
// them: waiting was a fifth of the samples in a profile of a generator's pass on two cores.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

// Calls work(first, last) on pieces of [0, count), one for each thread; below `least` items a thread of its
// own costs more than it saves.
template <class F> void in_parallel(int64_t count, int64_t threads, int64_t least, F work) {
  struct Pieces {
    int64_t count, pieces;
    F& work;
    std::atomic<int64_t> next{0};
    // Until none is left: the runtime may give fewer threads than it was asked for.
    static void run(void* data) {
      Pieces& all = *static_cast<Pieces*>(data);
      for (int64_t i; (i = all.next++) < all.pieces;)
        all.work(all.count * i / all.pieces, all.count * (i + 1) / all.pieces);
    }
  } all{count, std::min(threads, std::max<int64_t>(1, count / std::max<int64_t>(1, least))), work};
  if (all.pieces <= 1) {
    work(int64_t(0), count);
    return;
  }
  // What GCC makes of "#pragma omp parallel"; LLVM's and Intel's runtimes have it too.
  typedef void Parallel(void (*)(void*), void*, unsigned, unsigned);
  static Parallel* const parallel = reinterpret_cast<Parallel*>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  if (parallel) {
    parallel(Pieces::run, &all, unsigned(all.pieces), 0);
    return;
  }
  std::vector<std::thread> others;
  for (int64_t i = 1; i < all.pieces; i++) others.emplace_back(Pieces::run, &all);
  Pieces::run(&all);
  for (auto& other : others) other.join();
}
