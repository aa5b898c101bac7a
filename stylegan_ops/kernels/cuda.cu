// CUDA kernels behind the same plain C names as cpu.cpp; the last argument is the stream. A result other
// than 0 is CUDA's error code. The arithmetic is that of arithmetic.h.

#include "arithmetic.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define ARGUMENTS int dtype, void **t, const int64_t *n, const double *v, int64_t stream
#define DISPATCH(function)                               \
  switch (dtype) {                                       \
    case 0: function<float>(t, n, v, (cudaStream_t)stream); break;       \
    case 1: function<double>(t, n, v, (cudaStream_t)stream); break;      \
    case 2: function<half_bits>(t, n, v, (cudaStream_t)stream); break;   \
    case 3: function<bfloat_bits>(t, n, v, (cudaStream_t)stream); break; \
    default: return 1;                                   \
  }                                                      \
  return (int)cudaGetLastError();

namespace {

constexpr int THREADS = 256;
constexpr int64_t MOST_BLOCKS = 1 << 16;  // a thread takes several elements beyond this

int blocks_for(int64_t count) {
  int64_t blocks = (count + THREADS - 1) / THREADS;
  return (int)(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS);
}

#define EACH(i, count) \
  for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < (count); i += gridDim.x * (int64_t)THREADS)

template <class T>
__global__ void bias_act_all(BiasAct p, const T* x, const T* b, const T* g, const T* h, T* y) {
  EACH(i, p.count) bias_act_at(p, i, x, b, g, h, y);
}

template <class T> void bias_act(void** t, const int64_t* n, const double* v, cudaStream_t stream) {
  const BiasAct p{int(n[0]), int(n[1]), n[2], n[3], n[4], v[0], v[1], v[2]};
  bias_act_all<T><<<blocks_for(p.count), THREADS, 0, stream>>>(p, (T*)t[0], (T*)t[1], (T*)t[2], (T*)t[3], (T*)t[4]);
}

template <class T>
__global__ void upfirdn2d_all(Resampling p, int64_t count, const T* x, const float* taps, T* y) {
  EACH(i, count) upfirdn2d_at(p, i, x, taps, y);
}

template <class T> void upfirdn2d(void** t, const int64_t* n, const double*, cudaStream_t stream) {
  const Resampling p{int(n[0]), int(n[1]), int(n[2]), int(n[3]), int(n[4]),  int(n[5]),  int(n[6]), int(n[7]),
                     int(n[8]), int(n[9]), int(n[10]), int(n[11]), int(n[12]), int(n[13]), int(n[14])};
  const int64_t count = (int64_t)p.planes * p.out_h * p.out_w;
  upfirdn2d_all<T><<<blocks_for(count), THREADS, 0, stream>>>(p, count, (T*)t[0], (float*)t[1], (T*)t[2]);
}

// A block takes one tile at a time through shared memory.
template <class T>
__global__ void filtered_tiles(Filtered p, int64_t tiles, const T* x, const T* b, const float* fu, const float* fd, T* y) {
  typedef typename Wide<T>::type A;
  extern __shared__ double memory[];
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const Tile<A> tile = place_tile(p, i, (A*)memory);
    read_source(p, tile, x, b, threadIdx.x, THREADS);
    __syncthreads();
    rise(p, tile, fu, threadIdx.x, THREADS);
    __syncthreads();
    activate_middle(p, tile, fu, threadIdx.x, THREADS);
    __syncthreads();
    fall(p, tile, fd, threadIdx.x, THREADS);
    __syncthreads();
    write_tile(p, tile, fd, y, threadIdx.x, THREADS);
    __syncthreads();
  }
}

constexpr int64_t SHARED_BYTES = 48 * 1024;  // what every GPU gives without being asked for more

template <class T> void filtered_lrelu(void** t, const int64_t* n, const double* v, cudaStream_t stream) {
  typedef typename Wide<T>::type A;
  Filtered p{int(n[0]), int(n[1]),  int(n[2]),  int(n[3]),  int(n[4]),  int(n[5]),  int(n[6]),  int(n[7]), int(n[8]),
             int(n[9]), int(n[10]), int(n[11]), int(n[12]), int(n[13]), int(n[14]), int(n[15]), 0,         v[0], v[1], v[2]};
  p.tile = fitting_tile(p, SHARED_BYTES, sizeof(A));
  if (p.tile == 0) p.tile = 4;  // the launch then fails, and its error is returned
  const int64_t tiles = (int64_t)p.planes * ceil_divide(p.out_h, p.tile) * ceil_divide(p.out_w, p.tile);
  const int blocks = (int)(tiles < MOST_BLOCKS ? tiles : MOST_BLOCKS);
  filtered_tiles<T><<<blocks, THREADS, scratch_floats(p) * sizeof(A), stream>>>(
      p, tiles, (T*)t[0], (T*)t[1], (float*)t[2], (float*)t[3], (T*)t[4]);
}

template <class T> __global__ void modulate_all(Modulation p, const T* x, const T* s, const T* noise, const T* b, T* y) {
  EACH(i, p.count) modulate_at(p, i, x, s, noise, b, y);
}

template <class T> void modulate(void** t, const int64_t* n, const double* v, cudaStream_t stream) {
  const Modulation p{n[0], n[1], int(n[2]), int(n[3]), int(n[4]), int(n[5]), v[0], v[1], v[2]};
  modulate_all<T><<<blocks_for(p.count), THREADS, 0, stream>>>(p, (T*)t[0], (T*)t[1], (T*)t[2], (T*)t[3], (T*)t[4]);
}

// Sum over a block; the result is in every thread.
template <class A> __device__ A block_sum(A value) {
  __shared__ A parts[THREADS];
  __syncthreads();
  parts[threadIdx.x] = value;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  __syncthreads();
  return parts[0];
}

template <class T>
__global__ void dot_planes(int64_t planes, int64_t pixels, int64_t channels, int64_t is_last, const T* a, const T* b, T* y) {
  typedef typename Wide<T>::type A;
  for (int64_t plane = blockIdx.x; plane < planes; plane += gridDim.x) {
    const int64_t step = is_last ? channels : 1;
    const int64_t start = is_last ? plane / channels * channels * pixels + plane % channels : plane * pixels;
    A sum = A(0);
    for (int64_t i = threadIdx.x; i < pixels; i += THREADS)
      sum += A(load(a, start + i * step)) * A(load(b, start + i * step));
    sum = block_sum(sum);
    if (threadIdx.x == 0) store(y, plane, sum);
  }
}

template <class T> void channel_dot(void** t, const int64_t* n, const double*, cudaStream_t stream) {
  const int blocks = (int)(n[0] < MOST_BLOCKS ? n[0] : MOST_BLOCKS);
  dot_planes<T><<<blocks, THREADS, 0, stream>>>(n[0], n[1], n[2], n[3], (T*)t[0], (T*)t[1], (T*)t[2]);
}

}  // namespace

EXPORTED int bias_act_kernel(ARGUMENTS) { DISPATCH(bias_act) }
EXPORTED int upfirdn2d_kernel(ARGUMENTS) { DISPATCH(upfirdn2d) }
EXPORTED int filtered_lrelu_kernel(ARGUMENTS) { DISPATCH(filtered_lrelu) }
EXPORTED int modulate_kernel(ARGUMENTS) { DISPATCH(modulate) }
EXPORTED int channel_dot_kernel(ARGUMENTS) { DISPATCH(channel_dot) }
