// The screen on tensor cores, exact products of pairs, and the best of them. Compiled with -DWIDTH=, the half-precision numbers of a row:
// a multiple of 16.

constexpr int TILE = 128;            // rows and columns that a block multiplies at once, as 2 x 2 warps
constexpr int STRIP = 8;             // tiles of columns that it goes through with its rows
constexpr int THREADS = 128;
constexpr int PARTS = WIDTH / 8;     // of 16 bytes, of a row
constexpr int PITCH = PARTS + 1;     // of a row in shared memory: so that 8 rows lie in different banks

// Which rows of the codes a sweep compares with which: `numbers` names them, `rows` of them from first_row on and `cols`
// from first_col on. Blocks from first_block on work on it; triangle: only pairs in which the column comes before the row.
struct Sweep {
  int first_block, first_row, rows, first_col, cols, triangle;
};

extern __shared__ uint4 shared[];

// Some rows of codes into shared memory, zeros for those beyond `count`.
__device__ __forceinline__ void load_tile(uint4* to, const uint4* codes, const int* numbers, int count) {
  for (int n = threadIdx.x; n < TILE * PARTS; n += THREADS) {
    int row = n / PARTS, part = n % PARTS;
    uint4* there = to + row * PITCH + part;
    if (row < count) {
      start_copy(there, codes + static_cast<long long>(numbers[row]) * PARTS + part);
    } else {
      *there = make_uint4(0, 0, 0, 0);
    }
  }
}

// This warp's 64 x 64 products of a tile.
__device__ __forceinline__ void multiply_tile(float (&sums)[4][8][4], const uint4* a, const uint4* b) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint4* a_row = a + (warp / 2 * 64 + lane % 16) * PITCH + lane / 16;
  const uint4* b_row = b + (warp % 2 * 64 + lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2;
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[m][n][e] = 0;
#pragma unroll
  for (int part = 0; part < PARTS; part += 2) {
    u32 left[4][4], right[4][4];
#pragma unroll
    for (int m = 0; m < 4; m++) load_matrices(left[m], a_row + m * 16 * PITCH + part);
#pragma unroll
    for (int n = 0; n < 4; n++) load_matrices(right[n], b_row + n * 16 * PITCH + part);
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
      for (int n = 0; n < 8; n++)
        multiply_add(sums[m][n], left[m], right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]);
  }
}

// Calls found(i, j) for each pair of list positions whose product reaches the floor.
template <class Found>
__device__ __forceinline__ void sweep_tiles(const uint4* codes, const int* numbers, const Sweep* sweeps, int sweep_count,
                                            float floor, Found found) {
  int low = 0, high = sweep_count - 1;  // the last sweep that begins at this block or before
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (sweeps[middle].first_block <= static_cast<int>(blockIdx.x)) low = middle;
    else high = middle - 1;
  }
  const Sweep sweep = sweeps[low];
  int strips = (sweep.cols + TILE * STRIP - 1) / (TILE * STRIP);
  int block = blockIdx.x - sweep.first_block;
  int top = block / strips * TILE, left = block % strips * TILE * STRIP;
  int right = min(left + TILE * STRIP, sweep.triangle ? min(top + TILE, sweep.cols) : sweep.cols);
  if (left >= right) return;

  const int* rows = numbers + sweep.first_row;
  const int* cols = numbers + sweep.first_col;
  uint4* a = shared;
  uint4* b = a + TILE * PITCH;  // two tiles, in turns
  load_tile(a, codes, rows + top, sweep.rows - top);
  load_tile(b, codes, cols + left, sweep.cols - left);
  end_of_copies();
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int at = left, turn = 0; at < right; at += TILE, turn ^= 1) {
    if (at + TILE < right) {  // the next tile comes while this one is multiplied
      load_tile(b + (turn ^ 1) * TILE * PITCH, codes, cols + at + TILE, sweep.cols - at - TILE);
      end_of_copies();
      copies_done<1>();
    } else {
      copies_done<0>();
    }
    __syncthreads();
    float sums[4][8][4];
    multiply_tile(sums, a, b + turn * TILE * PITCH);
    float highest = sums[0][0][0];
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
      for (int n = 0; n < 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) highest = fmaxf(highest, sums[m][n][e]);
    if (highest >= floor) {  // seldom
      int i = top + warp / 2 * 64 + lane / 4, j = at + warp % 2 * 64 + lane % 4 * 2;
#pragma unroll
      for (int m = 0; m < 4; m++)
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            int row = i + m * 16 + e / 2 * 8, col = j + n * 8 + e % 2;
            if (sums[m][n][e] >= floor && row < sweep.rows && col < sweep.cols && !(sweep.triangle && col >= row))
              found(rows[row], cols[col]);
          }
    }
    __syncthreads();
  }
}

