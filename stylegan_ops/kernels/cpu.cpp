// Kernels behind plain C names, all of one signature: dtype (0 float, 1 double), tensors, integers, reals,
// and the number of threads. A result other than 0 is a refusal. Inner loops are contiguous and without
// branches, which compilers turn into vector code. Double precision is for tests of derivatives.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "threads.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define ARGUMENTS int dtype, void **t, const int64_t *n, const double *v, int64_t threads
#define DISPATCH(function)                             \
  switch (dtype) {                                     \
    case 0: function<float>(t, n, v, threads); break;  \
    case 1: function<double>(t, n, v, threads); break; \
    default: return 1;                                 \
  }                                                    \
  return 0;

namespace {

constexpr int64_t LEAST = 1 << 16;  // elements that a thread is worth

// Towards minus infinity; C rounds towards zero.
inline int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
inline int ceil_divide(int a, int b) { return -floor_divide(-a, b); }

// bias_act

enum Activation { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

template <class T> inline T sigmoid(T x) { return T(1) / (T(1) + std::exp(-x)); }

// f(x), f'(x) or f''(x), for order 0, 1, 2.
template <class T> inline T activation(int act, int order, T x, T alpha) {
  const T selu_alpha = T(1.6732632423543772848170429916717), selu_scale = T(1.0507009873554804934193349852946);
  const T zero = T(0), one = T(1);
  switch (act) {
    case RELU: return order == 0 ? (x > zero ? x : zero) : order == 1 && x > zero ? one : zero;
    case LRELU: return order == 0 ? (x > zero ? x : x * alpha) : order == 2 ? zero : x > zero ? one : alpha;
    case TANH: {
      T t = std::tanh(x), slope = one - t * t;
      return order == 0 ? t : order == 1 ? slope : T(-2) * t * slope;
    }
    case SIGMOID: {
      T s = sigmoid(x), slope = s * (one - s);
      return order == 0 ? s : order == 1 ? slope : slope * (one - T(2) * s);
    }
    case ELU:
      if (x > zero) return order == 0 ? x : order == 1 ? one : zero;
      return order == 0 ? std::expm1(x) : std::exp(x);
    case SELU:
      if (x > zero) return order == 0 ? selu_scale * x : order == 1 ? selu_scale : zero;
      return selu_scale * selu_alpha * (order == 0 ? std::expm1(x) : std::exp(x));
    case SOFTPLUS: {
      if (x > T(20)) return order == 0 ? x : order == 1 ? one : zero;  // as torch's threshold
      T s = sigmoid(x);
      return order == 0 ? std::log1p(std::exp(x)) : order == 1 ? s : s * (one - s);
    }
    case SWISH: {
      T s = sigmoid(x);
      if (order == 0) return x * s;
      T slope = s * (one - s);
      return order == 1 ? s + x * slope : slope * (T(2) + x * (one - T(2) * s));
    }
    default: return order == 0 ? x : order == 1 ? one : zero;
  }
}

// To [-clamp, clamp] where clamp is not below zero; a NaN stays one.
template <class T> inline T limited(T x, T clamp) {
  return clamp < T(0) ? x : x < -clamp ? -clamp : x > clamp ? clamp : x;
}

struct BiasAct {
  int act, order;         // order of the derivative
  int64_t count;          // elements
  int64_t step, channels; // element i has bias (i / step) % channels
  double alpha, gain, clamp;  // clamp below zero: none
};

// order 0: y of x. order 1: gx of x and g = gy. order 2: gx of x, g = gy, h = the gradient of gx.
template <class T>
inline void bias_act_at(const BiasAct& p, int64_t i, const T* x, const T* b, const T* g, const T* h, T* y) {
  T value = x[i];
  if (b) value += b[i / p.step % p.channels];
  const T gain = T(p.gain), alpha = T(p.alpha), clamp = T(p.clamp);
  T out = activation<T>(p.act, p.order, value, alpha) * gain;
  if (p.order > 0) {
    out *= g[i];
    if (p.order > 1) out *= h[i];
    if (p.clamp >= 0) {
      T before = activation<T>(p.act, 0, value, alpha) * gain;
      if (!(before >= -clamp && before <= clamp)) out = T(0);
    }
  } else {
    out = limited(out, clamp);
  }
  y[i] = out;
}

// The piecewise linear activations: slope below and above zero, and a limit on both sides.
template <class T> struct Kinked {
  T gain, below, limit;
  template <class P> explicit Kinked(const P& p)  // BiasAct or Modulation
      : gain(T(p.gain)),
        below(gain * (p.act == LINEAR ? T(1) : p.act == RELU ? T(0) : T(p.alpha))),
        limit(p.clamp >= 0 ? T(p.clamp) : T(INFINITY)) {}
  T value(T x) const {
    x *= x > 0 ? gain : below;
    x = x < -limit ? -limit : x;
    return x > limit ? limit : x;
  }
  T slope(T x) const {
    const T factor = x > 0 ? gain : below, y = x * factor;
    return (y >= -limit) & (y <= limit) ? factor : T(0);
  }
};

// A row of `size` elements, of one bias each or of one for all (SAME).
template <bool SAME, class T>
inline void bias_act_row(const Kinked<T>& f, const T* x, const T* b, const T* g, T* y, int64_t size) {
  if (g)
    for (int64_t i = 0; i < size; i++) y[i] = g[i] * f.slope(x[i] + b[SAME ? 0 : i]);
  else
    for (int64_t i = 0; i < size; i++) y[i] = f.value(x[i] + b[SAME ? 0 : i]);
}

// Rows of one channel where pixels are neighbours, of all channels where those are.
template <class T>
void bias_act_rows(const BiasAct& p, const T* x, const T* b, const T* g, T* y, int64_t threads) {
  const Kinked<T> f(p);
  const bool same = p.step > 1 || p.channels == 1;
  const int64_t size = p.channels == 1 ? std::min(p.count, LEAST) : same ? p.step : p.channels;
  const int64_t rows = (p.count + size - 1) / size;
  const std::vector<T> none(same ? 1 : p.channels);
  in_parallel(rows, threads, LEAST / size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const int64_t start = row * size, count = std::min(size, p.count - start);
      const T* bias = !b ? none.data() : same ? b + row % p.channels : b;
      if (same) bias_act_row<true>(f, x + start, bias, g ? g + start : g, y + start, count);
      else bias_act_row<false>(f, x + start, bias, g ? g + start : g, y + start, count);
    }
  });
}

