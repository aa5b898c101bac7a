// CPU kernels behind plain C names, all of one signature: dtype (0 float, 1 double, 2 half, 3 bfloat16),
// tensors, integers, reals, and the number of threads. A result other than 0 is a refusal.
//
// The general path of each kernel is arithmetic.h, the same code that the GPU runs; what a profile asks
// for in float32 has a path that compilers turn into vector code: contiguous inner loops, no branches.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "arithmetic.h"
#include "threads.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define ARGUMENTS int dtype, void **t, const int64_t *n, const double *v, int64_t threads
#define DISPATCH(function)                               \
  switch (dtype) {                                       \
    case 0: function<float>(t, n, v, threads); break;    \
    case 1: function<double>(t, n, v, threads); break;   \
    case 2: function<half_bits>(t, n, v, threads); break; \
    case 3: function<bfloat_bits>(t, n, v, threads); break; \
    default: return 1;                                   \
  }                                                      \
  return 0;

namespace {

constexpr int64_t LEAST = 1 << 16;  // elements that a thread is worth

// bias_act

// The piecewise linear activations: slope below and above zero, and a limit on both sides.
struct Kinked {
  float gain, below, limit;
  template <class P> explicit Kinked(const P& p)  // BiasAct or Modulation
      : gain(float(p.gain)),
        below(gain * (p.act == LINEAR ? 1.0f : p.act == RELU ? 0.0f : float(p.alpha))),
        limit(p.clamp >= 0 ? float(p.clamp) : INFINITY) {}
  float value(float x) const {
    x *= x > 0 ? gain : below;
    x = x < -limit ? -limit : x;
    return x > limit ? limit : x;
  }
  float slope(float x) const {
    const float factor = x > 0 ? gain : below, y = x * factor;
    return (y >= -limit) & (y <= limit) ? factor : 0.0f;
  }
};

// A row of `size` elements, of one bias each or of one for all (SAME).
template <bool SAME>
inline void bias_act_row(const Kinked& f, const float* x, const float* b, const float* g, float* y, int64_t size) {
  if (g)
    for (int64_t i = 0; i < size; i++) y[i] = g[i] * f.slope(x[i] + b[SAME ? 0 : i]);
  else
    for (int64_t i = 0; i < size; i++) y[i] = f.value(x[i] + b[SAME ? 0 : i]);
}

// Rows of one channel where pixels are neighbours, of all channels where those are.
void bias_act_rows(const BiasAct& p, const float* x, const float* b, const float* g, float* y, int64_t threads) {
  const Kinked f(p);
  const bool same = p.step > 1 || p.channels == 1;
  const int64_t size = p.channels == 1 ? std::min(p.count, LEAST) : same ? p.step : p.channels;
  const int64_t rows = (p.count + size - 1) / size;
  const std::vector<float> none(same ? 1 : p.channels);
  in_parallel(rows, threads, LEAST / size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const int64_t start = row * size, count = std::min(size, p.count - start);
      const float* bias = !b ? none.data() : same ? b + row % p.channels : b;
      if (same) bias_act_row<true>(f, x + start, bias, g ? g + start : g, y + start, count);
      else bias_act_row<false>(f, x + start, bias, g ? g + start : g, y + start, count);
    }
  });
}

template <class T> void bias_act(void** t, const int64_t* n, const double* v, int64_t threads) {
  const BiasAct p{int(n[0]), int(n[1]), n[2], n[3], n[4], v[0], v[1], v[2]};
  const T *x = (T*)t[0], *b = (T*)t[1], *g = (T*)t[2], *h = (T*)t[3];
  T* y = (T*)t[4];
  if (sizeof(T) == 4 && p.act <= LRELU && p.order <= 1) {
    bias_act_rows(p, (const float*)x, (const float*)b, p.order ? (const float*)g : nullptr, (float*)y, threads);
    return;
  }
  in_parallel(p.count, threads, LEAST, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) bias_act_at(p, i, x, b, g, h, y);
  });
}

