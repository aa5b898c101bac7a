// Minimal filtering F(4 x 4, 3 x 3) (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308): the linear
// maps around the 36 matrix products, for float32 images [n, h, w, channels] that are padded by one
// pixel. A tile is 4 x 4 pixels of the result and the 6 x 6 of the input that it needs; its 36 points
// are rows of channels in [36, tiles, channels], so channels are the lanes of the vector code.
//
// Interpolation points 0, +-a, +-b, infinity with a = 1 / sqrt(2), b = sqrt(2): with these the
// rounding error is that of a direct convolution; with Lavin's 1 and 2 it is four times as large
// (measured).

#include <algorithm>
#include <cstdint>
#include <vector>

#include "threads.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define ARGUMENTS int dtype, void **t, const int64_t *n, const double *, int64_t threads

namespace {

constexpr float A1 = 0.70710678118654752f, B1 = 1.41421356237309505f;
constexpr float A2 = 0.5f, B2 = 2.0f, A3 = A1 * A2, B3 = B1 * B2;
constexpr float SUM = A2 + B2;  // and a^2 b^2 = 1

constexpr int64_t LANES = 64;  // channels at a time: the rows of a tile stay in the first cache

// B^T d for six numbers.
inline void to_points(const float* d, float* out) {
  const float even_a = d[4] - B2 * d[2], odd_a = A1 * d[3] - A1 * B2 * d[1];
  const float even_b = d[4] - A2 * d[2], odd_b = B1 * d[3] - B1 * A2 * d[1];
  out[0] = d[0] - SUM * d[2] + d[4];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = d[1] - SUM * d[3] + d[5];
}

// A^T m for six points.
inline void from_points(const float* m, float* out) {
  const float even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const float even_b = m[3] + m[4], odd_b = m[3] - m[4];
  out[0] = m[0] + even_a + even_b;
  out[1] = A1 * odd_a + B1 * odd_b;
  out[2] = A2 * even_a + B2 * even_b;
  out[3] = A3 * odd_a + B3 * odd_b + m[5];
}

// A g, the transpose of from_points, for four numbers.
inline void spread_points(const float* g, float* out) {
  const float even_a = g[0] + A2 * g[2], odd_a = A1 * g[1] + A3 * g[3];
  const float even_b = g[0] + B2 * g[2], odd_b = B1 * g[1] + B3 * g[3];
  out[0] = g[0];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = g[3];
}

// One axis of a tile: `in` rows `step` apart become `out` rows `to` apart, lane by lane.
template <int in, int out, void (*map)(const float*, float*)>
inline void along(const float* x, int64_t step, float* y, int64_t to) {
#pragma GCC ivdep
  for (int64_t lane = 0; lane < LANES; lane++) {
    float a[in], b[out];
    for (int i = 0; i < in; i++) a[i] = x[i * step + lane];
    map(a, b);
    for (int i = 0; i < out; i++) y[i * to + lane] = b[i];
  }
}

// Where a tile is: element (i, j) is LANES floats at data + i * down + j * right.
template <class T> struct Place {
  T* data;
  int64_t down, right;
};

// A tile in memory of its own, rows of `size`.
template <class T> Place<T> own(T* data, int64_t size) { return {data, size * LANES, LANES}; }

// Both axes of a tile, in x in to out x out, each lane times its factor if there are any.
template <int in, int out, void (*map)(const float*, float*)>
inline void both(Place<const float> x, const float* factors, int64_t count, Place<float> y) {
  alignas(64) float middle[out * in * LANES];
  for (int j = 0; j < in; j++)
    along<in, out, map>(x.data + j * x.right, x.down, middle + j * LANES, in * LANES);
  if (factors)
    for (int64_t k = 0; k < out * in; k++)
      for (int64_t i = 0; i < count; i++) middle[k * LANES + i] *= factors[i];
  for (int i = 0; i < out; i++)
    along<in, out, map>(middle + i * in * LANES, LANES, y.data + i * y.down, y.right);
}

// What all three share: rows of tiles [first, last) of the n * tiles_h rows of a batch. The h x w pixels
// are every step-th of the images, from (top, left) on: with step 2, one of the four phases.
struct Layout {
  int64_t channels, h, w, tiles_h, tiles_w, first, last, step, top, left;
  explicit Layout(const int64_t* n)
      : channels(n[0]), h(n[1]), w(n[2]), tiles_h(n[3]), tiles_w(n[4]), first(n[5]), last(n[6]), step(n[7]),
        top(n[8]), left(n[9]) {}
  int64_t tiles() const { return (last - first) * tiles_w; }
  int64_t pixel(int64_t n, int64_t y, int64_t x) const {
    return ((n * h + y) * step + top) * (w * step) + x * step + left;
  }
};

struct Part {  // channels [first, first + count) of tile `tile`
  int64_t tile, first, count;
};

// The tile's size x size pixels in images, from `offset` before its corner.
template <class T> struct Pixels {
  const Layout& l;
  const Part& p;
  T* images;
  int64_t size, n, top, left;
  Pixels(const Layout& l, const Part& p, T* images, int64_t size, int64_t offset)
      : l(l), p(p), images(images), size(size) {
    const int64_t row = l.first + p.tile / l.tiles_w, column = p.tile % l.tiles_w;
    n = row / l.tiles_h;
    top = 4 * (row % l.tiles_h) - offset;
    left = 4 * column - offset;
  }
  T* at(int64_t i, int64_t j) const { return images + l.pixel(n, top + i, left + j) * l.channels + p.first; }
  // Whether all are in the image, in all lanes: then they can be worked on where they are.
  bool whole() const {
    return p.count == LANES && top >= 0 && left >= 0 && top + size <= l.h && left + size <= l.w;
  }
  Place<T> place() const {
    return {at(0, 0), l.w * l.step * l.step * l.channels, l.step * l.channels};
  }
  // Calls visit(pixel, row of the tile) for each, with null for a pixel outside of the image.
  template <class F> void each(F visit) const {
    for (int64_t i = 0; i < size; i++)
      for (int64_t j = 0; j < size; j++) {
        const int64_t y = top + i, x = left + j;
        const bool inside = y >= 0 && y < l.h && x >= 0 && x < l.w;
        visit(inside ? at(i, j) : nullptr, (i * size + j) * LANES);
      }
  }
};

// The tile's points in [36, tiles, channels].
template <class T> Place<T> points_at(const Layout& l, const Part& p, T* points) {
  const int64_t step = l.tiles() * l.channels;
  return {points + p.tile * l.channels + p.first, 6 * step, step};
}

// Pixels of a tile to its points, times the factors of each sample s [n, channels] if there are any.
template <int size, void (*map)(const float*, float*)>
inline void to_all_points(const Layout& l, const Part& p, const float* images, int64_t offset, const float* s,
                          float* points) {
  alignas(64) float tile[size * size * LANES], out[36 * LANES];
  const Pixels<const float> from(l, p, images, size, offset);
  const Place<float> to = points_at(l, p, points);
  if (!from.whole())
    from.each([&](const float* pixel, int64_t row) {
      const int64_t count = pixel ? p.count : 0;
      if (pixel) std::copy(pixel, pixel + count, tile + row);
      std::fill(tile + row + count, tile + row + LANES, 0.0f);
    });
  const Place<const float> x = from.whole() ? from.place() : own<const float>(tile, size);
  const float* factors = s ? s + from.n * l.channels + p.first : nullptr;
  both<size, 6, map>(x, factors, p.count, p.count == LANES ? to : own(out, 6));
  if (p.count < LANES)
    for (int64_t k = 0; k < 36; k++)
      std::copy(out + k * LANES, out + k * LANES + p.count, to.data + k * to.right);
}

inline void output_part(const Layout& l, const Part& p, const float* points, float* y) {
  alignas(64) float tile[36 * LANES], out[16 * LANES];
  const Pixels<float> to(l, p, y, 4, 0);
  Place<const float> x = points_at(l, p, points);
  if (p.count < LANES) {
    std::fill(tile, tile + 36 * LANES, 0.0f);
    for (int64_t k = 0; k < 36; k++)
      std::copy(x.data + k * x.right, x.data + k * x.right + p.count, tile + k * LANES);
    x = own<const float>(tile, 6);
  }
  both<6, 4, from_points>(x, nullptr, p.count, to.whole() ? to.place() : own(out, 4));
  if (!to.whole())
    to.each([&](float* pixel, int64_t row) {
      if (pixel) std::copy(out + row, out + row + p.count, pixel);
    });
}

template <class F> int over_parts(int dtype, const int64_t* n, int64_t threads, F work) {
  if (dtype != 0) return 1;
  const Layout layout(n);
  in_parallel(layout.tiles(), threads, 8, [=](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile++)
      for (int64_t first = 0; first < layout.channels; first += LANES)
        work(layout, Part{tile, first, std::min(LANES, layout.channels - first)});
  });
  return 0;
}