template <class T> void bias_act(void** t, const int64_t* n, const double* v, int64_t threads) {
  const BiasAct p{int(n[0]), int(n[1]), n[2], n[3], n[4], v[0], v[1], v[2]};
  const T *x = (T*)t[0], *b = (T*)t[1], *g = (T*)t[2], *h = (T*)t[3];
  T* y = (T*)t[4];
  if (p.act <= LRELU && p.order <= 1) {
    bias_act_rows<T>(p, x, b, p.order ? g : nullptr, y, threads);
    return;
  }
  in_parallel(p.count, threads, LEAST, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) bias_act_at(p, i, x, b, g, h, y);
  });
}

// upfirdn2d

struct Resampling {
  int planes, channels;         // planes = n * channels
  int in_h, in_w, out_h, out_w;
  int taps_h, taps_w, up_x, up_y, down_x, down_y, pad_x, pad_y;  // paddings before the first pixel
  int channels_last;
};

// The source pixels that a window over the upsampled, padded line touches: first, last, and the tap
// of the first. Zeros that upsampling inserted are never visited.
inline void window(int out, int down, int pad, int up, int taps, int size, int* first, int* last, int* tap) {
  int start = out * down - pad;
  *first = std::max(0, ceil_divide(start, up));
  *last = std::min(size - 1, floor_divide(start + taps - 1, up));
  *tap = *first * up - start;
}

