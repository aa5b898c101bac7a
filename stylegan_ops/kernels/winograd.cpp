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
#include <thread>
#include <vector>

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

// Both axes of a tile, [in, in, LANES] to [out, out, LANES].
template <int in, int out, void (*map)(const float*, float*)>
inline void both(const float* x, float* middle, float* y) {
  for (int j = 0; j < in; j++)
    along<in, out, map>(x + j * LANES, in * LANES, middle + j * LANES, in * LANES);
  for (int i = 0; i < out; i++)
    along<in, out, map>(middle + i * in * LANES, LANES, y + i * out * LANES, LANES);
}

// What all three share: rows of tiles [first, last) of the n * tiles_h rows of a batch. The h x w pixels
// are every step-th of the images, from (top, left) on: with step 2, one of the four phases.
struct Layout {
  int64_t channels, h, w, tiles_h, tiles_w, first, last, step, top, left;
  explicit Layout(const int64_t* n)
      : channels(n[0]), h(n[1]), w(n[2]), tiles_h(n[3]), tiles_w(n[4]), first(n[5]), last(n[6]), step(n[7]),
        top(n[8]), left(n[9]) {}
  int64_t tiles() const { return (last - first) * tiles_w; }
  int64_t sample(int64_t tile) const { return (first + tile / tiles_w) / tiles_h; }
  int64_t pixel(int64_t n, int64_t y, int64_t x) const {
    return ((n * h + y) * step + top) * (w * step) + x * step + left;
  }
};

struct Part {  // channels [first, first + count) of tile `tile`
  int64_t tile, first, count;
};

// Calls visit(pixel, row) for the tile's size x size pixels from `offset` before its corner: the place
// of the part's first channel in the images, or -1 outside of them, and the row in the tile.
template <class F> inline void pixels(const Layout& l, const Part& p, int size, int offset, F visit) {
  const int64_t row = l.first + p.tile / l.tiles_w, column = p.tile % l.tiles_w;
  const int64_t top = 4 * (row % l.tiles_h) - offset, left = 4 * column - offset;
  for (int i = 0; i < size; i++)
    for (int j = 0; j < size; j++) {
      const int64_t y = top + i, x = left + j;
      const bool inside = y >= 0 && y < l.h && x >= 0 && x < l.w;
      const int64_t pixel = l.pixel(row / l.tiles_h, y, x) * l.channels + p.first;
      visit(inside ? pixel : int64_t(-1), int64_t(i * size + j) * LANES);
    }
}

inline void read_pixels(const Layout& l, const Part& p, const float* images, int size, int offset, float* tile) {
  pixels(l, p, size, offset, [&](int64_t pixel, int64_t row) {
    const int64_t count = pixel < 0 ? 0 : p.count;
    if (count) std::copy(images + pixel, images + pixel + count, tile + row);
    std::fill(tile + row + count, tile + row + LANES, 0.0f);
  });
}

inline void write_points(const Layout& l, const Part& p, const float* tile, float* points) {
  for (int64_t k = 0; k < 36; k++)
    std::copy(tile + k * LANES, tile + k * LANES + p.count,
              points + (k * l.tiles() + p.tile) * l.channels + p.first);
}

// s [n, channels] scales the channels of each sample; null does not.
inline void input_part(const Layout& l, const Part& p, const float* x, const float* s, float* points) {
  alignas(64) float tile[36 * LANES], middle[36 * LANES], out[36 * LANES];
  read_pixels(l, p, x, 6, 1, tile);
  if (s) {
    const float* factors = s + l.sample(p.tile) * l.channels + p.first;
    for (int64_t k = 0; k < 36; k++)
      for (int64_t i = 0; i < p.count; i++) tile[k * LANES + i] *= factors[i];
  }
  both<6, 6, to_points>(tile, middle, out);
  write_points(l, p, out, points);
}

inline void output_part(const Layout& l, const Part& p, const float* points, float* y) {
  alignas(64) float tile[36 * LANES], middle[24 * LANES], out[16 * LANES];
  for (int64_t k = 0; k < 36; k++) {
    const float* from = points + (k * l.tiles() + p.tile) * l.channels + p.first;
    std::copy(from, from + p.count, tile + k * LANES);
    std::fill(tile + k * LANES + p.count, tile + (k + 1) * LANES, 0.0f);
  }
  both<6, 4, from_points>(tile, middle, out);
  pixels(l, p, 4, 0, [&](int64_t pixel, int64_t row) {
    if (pixel >= 0) std::copy(out + row, out + row + p.count, y + pixel);
  });
}