// Sets the flags of both rows of each pair that reaches the floor.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    mark(const uint4* codes, const int* numbers, const Sweep* sweeps, int sweep_count, float floor,
         unsigned char* flags) {
  sweep_tiles(codes, numbers, sweeps, sweep_count, floor, [=](int i, int j) {
    if (!flags[i]) flags[i] = 1;
    if (!flags[j]) flags[j] = 1;
  });
}

// Writes the pairs that reach the floor, in any order, while they are no more than `capacity`; count is above it when
// they are more, and then may be any such number.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    list_pairs(const uint4* codes, const int* numbers, const Sweep* sweeps, int sweep_count, float floor,
               unsigned int capacity, unsigned int* count, int2* pairs) {
  if (*static_cast<volatile unsigned int*>(count) > capacity) return;
  sweep_tiles(codes, numbers, sweeps, sweep_count, floor, [=](int i, int j) {
    if (*static_cast<volatile unsigned int*>(count) > capacity) return;
    unsigned int at = atomicAdd(count, 1u);
    if (at < capacity) pairs[at] = make_int2(i, j);
  });
}

// out[p] = x[i[p]] · y[j[p]] in the order of additions of udfs.vectors.pair_dots: a warp for each pair, whose lanes
// hold 4 of its 128 sums each.
extern "C" __global__ void pair_dots(const float* x, const long long* i, const float* y, const long long* j, int dim,
                                     long long pairs, double* out) {
  int lane = threadIdx.x % 32;
  long long warps = static_cast<long long>(gridDim.x) * (blockDim.x / 32);
  for (long long p = static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; p < pairs; p += warps) {
    const float* a = x + i[p] * dim;
    const float* b = y + j[p] * dim;
    double sums[4] = {0, 0, 0, 0};
    for (int first = lane; first < dim; first += 128)
#pragma unroll
      for (int n = 0; n < 4; n++) {
        int k = first + 32 * n;
        if (k < dim) sums[n] += wide(a[k]) * wide(b[k]);
      }
    double sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
#pragma unroll
    for (int half = 16; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffffu, sum, half);
    if (lane == 0) out[p] = sum;
  }
}

// best[row[p]] = the highest of itself and score[p].
extern "C" __global__ void raise_best(const long long* row, const double* score, long long pairs, double* best) {
  long long p = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= pairs) return;
  unsigned long long* to = reinterpret_cast<unsigned long long*>(best + row[p]);
  unsigned long long seen = *to;
  while (__longlong_as_double(seen) < score[p]) {
    unsigned long long before = atomicCAS(to, seen, __double_as_longlong(score[p]));
    if (before == seen) break;
    seen = before;
  }
}

// first[row[p]] = the lowest of itself and col[p], where score[p] is the best of its row.
extern "C" __global__ void first_of_best(const long long* row, const long long* col, const double* score,
                                         long long pairs, const double* best, long long* first) {
  long long p = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p < pairs && score[p] == best[row[p]]) atomicMin(first + row[p], col[p]);
}

extern "C" __global__ void widen(const float* x, long long size, double* y) {
  long long n = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n < size) y[n] = wide(x[n]);
}