// Outputs ox + j * out_step, j < count, take tap k of the sources ix + j * in_step.
struct Run { int k, ox, ix, count; };

std::vector<Run> runs(const Resampling& p) {
  const int common = std::gcd(p.up_x, p.down_x), out_step = p.up_x / common, in_step = p.down_x / common;
  std::vector<Run> found;
  for (int k = 0; k < p.taps_w; k++)
    for (int ox = 0; ox < std::min(out_step, p.out_w); ox++) {
      const int place = ox * p.down_x + k - p.pad_x;
      const int ix = floor_divide(place, p.up_x);
      if (ix * p.up_x != place) continue;
      const int skipped = std::max(0, ceil_divide(-ix, in_step));
      const int by_source = floor_divide(p.in_w - 1 - ix, in_step);
      const int by_output = (p.out_w - 1 - ox) / out_step;
      const int count = std::min(by_source, by_output) - skipped + 1;
      if (count > 0) found.push_back({k, ox + skipped * out_step, ix + skipped * in_step, count});
    }
  return found;
}

template <int OUT_STEP, int IN_STEP, class T>
inline void add_run(T* out, const T* in, T tap, int count) {
  for (int j = 0; j < count; j++) out[j * OUT_STEP] += tap * in[j * IN_STEP];
}

template <class T>
void resample_plane(const Resampling& p, const std::vector<Run>& all, const T* x, const float* taps, T* y) {
  const int common = std::gcd(p.up_x, p.down_x), out_step = p.up_x / common, in_step = p.down_x / common;
  for (int oy = 0; oy < p.out_h; oy++) {
    T* out = y + int64_t(oy) * p.out_w;
    std::fill(out, out + p.out_w, T(0));
    int iy, last, ky;
    window(oy, p.down_y, p.pad_y, p.up_y, p.taps_h, p.in_h, &iy, &last, &ky);
    for (; iy <= last; iy++, ky += p.up_y)
      for (const Run& run : all) {
        const T tap = taps[ky * p.taps_w + run.k];
        const T* in = x + int64_t(iy) * p.in_w + run.ix;
        if (out_step == 1 && in_step == 1) add_run<1, 1>(out + run.ox, in, tap, run.count);
        else if (out_step == 2 && in_step == 1) add_run<2, 1>(out + run.ox, in, tap, run.count);
        else if (out_step == 1 && in_step == 2) add_run<1, 2>(out + run.ox, in, tap, run.count);
        else
          for (int64_t j = 0; j < run.count; j++) out[run.ox + j * out_step] += tap * in[j * in_step];
      }
  }
}

// Pixels [first, last) of images whose channels are neighbours: those are the lanes.
template <class T>
void resample_pixels(const Resampling& p, const T* x, const float* taps, T* y, int64_t first, int64_t last) {
  constexpr int LANES = 64;
  for (int64_t pixel = first; pixel < last; pixel++) {
    const T* image = x + pixel / p.out_w / p.out_h * p.channels * p.in_h * p.in_w;
    int y0, y1, ky, x0, x1, kx;
    window(int(pixel / p.out_w % p.out_h), p.down_y, p.pad_y, p.up_y, p.taps_h, p.in_h, &y0, &y1, &ky);
    window(int(pixel % p.out_w), p.down_x, p.pad_x, p.up_x, p.taps_w, p.in_w, &x0, &x1, &kx);
    for (int c = 0; c < p.channels; c += LANES) {
      const int count = std::min(LANES, p.channels - c);
      T sums[LANES] = {};
      for (int iy = y0, k = ky; iy <= y1; iy++, k += p.up_y)
        for (int ix = x0, j = kx; ix <= x1; ix++, j += p.up_x) {
          const T tap = taps[k * p.taps_w + j];
          const T* in = image + (int64_t(iy) * p.in_w + ix) * p.channels + c;
          if (count == LANES)
            for (int i = 0; i < LANES; i++) sums[i] += tap * in[i];
          else
            for (int i = 0; i < count; i++) sums[i] += tap * in[i];
        }
      std::copy(sums, sums + count, y + pixel * p.channels + c);
    }
  }
}

