// The arithmetic and the indexing of every kernel, shared by device (cuda.cu) and host (cpu.cpp): what
// a test runs on a CPU is what a GPU runs. No header of torch or of CUDA's half types is needed.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SHARED __host__ __device__ __forceinline__
#else
#define SHARED inline
#endif

// numbers: storage type T, arithmetic in Wide<T>::type

struct half_bits { uint16_t bits; };
struct bfloat_bits { uint16_t bits; };

template <class T> struct Wide { typedef float type; };
template <> struct Wide<double> { typedef double type; };

SHARED float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

SHARED uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

SHARED float load(const float* p, int64_t i) { return p[i]; }
SHARED double load(const double* p, int64_t i) { return p[i]; }
SHARED float load(const bfloat_bits* p, int64_t i) { return bits_to_float((uint32_t)p[i].bits << 16); }
SHARED float load(const half_bits* p, int64_t i) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(p[i].bits));
  return value;
#else
  uint32_t bits = p[i].bits, sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 moves the exponent's origin, and normalises what is subnormal in half.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
#endif
}

SHARED void store(float* p, int64_t i, float value) { p[i] = value; }
SHARED void store(double* p, int64_t i, double value) { p[i] = value; }
SHARED void store(bfloat_bits* p, int64_t i, float value) {
  uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) p[i].bits = (uint16_t)(bits >> 16 | 0x40u);
  else p[i].bits = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);  // to nearest, ties to even
}
SHARED void store(half_bits* p, int64_t i, float value) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(p[i].bits) : "f"(value));
#else
  uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t result;
  if (magnitude > 0x7f800000u) result = 0x7e00u;
  else if (magnitude >= 0x477ff000u) result = 0x7c00u;  // 65520 and more round to infinity
  else if (magnitude < 0x38800000u)  // below 2^-14: adding 1/2 leaves the subnormal's bits, rounded
    result = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  else result = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  p[i].bits = (uint16_t)(sign | result);
#endif
}

SHARED float exponential(float x) { return expf(x); }
SHARED double exponential(double x) { return exp(x); }
SHARED float exponential_minus_1(float x) { return expm1f(x); }
SHARED double exponential_minus_1(double x) { return expm1(x); }
SHARED float logarithm_plus_1(float x) { return log1pf(x); }
SHARED double logarithm_plus_1(double x) { return log1p(x); }
SHARED float hyperbolic_tangent(float x) { return tanhf(x); }
SHARED double hyperbolic_tangent(double x) { return tanh(x); }

SHARED int largest(int a, int b) { return a > b ? a : b; }
SHARED int smallest(int a, int b) { return a < b ? a : b; }
// Towards minus infinity; C rounds towards zero.
SHARED int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
SHARED int ceil_divide(int a, int b) { return -floor_divide(-a, b); }

template <class A> SHARED A sigmoid(A x) { return A(1) / (A(1) + exponential(-x)); }

// bias_act

