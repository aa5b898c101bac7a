// Minimal filtering F(4 x 4, 3 x 3) (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308): the linear maps
// around the 36 matrix products, for float32 planes that are padded by one pixel.
//
// Interpolation points 0, +-a, +-b, infinity with a = 1 / sqrt(2), b = sqrt(2): with these the rounding
// error is that of a direct convolution; with Lavin's 1 and 2 it is four times as large (measured).
// Vector code over the tiles of a row: rows are combined first, then split by column modulo 4.

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

constexpr float A1 = 0.70710678118654752f, B1 = 1.41421356237309505f;
constexpr float A2 = 0.5f, B2 = 2.0f, A3 = A1 * A2, B3 = B1 * B2;
constexpr float SUM = A2 + B2;  // and a^2 b^2 = 1

template <class F> void in_parallel(int64_t count, int64_t threads, F work) {
  int64_t pieces = std::max<int64_t>(1, std::min(threads, count / 4));
  std::vector<std::thread> others;
  for (int64_t i = 1; i < pieces; i++)
    others.emplace_back([=] { work(count * i / pieces, count * (i + 1) / pieces); });
  work(int64_t(0), count / pieces);
  for (auto& other : others) other.join();
}

// B^T d for one line of six.
inline void to_points(const float* d0, const float* d1, const float* d2, const float* d3, const float* d4,
                      const float* d5, float* const* out, int count) {
  float *o0 = out[0], *o1 = out[1], *o2 = out[2], *o3 = out[3], *o4 = out[4], *o5 = out[5];
  for (int i = 0; i < count; i++) {
    const float even_a = d4[i] - B2 * d2[i], odd_a = A1 * d3[i] - A1 * B2 * d1[i];
    const float even_b = d4[i] - A2 * d2[i], odd_b = B1 * d3[i] - B1 * A2 * d1[i];
    o0[i] = d0[i] - SUM * d2[i] + d4[i];
    o1[i] = even_a + odd_a;
    o2[i] = even_a - odd_a;
    o3[i] = even_b + odd_b;
    o4[i] = even_b - odd_b;
    o5[i] = d1[i] - SUM * d3[i] + d5[i];
  }
}

// A^T m for one line of six points.
inline void from_points(const float* const* m, float* const* out, int count) {
  const float *m0 = m[0], *m1 = m[1], *m2 = m[2], *m3 = m[3], *m4 = m[4], *m5 = m[5];
  float *o0 = out[0], *o1 = out[1], *o2 = out[2], *o3 = out[3];
  for (int i = 0; i < count; i++) {
    const float even_a = m1[i] + m2[i], odd_a = m1[i] - m2[i];
    const float even_b = m3[i] + m4[i], odd_b = m3[i] - m4[i];
    o0[i] = m0[i] + even_a + even_b;
    o1[i] = A1 * odd_a + B1 * odd_b;
    o2[i] = A2 * even_a + B2 * even_b;
    o3[i] = A3 * odd_a + B3 * odd_b + m5[i];
  }
}

// A g, the transpose of from_points.
inline void spread_points(const float* const* g, float* const* out, int count) {
  const float *g0 = g[0], *g1 = g[1], *g2 = g[2], *g3 = g[3];
  float *o0 = out[0], *o1 = out[1], *o2 = out[2], *o3 = out[3], *o4 = out[4], *o5 = out[5];
  for (int i = 0; i < count; i++) {
    const float even_a = g0[i] + A2 * g2[i], odd_a = A1 * g1[i] + A3 * g3[i];
    const float even_b = g0[i] + B2 * g2[i], odd_b = B1 * g1[i] + B3 * g3[i];
    o0[i] = g0[i];
    o1[i] = even_a + odd_a;
    o2[i] = even_a - odd_a;
    o3[i] = even_b + odd_b;
    o4[i] = even_b - odd_b;
    o5[i] = g3[i];
  }
}

// Splits a line into its columns modulo 4.
inline void split(const float* line, float* const* parts, int count) {
  float *p0 = parts[0], *p1 = parts[1], *p2 = parts[2], *p3 = parts[3];
  for (int i = 0; i < count; i++) {
    p0[i] = line[4 * i];
    p1[i] = line[4 * i + 1];
    p2[i] = line[4 * i + 2];
    p3[i] = line[4 * i + 3];
  }
}

// What all three share: rows of tiles [first, last) of the n * tiles_h rows of a batch.
struct Layout {
  int64_t channels, h, w, tiles_h, tiles_w, first, last;
  explicit Layout(const int64_t* n)
      : channels(n[0]), h(n[1]), w(n[2]), tiles_h(n[3]), tiles_w(n[4]), first(n[5]), last(n[6]) {}
  int64_t tiles() const { return (last - first) * tiles_w; }
};

struct Lines {  // `count` rows of `width` floats
  std::vector<float> data;
  std::vector<float*> rows;
  Lines(int count, int64_t width) : data(count * width), rows(count) {
    for (int i = 0; i < count; i++) rows[i] = data.data() + i * width;
  }
};