template <class T> void upfirdn2d(void** t, const int64_t* n, const double*, int64_t threads) {
  const Resampling p{int(n[0]), int(n[1]), int(n[2]), int(n[3]), int(n[4]),  int(n[5]),  int(n[6]), int(n[7]),
                     int(n[8]), int(n[9]), int(n[10]), int(n[11]), int(n[12]), int(n[13]), int(n[14])};
  const T* x = (T*)t[0];
  const float* taps = (float*)t[1];
  T* y = (T*)t[2];
  const int64_t size = int64_t(p.out_h) * p.out_w;
  if (p.channels_last) {
    in_parallel(p.planes / p.channels * size, threads, LEAST / p.channels, [&](int64_t first, int64_t last) {
      resample_pixels(p, x, taps, y, first, last);
    });
    return;
  }
  const std::vector<Run> all = runs(p);
  in_parallel(p.planes, threads, LEAST / std::max<int64_t>(1, size), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) resample_plane(p, all, x + i * p.in_h * p.in_w, taps, y + i * size);
  });
}

// filtered_lrelu

struct Filtered {
  int planes, channels, in_h, in_w, out_h, out_w;
  int up, down, pad_x, pad_y;
  int up_taps_h, up_taps_w, down_taps_h, down_taps_w;  // separable: used once along each axis
  int up_separable, down_separable;
  double gain, slope, clamp;
};

// Of the signal between upsampling and downsampling.
inline int middle_size(int out, int down, int taps) { return (out - 1) * down + taps; }

// One axis-aligned stage of a plane: which axes are filtered is given by the taps.
struct Stage {
  Resampling p;
  std::vector<Run> all;
  Stage(int in_h, int in_w, int out_h, int out_w, int taps_h, int taps_w, int up_y, int up_x, int down_y,
        int down_x, int pad_y, int pad_x)
      : p{1, 1, in_h, in_w, out_h, out_w, taps_h, taps_w, up_x, up_y, down_x, down_y, pad_x, pad_y, 0},
        all(runs(p)) {}
  template <class T> void operator()(const T* x, const float* taps, T* y) const { resample_plane(p, all, x, taps, y); }
};