// upfirdn2d

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
      const int skipped = largest(0, ceil_divide(-ix, in_step));
      const int by_source = floor_divide(p.in_w - 1 - ix, in_step);
      const int by_output = (p.out_w - 1 - ox) / out_step;
      const int count = smallest(by_source, by_output) - skipped + 1;
      if (count > 0) found.push_back({k, ox + skipped * out_step, ix + skipped * in_step, count});
    }
  return found;
}

template <int OUT_STEP, int IN_STEP>
inline void add_run(float* out, const float* in, float tap, int count) {
  for (int j = 0; j < count; j++) out[j * OUT_STEP] += tap * in[j * IN_STEP];
}

void resample_plane(const Resampling& p, const std::vector<Run>& all, const float* x, const float* taps,
                    float* y) {
  const int common = std::gcd(p.up_x, p.down_x), out_step = p.up_x / common, in_step = p.down_x / common;
  for (int oy = 0; oy < p.out_h; oy++) {
    float* out = y + int64_t(oy) * p.out_w;
    std::fill(out, out + p.out_w, 0.0f);
    int iy, last, ky;
    window(oy, p.down_y, p.pad_y, p.up_y, p.taps_h, p.in_h, &iy, &last, &ky);
    for (; iy <= last; iy++, ky += p.up_y)
      for (const Run& run : all) {
        const float tap = taps[ky * p.taps_w + run.k];
        const float* in = x + int64_t(iy) * p.in_w + run.ix;
        if (out_step == 1 && in_step == 1) add_run<1, 1>(out + run.ox, in, tap, run.count);
        else if (out_step == 2 && in_step == 1) add_run<2, 1>(out + run.ox, in, tap, run.count);
        else if (out_step == 1 && in_step == 2) add_run<1, 2>(out + run.ox, in, tap, run.count);
        else
          for (int64_t j = 0; j < run.count; j++) out[run.ox + j * out_step] += tap * in[j * in_step];
      }
  }
}

// Pixels [first, last) of images whose channels are neighbours: those are the lanes.
void resample_pixels(const Resampling& p, const float* x, const float* taps, float* y, int64_t first, int64_t last) {
  constexpr int LANES = 64;
  for (int64_t pixel = first; pixel < last; pixel++) {
    const int64_t plane = pixel / p.out_w / p.out_h * p.channels;
    int y0, y1, ky, x0, x1, kx;
    window(int(pixel / p.out_w % p.out_h), p.down_y, p.pad_y, p.up_y, p.taps_h, p.in_h, &y0, &y1, &ky);
    window(int(pixel % p.out_w), p.down_x, p.pad_x, p.up_x, p.taps_w, p.in_w, &x0, &x1, &kx);
    for (int c = 0; c < p.channels; c += LANES) {
      const int count = smallest(LANES, p.channels - c);
      float sums[LANES] = {};
      for (int iy = y0, k = ky; iy <= y1; iy++, k += p.up_y)
        for (int ix = x0, j = kx; ix <= x1; ix++, j += p.up_x) {
          const float tap = taps[k * p.taps_w + j];
          const float* in = x + address(p, int(plane) + c, iy, ix, p.in_h, p.in_w);
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
  if (sizeof(T) == 4 && !p.channels_last) {
    const std::vector<Run> all = runs(p);
    in_parallel(p.planes, threads, LEAST / std::max<int64_t>(1, size), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++)
        resample_plane(p, all, (const float*)x + i * p.in_h * p.in_w, taps, (float*)y + i * size);
    });
    return;
  }
  if (sizeof(T) == 4) {
    in_parallel(p.planes / p.channels * size, threads, LEAST / p.channels, [&](int64_t first, int64_t last) {
      resample_pixels(p, (const float*)x, taps, (float*)y, first, last);
    });
    return;
  }
  in_parallel(p.planes * size, threads, LEAST, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) upfirdn2d_at(p, i, x, taps, y);
  });
}

// filtered_lrelu

// One axis-aligned stage of a plane: which axes are filtered is given by the taps.
struct Stage {
  Resampling p;
  std::vector<Run> all;
  Stage(int in_h, int in_w, int out_h, int out_w, int taps_h, int taps_w, int up_y, int up_x, int down_y,
        int down_x, int pad_y, int pad_x)
      : p{1, 1, in_h, in_w, out_h, out_w, taps_h, taps_w, up_x, up_y, down_x, down_y, pad_x, pad_y, 0},
        all(runs(p)) {}
  void operator()(const float* x, const float* taps, float* y) const { resample_plane(p, all, x, taps, y); }
};