enum Activation { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

// f(x), f'(x) or f''(x), for order 0, 1, 2.
template <class A> SHARED A activation(int act, int order, A x, A alpha) {
  const A selu_alpha = A(1.6732632423543772848170429916717), selu_scale = A(1.0507009873554804934193349852946);
  const A zero = A(0), one = A(1);
  switch (act) {
    case RELU: return order == 0 ? (x > zero ? x : zero) : order == 1 && x > zero ? one : zero;
    case LRELU: return order == 0 ? (x > zero ? x : x * alpha) : order == 2 ? zero : x > zero ? one : alpha;
    case TANH: {
      A t = hyperbolic_tangent(x), slope = one - t * t;
      return order == 0 ? t : order == 1 ? slope : A(-2) * t * slope;
    }
    case SIGMOID: {
      A s = sigmoid(x), slope = s * (one - s);
      return order == 0 ? s : order == 1 ? slope : slope * (one - A(2) * s);
    }
    case ELU:
      if (x > zero) return order == 0 ? x : order == 1 ? one : zero;
      return order == 0 ? exponential_minus_1(x) : exponential(x);
    case SELU:
      if (x > zero) return order == 0 ? selu_scale * x : order == 1 ? selu_scale : zero;
      return selu_scale * selu_alpha * (order == 0 ? exponential_minus_1(x) : exponential(x));
    case SOFTPLUS: {
      if (x > A(20)) return order == 0 ? x : order == 1 ? one : zero;  // as torch's threshold
      A s = sigmoid(x);
      return order == 0 ? logarithm_plus_1(exponential(x)) : order == 1 ? s : s * (one - s);
    }
    case SWISH: {
      A s = sigmoid(x);
      if (order == 0) return x * s;
      A slope = s * (one - s);
      return order == 1 ? s + x * slope : slope * (A(2) + x * (one - A(2) * s));
    }
    default: return order == 0 ? x : order == 1 ? one : zero;
  }
}

// To [-clamp, clamp] where clamp is not below zero; a NaN stays one.
template <class A> SHARED A limited(A x, A clamp) {
  return clamp < A(0) ? x : x < -clamp ? -clamp : x > clamp ? clamp : x;
}

struct BiasAct {
  int act, order;         // order of the derivative
  int64_t count;          // elements
  int64_t step, channels; // element i has bias (i / step) % channels
  double alpha, gain, clamp;  // clamp below zero: none
};

// order 0: y of x. order 1: gx of x and g = gy. order 2: gx of x, g = gy, h = the gradient of gx.
template <class T>
SHARED void bias_act_at(const BiasAct& p, int64_t i, const T* x, const T* b, const T* g, const T* h, T* y) {
  typedef typename Wide<T>::type A;
  A value = load(x, i);
  if (b) value += load(b, i / p.step % p.channels);
  const A gain = A(p.gain), alpha = A(p.alpha), clamp = A(p.clamp);
  A out = activation<A>(p.act, p.order, value, alpha) * gain;
  if (p.order > 0) {
    out *= load(g, i);
    if (p.order > 1) out *= load(h, i);
    if (p.clamp >= 0) {
      A before = activation<A>(p.act, 0, value, alpha) * gain;
      if (!(before >= -clamp && before <= clamp)) out = A(0);
    }
  } else {
    out = limited(out, clamp);
  }
  store(y, i, out);
}

// upfirdn2d

struct Resampling {
  int planes, channels;         // planes = n * channels
  int in_h, in_w, out_h, out_w;
  int taps_h, taps_w, up_x, up_y, down_x, down_y, pad_x, pad_y;  // paddings before the first pixel
  int channels_last;
};

// Element of [n, c, h, w] in the layout of the tensor.
SHARED int64_t address(const Resampling& p, int plane, int y, int x, int h, int w) {
  if (!p.channels_last) return ((int64_t)plane * h + y) * w + x;
  int64_t n = plane / p.channels, c = plane % p.channels;
  return ((n * h + y) * w + x) * p.channels + c;
}

// The source pixels that a window over the upsampled, padded line touches: first, last, and the tap
// of the first. Zeros that upsampling inserted are never visited.
SHARED void window(int out, int down, int pad, int up, int taps, int size, int* first, int* last, int* tap) {
  int start = out * down - pad;
  *first = largest(0, ceil_divide(start, up));
  *last = smallest(size - 1, floor_divide(start + taps - 1, up));
  *tap = *first * up - start;
}

template <class T>
SHARED void upfirdn2d_at(const Resampling& p, int64_t i, const T* x, const float* taps, T* y) {
  typedef typename Wide<T>::type A;
  int64_t rest = i;
  int plane, oy, ox;
  if (p.channels_last) {
    int c = (int)(rest % p.channels); rest /= p.channels;
    ox = (int)(rest % p.out_w); rest /= p.out_w;
    oy = (int)(rest % p.out_h);
    plane = (int)(rest / p.out_h) * p.channels + c;
  } else {
    ox = (int)(rest % p.out_w); rest /= p.out_w;
    oy = (int)(rest % p.out_h);
    plane = (int)(rest / p.out_h);
  }
  int y0, y1, ky, x0, x1, kx;
  window(oy, p.down_y, p.pad_y, p.up_y, p.taps_h, p.in_h, &y0, &y1, &ky);
  window(ox, p.down_x, p.pad_x, p.up_x, p.taps_w, p.in_w, &x0, &x1, &kx);
  A sum = A(0);
  for (int iy = y0; iy <= y1; iy++, ky += p.up_y)
    for (int ix = x0, k = kx; ix <= x1; ix++, k += p.up_x)
      sum += A(taps[ky * p.taps_w + k]) * A(load(x, address(p, plane, iy, ix, p.in_h, p.in_w)));
  store(y, i, sum);
}

// filtered_lrelu: one tile of one plane, in steps between which all lanes must meet

struct Filtered {
  int planes, channels, in_h, in_w, out_h, out_w;
  int up, down, pad_x, pad_y;
  int up_taps_h, up_taps_w, down_taps_h, down_taps_w;  // separable: used once along each axis
  int up_separable, down_separable;
  int tile;
  double gain, slope, clamp;
};

SHARED int middle_size(int tile, int down, int taps) { return (tile - 1) * down + taps; }
SHARED int source_size(int middle, int up, int taps) { return (middle + taps - 2) / up + 2; }

// Floats of scratch that a tile needs: the source pixels, those upsampled along y, the middle signal,
// and that filtered along y.
SHARED int64_t scratch_floats(const Filtered& p) {
  int64_t mh = middle_size(p.tile, p.down, p.down_taps_h), mw = middle_size(p.tile, p.down, p.down_taps_w);
  int64_t sh = source_size((int)mh, p.up, p.up_taps_h), sw = source_size((int)mw, p.up, p.up_taps_w);
  return sh * sw + mh * sw + mh * mw + (int64_t)p.tile * mw;
}

// The largest tile of 32, 16, 8, 4 pixels whose scratch fits into a number of bytes, or 0.
SHARED int fitting_tile(Filtered p, int64_t bytes, int element) {
  for (p.tile = 32; p.tile >= 4; p.tile /= 2)
    if (scratch_floats(p) * element <= bytes) return p.tile;
  return 0;
}

template <class A> struct Tile {
  int plane, oy, ox;         // of the first output pixel
  int my, mx;                // of the first pixel of the middle signal, which has no padding left
  int sy, sx;                // of the first source pixel
  int mh, mw, sh, sw;
  A *source, *risen, *middle, *fallen;
};

template <class A> SHARED Tile<A> place_tile(const Filtered& p, int64_t index, A* scratch) {
  Tile<A> t;
  int across = ceil_divide(p.out_w, p.tile), along = ceil_divide(p.out_h, p.tile);
  t.ox = (int)(index % across) * p.tile;
  t.oy = (int)(index / across % along) * p.tile;
  t.plane = (int)(index / across / along);
  t.my = t.oy * p.down;
  t.mx = t.ox * p.down;
  t.mh = middle_size(p.tile, p.down, p.down_taps_h);
  t.mw = middle_size(p.tile, p.down, p.down_taps_w);
  t.sy = ceil_divide(t.my - p.pad_y, p.up);
  t.sx = ceil_divide(t.mx - p.pad_x, p.up);
  t.sh = source_size(t.mh, p.up, p.up_taps_h);
  t.sw = source_size(t.mw, p.up, p.up_taps_w);
  t.source = scratch;
  t.risen = t.source + t.sh * t.sw;
  t.middle = t.risen + t.mh * t.sw;
  t.fallen = t.middle + t.mh * t.mw;
  return t;
}

template <class T, class A>
SHARED void read_source(const Filtered& p, const Tile<A>& t, const T* x, const T* b, int lane, int lanes) {
  A bias = b ? A(load(b, t.plane % p.channels)) : A(0);
  for (int i = lane; i < t.sh * t.sw; i += lanes) {
    int y = t.sy + i / t.sw, z = t.sx + i % t.sw;
    bool inside = y >= 0 && y < p.in_h && z >= 0 && z < p.in_w;
    // The bias belongs to the pixels of the image, not to its padding.
    t.source[i] = inside ? A(load(x, ((int64_t)t.plane * p.in_h + y) * p.in_w + z)) + bias : A(0);
  }
}

// Upsampling along y, where the filter is separable.
template <class A>
SHARED void rise(const Filtered& p, const Tile<A>& t, const float* taps, int lane, int lanes) {
  if (!p.up_separable) return;
  for (int i = lane; i < t.mh * t.sw; i += lanes) {
    int start = t.my + i / t.sw - p.pad_y, column = i % t.sw;
    int row = ceil_divide(start, p.up), k = row * p.up - start;
    A sum = A(0);
    for (int s = row - t.sy; k < p.up_taps_h; k += p.up, s++) sum += A(taps[k]) * t.source[s * t.sw + column];
    t.risen[i] = sum;
  }
}

// Upsampling along x (or both), and the activation.
template <class A>
SHARED void activate_middle(const Filtered& p, const Tile<A>& t, const float* taps, int lane, int lanes) {
  for (int i = lane; i < t.mh * t.mw; i += lanes) {
    int y = i / t.mw, start_x = t.mx + i % t.mw - p.pad_x;
    int column = ceil_divide(start_x, p.up), first_x = column * p.up - start_x;
    A sum = A(0);
    if (p.up_separable) {
      const A* line = t.risen + y * t.sw;
      for (int k = first_x, s = column - t.sx; k < p.up_taps_w; k += p.up, s++) sum += A(taps[k]) * line[s];
    } else {
      int start_y = t.my + y - p.pad_y, row = ceil_divide(start_y, p.up);
      for (int ky = row * p.up - start_y, r = row - t.sy; ky < p.up_taps_h; ky += p.up, r++)
        for (int k = first_x, s = column - t.sx; k < p.up_taps_w; k += p.up, s++)
          sum += A(taps[ky * p.up_taps_w + k]) * t.source[r * t.sw + s];
    }
    t.middle[i] = limited((sum > A(0) ? sum : sum * A(p.slope)) * A(p.gain), A(p.clamp));
  }
}

// Downsampling along y, where the filter is separable.
template <class A>
SHARED void fall(const Filtered& p, const Tile<A>& t, const float* taps, int lane, int lanes) {
  if (!p.down_separable) return;
  for (int i = lane; i < p.tile * t.mw; i += lanes) {
    const A* column = t.middle + (int64_t)(i / t.mw) * p.down * t.mw + i % t.mw;
    A sum = A(0);
    for (int k = 0; k < p.down_taps_h; k++) sum += A(taps[k]) * column[k * t.mw];
    t.fallen[i] = sum;
  }
}

// Downsampling along x (or both), and the result.
template <class T, class A>
SHARED void write_tile(const Filtered& p, const Tile<A>& t, const float* taps, T* y, int lane, int lanes) {
  for (int i = lane; i < p.tile * p.tile; i += lanes) {
    int row = i / p.tile, column = i % p.tile;
    if (t.oy + row >= p.out_h || t.ox + column >= p.out_w) continue;
    A sum = A(0);
    if (p.down_separable) {
      const A* line = t.fallen + row * t.mw + column * p.down;
      for (int k = 0; k < p.down_taps_w; k++) sum += A(taps[k]) * line[k];
    } else {
      const A* corner = t.middle + row * p.down * t.mw + column * p.down;
      for (int ky = 0; ky < p.down_taps_h; ky++)
        for (int k = 0; k < p.down_taps_w; k++) sum += A(taps[ky * p.down_taps_w + k]) * corner[ky * t.mw + k];
    }
    store(y, ((int64_t)t.plane * p.out_h + t.oy + row) * p.out_w + t.ox + column, sum);
  }
}

// modulation

struct Modulation {
  int64_t count, pixels;  // pixels of one plane
  int channels, channels_last, noises;  // noises: 0 none, 1 for all samples, else n
  int act;
  double alpha, gain, clamp;  // as in BiasAct
};

SHARED void plane_and_pixel(const Modulation& p, int64_t i, int64_t* plane, int64_t* pixel) {
  if (p.channels_last) {
    int64_t c = i % p.channels, rest = i / p.channels;
    *pixel = rest % p.pixels;
    *plane = rest / p.pixels * p.channels + c;
  } else {
    *pixel = i % p.pixels;
    *plane = i / p.pixels;
  }
}

// y = clamp(gain * f(x * s[n, c] + noise[n or 1, h, w] + b[c]))
template <class T>
SHARED void modulate_at(const Modulation& p, int64_t i, const T* x, const T* s, const T* noise, const T* b, T* y) {
  typedef typename Wide<T>::type A;
  int64_t plane, pixel;
  plane_and_pixel(p, i, &plane, &pixel);
  A value = A(load(x, i)) * A(load(s, plane));
  if (p.noises) value += A(load(noise, p.noises == 1 ? pixel : plane / p.channels * p.pixels + pixel));
  if (b) value += A(load(b, plane % p.channels));
  store(y, i, limited(activation<A>(p.act, 0, value, A(p.alpha)) * A(p.gain), A(p.clamp)));
}