// x [n, channels, h, w] -> [36, channels, tiles]
void input_channel(const Layout& l, const float* x, float* points, int64_t c) {
  const int64_t width = 4 * l.tiles_w + 4;
  Lines padded(6, width), risen(6, width), parts(6, l.tiles_w + 1);
  float* out[6];
  for (int64_t row = l.first; row < l.last; row++) {
    const float* plane = x + (row / l.tiles_h * l.channels + c) * l.h * l.w;
    for (int j = 0; j < 6; j++) {
      const int64_t y = row % l.tiles_h * 4 + j - 1;
      float* line = padded.rows[j];
      if (y < 0 || y >= l.h) {
        std::fill(line, line + width, 0.0f);
        continue;
      }
      line[0] = 0;
      std::copy(plane + y * l.w, plane + (y + 1) * l.w, line + 1);
      std::fill(line + 1 + l.w, line + width, 0.0f);
    }
    auto& d = padded.rows;
    to_points(d[0], d[1], d[2], d[3], d[4], d[5], risen.rows.data(), int(width));
    for (int k = 0; k < 6; k++) {
      split(risen.rows[k], parts.rows.data(), int(l.tiles_w) + 1);
      auto& p = parts.rows;
      for (int j = 0; j < 6; j++)
        out[j] = points + ((k * 6 + j) * l.channels + c) * l.tiles() + (row - l.first) * l.tiles_w;
      to_points(p[0], p[1], p[2], p[3], p[0] + 1, p[1] + 1, out, int(l.tiles_w));
    }
  }
}

// [36, channels, tiles] -> y [n, channels, h, w]
void output_channel(const Layout& l, const float* points, float* y, int64_t c) {
  Lines fallen(24, l.tiles_w), parts(4, l.tiles_w);
  const float* in[6];
  for (int64_t row = l.first; row < l.last; row++) {
    float* plane = y + (row / l.tiles_h * l.channels + c) * l.h * l.w;
    for (int j = 0; j < 6; j++) {
      for (int k = 0; k < 6; k++)
        in[k] = points + ((k * 6 + j) * l.channels + c) * l.tiles() + (row - l.first) * l.tiles_w;
      float* out[4] = {fallen.rows[j], fallen.rows[6 + j], fallen.rows[12 + j], fallen.rows[18 + j]};
      from_points(in, out, int(l.tiles_w));
    }
    for (int i = 0; i < 4; i++) {
      const int64_t at = row % l.tiles_h * 4 + i;
      if (at >= l.h) break;
      from_points(fallen.rows.data() + 6 * i, parts.rows.data(), int(l.tiles_w));
      float* line = plane + at * l.w;
      const int64_t whole = l.w / 4;
      const float *p0 = parts.rows[0], *p1 = parts.rows[1], *p2 = parts.rows[2], *p3 = parts.rows[3];
      for (int64_t tile = 0; tile < whole; tile++) {
        line[4 * tile] = p0[tile];
        line[4 * tile + 1] = p1[tile];
        line[4 * tile + 2] = p2[tile];
        line[4 * tile + 3] = p3[tile];
      }
      for (int64_t column = 4 * whole; column < l.w; column++) line[column] = parts.rows[column % 4][whole];
    }
  }
}

// gy [n, channels, h, w] -> [36, channels, tiles], the transpose of output_channel
void adjoint_channel(const Layout& l, const float* gy, float* points, int64_t c) {
  const int64_t width = 4 * l.tiles_w;
  Lines padded(4, width), risen(6, width), parts(4, l.tiles_w);
  float* out[6];
  for (int64_t row = l.first; row < l.last; row++) {
    const float* plane = gy + (row / l.tiles_h * l.channels + c) * l.h * l.w;
    for (int j = 0; j < 4; j++) {
      const int64_t y = row % l.tiles_h * 4 + j, used = y < l.h ? l.w : 0;
      if (used) std::copy(plane + y * l.w, plane + (y + 1) * l.w, padded.rows[j]);
      std::fill(padded.rows[j] + used, padded.rows[j] + width, 0.0f);
    }
    spread_points(padded.rows.data(), risen.rows.data(), int(width));
    for (int k = 0; k < 6; k++) {
      split(risen.rows[k], parts.rows.data(), int(l.tiles_w));
      for (int j = 0; j < 6; j++)
        out[j] = points + ((k * 6 + j) * l.channels + c) * l.tiles() + (row - l.first) * l.tiles_w;
      spread_points(parts.rows.data(), out, int(l.tiles_w));
    }
  }
}

template <class F> int over_channels(int dtype, const int64_t* n, int64_t threads, F work) {
  if (dtype != 0) return 1;
  const Layout layout(n);
  in_parallel(layout.channels, threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; c++) work(layout, c);
  });
  return 0;
}

}  // namespace

EXPORTED int winograd_input_kernel(int dtype, void** t, const int64_t* n, const double*, int64_t threads) {
  return over_channels(dtype, n, threads, [=](const Layout& l, int64_t c) { input_channel(l, (float*)t[0], (float*)t[1], c); });
}

EXPORTED int winograd_output_kernel(int dtype, void** t, const int64_t* n, const double*, int64_t threads) {
  return over_channels(dtype, n, threads, [=](const Layout& l, int64_t c) { output_channel(l, (float*)t[0], (float*)t[1], c); });
}

EXPORTED int winograd_adjoint_kernel(int dtype, void** t, const int64_t* n, const double*, int64_t threads) {
  return over_channels(dtype, n, threads, [=](const Layout& l, int64_t c) { adjoint_channel(l, (float*)t[0], (float*)t[1], c); });
}