void filtered_planes(const Filtered& p, const float* x, const float* b, const float* fu, const float* fd,
                     float* y, int64_t first, int64_t last) {
  const int mh = middle_size(p.out_h, p.down, p.down_taps_h), mw = middle_size(p.out_w, p.down, p.down_taps_w);
  const Stage up_y(p.in_h, p.in_w, mh, p.in_w, p.up_taps_h, 1, p.up, 1, 1, 1, p.pad_y, 0);
  const Stage up_x(mh, p.in_w, mh, mw, 1, p.up_taps_w, 1, p.up, 1, 1, 0, p.pad_x);
  const Stage up(p.in_h, p.in_w, mh, mw, p.up_taps_h, p.up_taps_w, p.up, p.up, 1, 1, p.pad_y, p.pad_x);
  const Stage down_y(mh, mw, p.out_h, mw, p.down_taps_h, 1, 1, 1, p.down, 1, 0, 0);
  const Stage down_x(p.out_h, mw, p.out_h, p.out_w, 1, p.down_taps_w, 1, 1, 1, p.down, 0, 0);
  const Stage down(mh, mw, p.out_h, p.out_w, p.down_taps_h, p.down_taps_w, 1, 1, p.down, p.down, 0, 0);
  const int64_t in_size = int64_t(p.in_h) * p.in_w, middle_pixels = int64_t(mh) * mw;
  std::vector<float> source(in_size), risen(int64_t(mh) * p.in_w), middle(middle_pixels), fallen(int64_t(p.out_h) * mw);
  const float gain = float(p.gain), below = float(p.slope) * gain;
  const float limit = p.clamp >= 0 ? float(p.clamp) : INFINITY;
  for (int64_t plane = first; plane < last; plane++) {
    const float* in = x + plane * in_size;
    float* out = y + plane * p.out_h * p.out_w;
    const float bias = b ? b[plane % p.channels] : 0.0f;
    for (int64_t i = 0; i < in_size; i++) source[i] = in[i] + bias;
    if (p.up_separable) {
      up_y(source.data(), fu, risen.data());
      up_x(risen.data(), fu, middle.data());
    } else {
      up(source.data(), fu, middle.data());
    }
    for (int64_t i = 0; i < middle_pixels; i++) {
      float value = middle[i];
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
  Filtered p{int(n[0]), int(n[1]),  int(n[2]),  int(n[3]),  int(n[4]),  int(n[5]),  int(n[6]),  int(n[7]), int(n[8]),
             int(n[9]), int(n[10]), int(n[11]), int(n[12]), int(n[13]), int(n[14]), int(n[15]), 16,        v[0], v[1], v[2]};
  typedef typename Wide<T>::type A;
  const T *x = (T*)t[0], *b = (T*)t[1];
  const float *fu = (float*)t[2], *fd = (float*)t[3];
  T* y = (T*)t[4];
  if (sizeof(T) == 4) {
    const int64_t size = std::max<int64_t>(1, int64_t(p.out_h) * p.out_w * p.down * p.down);
    in_parallel(p.planes, threads, LEAST / size, [&](int64_t first, int64_t last) {
      filtered_planes(p, (const float*)x, (const float*)b, fu, fd, (float*)y, first, last);
    });
    return;
  }
  const int64_t tiles = int64_t(p.planes) * ceil_divide(p.out_h, p.tile) * ceil_divide(p.out_w, p.tile);
  in_parallel(tiles, threads, LEAST / (p.tile * p.tile), [&](int64_t first, int64_t last) {
    std::vector<A> scratch(scratch_floats(p));
    for (int64_t i = first; i < last; i++) {
      const Tile<A> tile = place_tile(p, i, scratch.data());
      read_source(p, tile, x, b, 0, 1);
      rise(p, tile, fu, 0, 1);
      activate_middle(p, tile, fu, 0, 1);
      fall(p, tile, fd, 0, 1);
      write_tile(p, tile, fd, y, 0, 1);
    }
  });
}

// modulation

// A row of pixels with one factor and bias, and noise of each; or of channels, with a noise for all.
void modulate_rows(const Modulation& p, const float* x, const float* s, const float* noise, const float* b,
                   float* y, int64_t threads) {
  const Kinked f(p);
  const int64_t size = p.channels_last ? p.channels : p.pixels, samples = p.count / (p.channels * p.pixels);
  const int64_t each = p.channels_last ? p.pixels : p.channels;  // rows of a sample
  const std::vector<float> none(std::max<int64_t>(p.channels, p.noises ? 0 : p.pixels));
  in_parallel(samples * each, threads, LEAST / size, [&](int64_t first, int64_t last) {
    const float* biases = b ? b : none.data();
    for (int64_t row = first; row < last; row++) {
      const int64_t n = row / each, place = row % each;
      const float* in = x + row * size;
      const float* added = p.noises ? noise + (p.noises > 1 ? n * p.pixels : 0) : none.data();
      float* out = y + row * size;
      if (p.channels_last) {
        const float *factors = s + n * size, pixel = added[p.noises ? place : 0];
        for (int64_t i = 0; i < size; i++) out[i] = f.value(in[i] * factors[i] + (pixel + biases[i]));
      } else {
        const float factor = s[row], bias = biases[place];
        for (int64_t i = 0; i < size; i++) out[i] = f.value(in[i] * factor + (added[i] + bias));
      }
    }
  });
}

template <class T> void modulate(void** t, const int64_t* n, const double* v, int64_t threads) {
  const Modulation p{n[0], n[1], int(n[2]), int(n[3]), int(n[4]), int(n[5]), v[0], v[1], v[2]};
  const T *x = (T*)t[0], *s = (T*)t[1], *noise = (T*)t[2], *b = (T*)t[3];
  T* y = (T*)t[4];
  if (sizeof(T) == 4 && p.act <= LRELU) {
    modulate_rows(p, (const float*)x, (const float*)s, (const float*)noise, (const float*)b, (float*)y, threads);
    return;
  }
  in_parallel(p.count, threads, LEAST, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) modulate_at(p, i, x, s, noise, b, y);
  });
}