// The slope of points [count, out, in] -> that of weights [out, in, 9], a row of `in` at a time.
void weight_slopes(const float* points, const float* map, float* w, int64_t out, int64_t in, int64_t count,
                   int64_t threads) {
  in_parallel(out, threads, 8, [=](int64_t begin, int64_t end) {
    std::vector<float> rows(9 * in);
    for (int64_t o = begin; o < end; o++) {
      std::fill(rows.begin(), rows.end(), 0.0f);
      for (int64_t k = 0; k < count; k++) {
        const float *m = map + k * 9, *point = points + (k * out + o) * in;
        float* row = rows.data();
#pragma GCC ivdep
        for (int64_t i = 0; i < in; i++)
          for (int j = 0; j < 9; j++) row[j * in + i] += m[j] * point[i];
      }
      for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < 9; j++) w[(o * in + i) * 9 + j] = rows[j * in + i];
    }
  });
}

}  // namespace

// x [n, h, w, channels] and factors s [n, channels] or null -> [36, tiles, channels]
EXPORTED int winograd_input_kernel(ARGUMENTS) {
  return over_parts(dtype, n, threads, [=](const Layout& l, const Part& p) {
    to_all_points<6, to_points>(l, p, static_cast<const float*>(t[0]), 1, static_cast<const float*>(t[1]),
                                static_cast<float*>(t[2]));
  });
}

// [36, tiles, channels] -> y [n, h, w, channels]
EXPORTED int winograd_output_kernel(ARGUMENTS) {
  return over_parts(dtype, n, threads, [=](const Layout& l, const Part& p) {
    output_part(l, p, static_cast<const float*>(t[0]), static_cast<float*>(t[1]));
  });
}

// The slope of y [n, h, w, channels] -> that of the points
EXPORTED int winograd_adjoint_kernel(ARGUMENTS) {
  return over_parts(dtype, n, threads, [=](const Layout& l, const Part& p) {
    to_all_points<4, spread_points>(l, p, static_cast<const float*>(t[0]), 0, nullptr, static_cast<float*>(t[1]));
  });
}

// The slope of points [count, out, in], map [count, 9] -> that of w [out, in, 9]
EXPORTED int winograd_weight_adjoint_kernel(ARGUMENTS) {
  if (dtype != 0) return 1;
  weight_slopes(static_cast<const float*>(t[0]), static_cast<const float*>(t[1]), static_cast<float*>(t[2]), n[0],
                n[1], n[2], threads);
  return 0;
}