template <class T>
void filtered_planes(const Filtered& p, const T* x, const T* b, const float* fu, const float* fd, T* y,
                     int64_t first, int64_t last) {
  const int mh = middle_size(p.out_h, p.down, p.down_taps_h), mw = middle_size(p.out_w, p.down, p.down_taps_w);
  const Stage up_y(p.in_h, p.in_w, mh, p.in_w, p.up_taps_h, 1, p.up, 1, 1, 1, p.pad_y, 0);
  const Stage up_x(mh, p.in_w, mh, mw, 1, p.up_taps_w, 1, p.up, 1, 1, 0, p.pad_x);
  const Stage up(p.in_h, p.in_w, mh, mw, p.up_taps_h, p.up_taps_w, p.up, p.up, 1, 1, p.pad_y, p.pad_x);
  const Stage down_y(mh, mw, p.out_h, mw, p.down_taps_h, 1, 1, 1, p.down, 1, 0, 0);
  const Stage down_x(p.out_h, mw, p.out_h, p.out_w, 1, p.down_taps_w, 1, 1, 1, p.down, 0, 0);
  const Stage down(mh, mw, p.out_h, p.out_w, p.down_taps_h, p.down_taps_w, 1, 1, p.down, p.down, 0, 0);
  const int64_t in_size = int64_t(p.in_h) * p.in_w, middle_pixels = int64_t(mh) * mw;
  std::vector<T> source(in_size), risen(int64_t(mh) * p.in_w), middle(middle_pixels), fallen(int64_t(p.out_h) * mw);
  const T gain = T(p.gain), below = T(p.slope) * gain, limit = p.clamp >= 0 ? T(p.clamp) : T(INFINITY);
  for (int64_t plane = first; plane < last; plane++) {
    const T* in = x + plane * in_size;
    T* out = y + plane * p.out_h * p.out_w;
    const T bias = b ? b[plane % p.channels] : T(0);
    for (int64_t i = 0; i < in_size; i++) source[i] = in[i] + bias;
    if (p.up_separable) {
      up_y(source.data(), fu, risen.data());
      up_x(risen.data(), fu, middle.data());
    } else {
      up(source.data(), fu, middle.data());
    }
    for (int64_t i = 0; i < middle_pixels; i++) {
      T value = middle[i];
      value *= value > 0 ? gain : below;
      value = value < -limit ? -limit : value;
      middle[i] = value > limit ? limit : value;
    }
    if (p.down_separable) {
      down_y(middle.data(), fd, fallen.data());
      down_x(fallen.data(), fd, out);
    } else {
      down(middle.data(), fd, out);
    }
  }
}
template <class T> void filtered_lrelu(void** t, const int64_t* n, const double* v, int64_t threads) {
  const Filtered p{int(n[0]), int(n[1]),  int(n[2]),  int(n[3]),  int(n[4]),  int(n[5]),  int(n[6]),  int(n[7]), int(n[8]),
                   int(n[9]), int(n[10]), int(n[11]), int(n[12]), int(n[13]), int(n[14]), int(n[15]), v[0], v[1], v[2]};
  const T *x = (T*)t[0], *b = (T*)t[1];
  const float *fu = (float*)t[2], *fd = (float*)t[3];
  T* y = (T*)t[4];
  const int64_t size = std::max<int64_t>(1, int64_t(p.out_h) * p.out_w * p.down * p.down);
  in_parallel(p.planes, threads, LEAST / size, [&](int64_t first, int64_t last) {
    filtered_planes(p, x, b, fu, fd, y, first, last);
  });
}

// modulation

struct Modulation {
  int64_t count, pixels;  // pixels of one plane
  int channels, channels_last, noises;  // noises: 0 none, 1 for all samples, else n
  int act;
  double alpha, gain, clamp;  // as in BiasAct
};

// y = clamp(gain * f(x * s[n, c] + noise[n or 1, h, w] + b[c]))
template <class T>
inline void modulate_at(const Modulation& p, int64_t i, const T* x, const T* s, const T* noise, const T* b, T* y) {
  const int64_t size = p.channels_last ? p.channels : p.pixels, row = i / size, place = i % size;
  const int64_t plane = p.channels_last ? row / p.pixels * p.channels + place : row;
  const int64_t pixel = p.channels_last ? row % p.pixels : place;
  T value = x[i] * s[plane];
  if (p.noises) value += noise[p.noises == 1 ? pixel : plane / p.channels * p.pixels + pixel];
  if (b) value += b[plane % p.channels];
  y[i] = limited(activation<T>(p.act, 0, value, T(p.alpha)) * T(p.gain), T(p.clamp));
}

// A row of pixels with one factor and bias, and noise of each; or of channels, with a noise for all.
template <class T>
void modulate_rows(const Modulation& p, const T* x, const T* s, const T* noise, const T* b, T* y, int64_t threads) {
  const Kinked<T> f(p);
  const int64_t size = p.channels_last ? p.channels : p.pixels, samples = p.count / (p.channels * p.pixels);
  const int64_t each = p.channels_last ? p.pixels : p.channels;  // rows of a sample
  const std::vector<T> none(std::max<int64_t>(p.channels, p.noises ? 0 : p.pixels));
  in_parallel(samples * each, threads, LEAST / size, [&](int64_t first, int64_t last) {
    const T* biases = b ? b : none.data();
    for (int64_t row = first; row < last; row++) {
      const int64_t n = row / each, place = row % each;
      const T* in = x + row * size;
      const T* added = p.noises ? noise + (p.noises > 1 ? n * p.pixels : 0) : none.data();
      T* out = y + row * size;
      if (p.channels_last) {
        const T *factors = s + n * size, pixel = added[p.noises ? place : 0];
        for (int64_t i = 0; i < size; i++) out[i] = f.value(in[i] * factors[i] + (pixel + biases[i]));
      } else {
        const T factor = s[row], bias = biases[place];
        for (int64_t i = 0; i < size; i++) out[i] = f.value(in[i] * factor + (added[i] + bias));
      }
    }
  });
}

