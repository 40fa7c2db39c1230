// Runs the CUDA kernels on a CPU, one block at a time: each thread is a fibre that gives way where the threads of a
// block or of a warp wait for one another. The order of the fibres is random and one warp falls behind, copies to shared
// memory arrive at once or as late as they may, and shared memory begins as garbage, so that a missing barrier shows.
//
// Compiled with -DWIDTH= and -DKERNELS="path of kernels.cu".

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

typedef unsigned int u32;
struct uint4 { u32 x, y, z, w; };
struct int2 { int x, y; };
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
using std::min;

struct Index { unsigned x = 0, y = 0, z = 0; };
static Index threadIdx, blockIdx, blockDim, gridDim;

struct Fibre {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 18);
  bool done = false;
  std::vector<std::vector<std::pair<uint4*, const uint4*>>> copies;  // by group, the last one open
  const void* row;  // what it brings to the other lanes of its warp
  u32 a[4], b[2];
  double value;
};
static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static std::vector<int> arrived;  // at the barrier of a warp, and last of the block
static std::vector<int> turn;
static std::function<void()> body;
static std::mt19937 random_bits(0);

static Fibre& self() { return fibres[threadIdx.x]; }

static void give_way() {
  unsigned me = threadIdx.x;
  swapcontext(&fibres[me].context, &scheduler);
  threadIdx.x = me;
}

static void wait_for(size_t barrier, int size) {
  int now = turn[barrier];
  if (++arrived[barrier] == size) {
    arrived[barrier] = 0;
    turn[barrier]++;
  }
  while (turn[barrier] == now) give_way();
}

static void __syncthreads() { wait_for(blockDim.x / 32, static_cast<int>(blockDim.x)); }
static void sync_warp() { wait_for(threadIdx.x / 32, 32); }

static double __shfl_down_sync(u32, double value, int lanes) {
  self().value = value;
  sync_warp();
  unsigned lane = threadIdx.x % 32;
  double theirs = lane + lanes < 32 ? fibres[threadIdx.x + lanes].value : value;
  sync_warp();
  return theirs;
}

static u32 atomicAdd(u32* to, u32 value) {
  u32 before = *to;
  *to += value;
  return before;
}

static unsigned long long atomicCAS(unsigned long long* to, unsigned long long expected, unsigned long long value) {
  unsigned long long before = *to;
  if (before == expected) *to = value;
  return before;
}

static long long atomicMin(long long* to, long long value) {
  long long before = *to;
  *to = min(before, value);
  return before;
}

static double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}

static long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, 8);
  return bits;
}

static double wide(float x) { return x; }

static float of_half(u32 bits) {
  int exponent = bits >> 10 & 31;
  float mantissa = static_cast<float>(bits & 1023);
  float size = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  return bits & 0x8000 ? -size : size;
}

// As tensor_core.cu describes them.

static void load_matrices(u32 (&to)[4], const void* row) {
  self().row = row;
  sync_warp();
  unsigned lane = threadIdx.x % 32, warp = threadIdx.x - lane;
  for (unsigned i = 0; i < 4; i++) {
    const char* from = static_cast<const char*>(fibres[warp + 8 * i + lane / 4].row);
    std::memcpy(&to[i], from + lane % 4 * 4, 4);
  }
  sync_warp();
}

static void multiply_add(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  std::copy(a, a + 4, self().a);
  self().b[0] = b0;
  self().b[1] = b1;
  sync_warp();
  unsigned lane = threadIdx.x % 32, warp = threadIdx.x - lane, g = lane / 4, t = lane % 4;
  for (unsigned e = 0; e < 4; e++) {
    unsigned row = g + e / 2 * 8, col = 2 * t + e % 2;
    double product = sum[e];
    for (unsigned k = 0; k < 16; k++) {  // a: row in a half of 8, k in a half of 8; b: k in a half of 8
      u32 left = fibres[warp + row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
      u32 right = fibres[warp + col * 4 + k % 8 / 2].b[k / 8];
      product += static_cast<double>(of_half(left >> k % 2 * 16 & 0xffff)) * of_half(right >> k % 2 * 16 & 0xffff);
    }
    sum[e] = static_cast<float>(product);
  }
  sync_warp();
}

static void start_copy(uint4* to, const uint4* from) {
  if (random_bits() & 1) {
    *to = *from;
  } else {
    self().copies.back().push_back({to, from});
  }
}

static void end_of_copies() { self().copies.emplace_back(); }

template <int open>
static void copies_done() {
  auto& groups = self().copies;
  while (groups.size() > open + 1) {
    for (auto [to, from] : groups.front()) *to = *from;
    groups.erase(groups.begin());
  }
}

#include KERNELS

uint4 shared[1 << 14];

static void run_fibre() {
  body();
  self().done = true;
  swapcontext(&self().context, &scheduler);
}

static void run_blocks(unsigned grid, unsigned block) {
  gridDim.x = grid;
  blockDim.x = block;
  for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++) {
    std::memset(shared, 0x7b, sizeof(shared));
    arrived.assign(block / 32 + 1, 0);
    turn.assign(block / 32 + 1, 0);
    fibres.resize(block);
    for (Fibre& fibre : fibres) {
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.data();
      fibre.context.uc_stack.ss_size = fibre.stack.size();
      fibre.done = false;
      fibre.copies.assign(1, {});
      makecontext(&fibre.context, run_fibre, 0);
    }
    std::vector<unsigned> order(block);
    for (unsigned n = 0; n < block; n++) order[n] = n;
    std::shuffle(order.begin(), order.end(), random_bits);
    unsigned slow = random_bits() % (block / 32), behind = random_bits() % 400;  // a warp that waits for a while
    bool open = true;
    for (unsigned round = 0; open; round++) {
      open = false;
      for (unsigned n : order)
        if (!fibres[n].done) {
          open = true;
          if (n / 32 == slow && round - behind < 120) continue;
          threadIdx.x = n;
          swapcontext(&scheduler, &fibres[n].context);
        }
    }
  }
}

template <class... Args, size_t... n>
static void call(void (*kernel)(Args...), void** args, std::index_sequence<n...>) {
  kernel(*static_cast<std::remove_cv_t<Args>*>(args[n])...);
}

template <class... Args>
static void launch(void (*kernel)(Args...), unsigned grid, unsigned block, void** args) {
  body = [=] { call(kernel, args, std::index_sequence_for<Args...>()); };
  run_blocks(grid, block);
}

#define RUN(kernel) \
  extern "C" void run_##kernel(unsigned grid, unsigned block, void** args) { launch(kernel, grid, block, args); }
RUN(mark)
RUN(list_pairs)
RUN(pair_dots)
RUN(raise_best)
RUN(first_of_best)
RUN(widen)
