// The 36 matrix products of minimal filtering (winograd.cpp): rows of points by weights in panels of PANEL
// columns, [panels, depth, PANEL]. The weights are written so, and the points are rows already: nothing is
// packed for the product.

#include <algorithm>
#include <cstdint>

#include "threads.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define ARGUMENTS int dtype, void **t, const int64_t *n, const double *, int64_t threads

namespace {

constexpr int64_t PANEL = 16;  // as in winograd.py
constexpr int64_t DEPTH = 256;  // of a panel at a time: it stays in the first cache

// Rows whose sums fill the registers.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, ROWS = 12;
#elif defined(__AVX__)
constexpr int WIDTH = 8, ROWS = 6;
#elif defined(__aarch64__)
constexpr int WIDTH = 4, ROWS = 6;
#else
constexpr int WIDTH = 4, ROWS = 2;
#endif

typedef float Lanes __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

// c [rows, columns] (+)= a [rows, depth] times a panel; columns is at most PANEL.
template <int rows>
void multiply(const float* a, int64_t a_step, const float* panel, int64_t depth, float* c, int64_t c_step,
              int64_t columns, bool add) {
  constexpr int parts = PANEL / WIDTH;
  Lanes sums[rows][parts] = {};
  for (int64_t k = 0; k < depth; k++)
    for (int r = 0; r < rows; r++)
      for (int p = 0; p < parts; p++)
        sums[r][p] += a[r * a_step + k] * reinterpret_cast<const Lanes*>(panel + k * PANEL)[p];
  for (int r = 0; r < rows; r++) {
    const float* found = reinterpret_cast<const float*>(sums[r]);
    float* to = c + r * c_step;
    for (int64_t i = 0; i < columns; i++) to[i] = add ? to[i] + found[i] : found[i];
  }
}

// As multiply, for any number of rows below ROWS.
template <int rows>
void multiply_rest(int64_t count, const float* a, int64_t a_step, const float* panel, int64_t depth, float* c,
                   int64_t c_step, int64_t columns, bool add) {
  if constexpr (rows > 0) {
    if (count == rows) multiply<rows>(a, a_step, panel, depth, c, c_step, columns, add);
    else multiply_rest<rows - 1>(count, a, a_step, panel, depth, c, c_step, columns, add);
  }
}

// products [rows, columns] (+)= points [rows, depth] times panels.
void product(const float* points, const float* panels, float* products, int64_t rows, int64_t depth,
             int64_t columns, bool add) {
  for (int64_t from = 0; from < depth; from += DEPTH) {
    const int64_t deep = std::min(DEPTH, depth - from);
    for (int64_t column = 0; column < columns; column += PANEL) {
      const float* panel = panels + column * depth + from * PANEL;
      const int64_t wide = std::min(PANEL, columns - column);
      const bool more = add || from > 0;
      int64_t row = 0;
      for (; row + ROWS <= rows; row += ROWS)
        multiply<ROWS>(points + row * depth + from, depth, panel, deep, products + row * columns + column,
                       columns, wide, more);
      multiply_rest<ROWS - 1>(rows - row, points + row * depth + from, depth, panel, deep,
                              products + row * columns + column, columns, wide, more);
    }
  }
}

// Weights w, nine neighbours for each place of a column and of a row, as panels of points = map * w with
// map [count, 9].
void weight_panels(const float* w, const float* map, float* points, int64_t columns, int64_t depth,
                   int64_t count, int64_t column_step, int64_t depth_step, int64_t threads) {
  const int64_t panels = (columns + PANEL - 1) / PANEL;
  in_parallel(panels * depth, threads, 64, [=](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; place++) {
      const int64_t first = place / depth * PANEL, wide = std::min(PANEL, columns - first);
      const float* from = w + first * column_step + place % depth * depth_step;
      float nine[9][PANEL] = {};
      for (int64_t i = 0; i < wide; i++)
        for (int64_t j = 0; j < 9; j++) nine[j][i] = from[i * column_step + j];
      for (int64_t k = 0; k < count; k++) {
        const float* m = map + k * 9;
        float* point = points + (k * panels * depth + place) * PANEL;
#pragma GCC ivdep
        for (int64_t i = 0; i < PANEL; i++) {
          float sum = 0.0f;
          for (int j = 0; j < 9; j++) sum += m[j] * nine[j][i];
          point[i] = sum;
        }
      }
    }
  });
}

}  // namespace

// points [36, tiles, depth], panels [36, panels, depth, PANEL] -> products [36, tiles, columns], or added to them
EXPORTED int winograd_product_kernel(ARGUMENTS) {
  if (dtype != 0) return 1;
  const int64_t rows = n[0], depth = n[1], columns = n[2], padded = (columns + PANEL - 1) / PANEL * PANEL;
  const float *points = static_cast<const float*>(t[0]), *panels = static_cast<const float*>(t[1]);
  float* products = static_cast<float*>(t[2]);
  const bool add = n[3];
  in_parallel(36, threads, 1, [=](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; k++)
      product(points + k * rows * depth, panels + k * padded * depth, products + k * rows * columns, rows, depth,
              columns, add);
  });
  return 0;
}

// w, map [count, 9] -> points [count, panels, depth, PANEL]
EXPORTED int winograd_weight_kernel(ARGUMENTS) {
  if (dtype != 0) return 1;
  weight_panels(static_cast<const float*>(t[0]), static_cast<const float*>(t[1]), static_cast<float*>(t[2]), n[0],
                n[1], n[2], n[3], n[4], threads);
  return 0;
}