template <class T> void modulate(void** t, const int64_t* n, const double* v, int64_t threads) {
  const Modulation p{n[0], n[1], int(n[2]), int(n[3]), int(n[4]), int(n[5]), v[0], v[1], v[2]};
  const T *x = (T*)t[0], *s = (T*)t[1], *noise = (T*)t[2], *b = (T*)t[3];
  T* y = (T*)t[4];
  if (p.act <= LRELU) {
    modulate_rows(p, x, s, noise, b, y, threads);
    return;
  }
  in_parallel(p.count, threads, LEAST, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) modulate_at(p, i, x, s, noise, b, y);
  });
}

// y[n, c] = sum over pixels of a * b; what is not a row of pixels is taken 64 channels at a time.
template <class T> void channel_dot(void** t, const int64_t* n, const double*, int64_t threads) {
  const int64_t planes = n[0], pixels = n[1], channels = n[2], is_last = n[3];
  const T *a = (T*)t[0], *b = (T*)t[1];
  T* y = (T*)t[2];
  constexpr int64_t ROW = 64;
  if (is_last) {
    const int64_t parts = (channels + ROW - 1) / ROW;
    in_parallel(planes / channels * parts, threads, LEAST / (pixels * ROW), [=](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; part++) {
        T sums[ROW] = {};
        const int64_t from = part % parts * ROW, count = std::min(ROW, channels - from);
        const int64_t start = part / parts * pixels * channels + from;
        for (int64_t i = 0; i < pixels; i++)
          for (int64_t j = 0; j < count; j++)
            sums[j] += a[start + i * channels + j] * b[start + i * channels + j];
        for (int64_t j = 0; j < count; j++) y[part / parts * channels + from + j] = sums[j];
      }
    });
    return;
  }
  in_parallel(planes, threads, LEAST / std::max<int64_t>(1, pixels), [=](int64_t first, int64_t last) {
    for (int64_t plane = first; plane < last; plane++) {
      T lanes[8] = {};  // eight sums side by side: one vector register
      const int64_t start = plane * pixels, whole = pixels / 8 * 8;
      for (int64_t i = 0; i < whole; i += 8)
        for (int j = 0; j < 8; j++) lanes[j] += a[start + i + j] * b[start + i + j];
      T sum = T(0);
      for (int j = 0; j < 8; j++) sum += lanes[j];
      for (int64_t i = whole; i < pixels; i++) sum += a[start + i] * b[start + i];
      y[plane] = sum;
    }
  });
}

}  // namespace

// Asks for large pages under memory that is about to be written: the first touch of a page costs more
// than these kernels' work on it. A hint, which only Linux takes.
EXPORTED void prefer_large_pages(char* start, int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t PAGE = 1 << 21;
  const uintptr_t first = (uintptr_t(start) + PAGE - 1) / PAGE * PAGE, last = (uintptr_t(start) + bytes) / PAGE * PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

EXPORTED int bias_act_kernel(ARGUMENTS) { DISPATCH(bias_act) }
EXPORTED int upfirdn2d_kernel(ARGUMENTS) { DISPATCH(upfirdn2d) }
EXPORTED int filtered_lrelu_kernel(ARGUMENTS) { DISPATCH(filtered_lrelu) }
EXPORTED int modulate_kernel(ARGUMENTS) { DISPATCH(modulate) }
EXPORTED int channel_dot_kernel(ARGUMENTS) { DISPATCH(channel_dot) }