// y[n, c] = sum over pixels of a * b; what is not a row of pixels is taken 64 channels at a time.
template <class T> void channel_dot(void** t, const int64_t* n, const double*, int64_t threads) {
  typedef typename Wide<T>::type A;
  const int64_t planes = n[0], pixels = n[1], channels = n[2], is_last = n[3];
  const T *a = (T*)t[0], *b = (T*)t[1];
  T* y = (T*)t[2];
  constexpr int64_t ROW = 64;
  if (is_last) {
    const int64_t parts = (channels + ROW - 1) / ROW;
    in_parallel(planes / channels * parts, threads, LEAST / (pixels * ROW), [=](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; part++) {
        A sums[ROW] = {};
        const int64_t from = part % parts * ROW, count = std::min(ROW, channels - from);
        const int64_t start = part / parts * pixels * channels + from;
        for (int64_t i = 0; i < pixels; i++)
          for (int64_t j = 0; j < count; j++)
            sums[j] += A(load(a, start + i * channels + j)) * A(load(b, start + i * channels + j));
        for (int64_t j = 0; j < count; j++) store(y, part / parts * channels + from + j, sums[j]);
      }
    });
    return;
  }
  in_parallel(planes, threads, LEAST / std::max<int64_t>(1, pixels), [=](int64_t first, int64_t last) {
    for (int64_t plane = first; plane < last; plane++) {
      A lanes[8] = {};  // eight sums side by side: one vector register
      const int64_t start = plane * pixels, whole = pixels / 8 * 8;
      for (int64_t i = 0; i < whole; i += 8)
        for (int j = 0; j < 8; j++) lanes[j] += A(load(a, start + i + j)) * A(load(b, start + i + j));
      A sum = A(0);
      for (int j = 0; j < 8; j++) sum += lanes[j];
      for (int64_t i = whole; i < pixels; i++) sum += A(load(a, start + i)) * A(load(b, start + i));
      store(y, plane, sum);
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