// The transpose of output_part.
inline void adjoint_part(const Layout& l, const Part& p, const float* g, float* points) {
  alignas(64) float tile[16 * LANES], middle[24 * LANES], out[36 * LANES];
  read_pixels(l, p, g, 4, 0, tile);
  both<4, 6, spread_points>(tile, middle, out);
  write_points(l, p, out, points);
}

// Calls work(first, last) on a piece of [0, count) for each thread.
template <class F> void pieces(int64_t count, int64_t threads, F work) {
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; i++)
    others.emplace_back([=] { work(count * i / threads, count * (i + 1) / threads); });
  work(int64_t(0), count / threads);
  for (auto& other : others) other.join();
}

template <class F> int over_parts(int dtype, const int64_t* n, int64_t threads, F work) {
  if (dtype != 0) return 1;
  const Layout layout(n);
  const int64_t count = layout.tiles();
  pieces(count, std::max<int64_t>(1, std::min(threads, count / 8)), [=](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile++)
      for (int64_t first = 0; first < layout.channels; first += LANES)
        work(layout, Part{tile, first, std::min(LANES, layout.channels - first)});
  });
  return 0;
}

// Weights [out, in, 9] and their points [count, out, in], a row of `in` at a time: points = map * weights
// with map [count, 9]; or, TRANSPOSED, weights = map^T * points.
template <bool TRANSPOSED>
int over_weights(int dtype, void** t, const int64_t* n, int64_t threads) {
  if (dtype != 0) return 1;
  float *w = static_cast<float*>(t[0]), *points = static_cast<float*>(t[2]);
  const float* map = static_cast<const float*>(t[1]);
  const int64_t out = n[0], in = n[1], count = n[2];
  pieces(out, std::max<int64_t>(1, std::min(threads, out / 8)), [=](int64_t begin, int64_t end) {
    std::vector<float> rows(9 * in);
    float* row[9];
    for (int64_t j = 0; j < 9; j++) row[j] = rows.data() + j * in;
    for (int64_t o = begin; o < end; o++) {
      float* weights = w + o * in * 9;
      if (TRANSPOSED) std::fill(rows.begin(), rows.end(), 0.0f);
      else
        for (int64_t i = 0; i < in; i++)
          for (int64_t j = 0; j < 9; j++) row[j][i] = weights[i * 9 + j];
      for (int64_t k = 0; k < count; k++) {
        const float* m = map + k * 9;
        float* point = points + (k * out + o) * in;
#pragma GCC ivdep
        for (int64_t i = 0; i < in; i++) {
          if (TRANSPOSED) {
            const float value = point[i];
            for (int j = 0; j < 9; j++) row[j][i] += m[j] * value;
          } else {
            float sum = 0.0f;
            for (int j = 0; j < 9; j++) sum += m[j] * row[j][i];
            point[i] = sum;
          }
        }
      }
      if (TRANSPOSED)
        for (int64_t i = 0; i < in; i++)
          for (int64_t j = 0; j < 9; j++) weights[i * 9 + j] = row[j][i];
    }
  });
  return 0;
}

}  // namespace

// x [n, h, w, channels] and factors s [n, channels] or null -> [36, tiles, channels]
EXPORTED int winograd_input_kernel(ARGUMENTS) {
  return over_parts(dtype, n, threads, [=](const Layout& l, const Part& p) {
    input_part(l, p, static_cast<const float*>(t[0]), static_cast<const float*>(t[1]), static_cast<float*>(t[2]));
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
    adjoint_part(l, p, static_cast<const float*>(t[0]), static_cast<float*>(t[1]));
  });
}

// w [out, in, 9], map [count, 9] -> points [count, out, in]
EXPORTED int winograd_weight_kernel(ARGUMENTS) { return over_weights<false>(dtype, t, n, threads); }

// The slope of the points -> that of w
EXPORTED int winograd_weight_adjoint_kernel(ARGUMENTS) { return over_weights<true>(dtype, t, n, threads); }
