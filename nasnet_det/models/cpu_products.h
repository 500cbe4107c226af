// The matrix products of cpu_kernels.cpp, and sums over images.
#pragma once
#include "cpu_vectors.h"

namespace {

// The sum over `count` images of `size` values each, written as the transpose of (size / columns, columns).
void add_images(const float* images, long count, long size, long columns, float* result, int threads) {
    constexpr long some = 256;
    const long rows = size / columns;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long begin = 0; begin < size; begin += some) {
        const long here = std::min(some, size - begin);
        double totals[some] = {};
        for (long n = 0; n < count; ++n)
            for (long k = 0; k < here; ++k) totals[k] += images[n * size + begin + k];
        for (long k = 0, at = begin; k < here; ++k, ++at)
            result[at % columns * rows + at / columns] = static_cast<float>(totals[k]);
    }
}

// ROWS rows of a product and WIDE vectors of its columns: each row's values times a matrix's rows.
template <int L, int WIDE, int ROWS>
__attribute__((always_inline)) inline void multiply_tile(const float* rows, long step, long between, long inner,
                                                         const float* matrix, long columns, const long* at,
                                                         float* result) {
    Vector<L> sums[ROWS][WIDE] = {};
    for (long c = 0; c < inner; ++c, matrix += columns, rows += between) {
        Vector<L> values[WIDE];
        for (int k = 0; k < WIDE; ++k) values[k] = load<L>(matrix + at[k]);
        for (int i = 0; i < ROWS; ++i)
            for (int k = 0; k < WIDE; ++k) sums[i][k] += values[k] * rows[i * step];
    }
    for (int i = 0; i < ROWS; ++i)
        for (int k = 0; k < WIDE; ++k) store<L>(sums[i][k], result + i * columns + at[k]);
}

// As many rows at a time as registers hold; the last ones may be computed twice.
template <int L, int WIDE>
void multiply_columns(const float* rows, long number, long step, long between, long inner, const float* matrix,
                      long columns, const long* at, float* result) {
    constexpr int many = kLanes == 16 || WIDE == 1 ? 8 : 12 / WIDE;
    long places[WIDE];
    std::copy(at, at + WIDE, places);
    if (number < many)
        for (long p = 0; p < number; ++p)
            multiply_tile<L, WIDE, 1>(rows + p * step, step, between, inner, matrix, columns, places,
                                      result + p * columns);
    else
        for (long next = 0; next < number; next += many) {
            const long p = std::min(next, number - many);
            multiply_tile<L, WIDE, many>(rows + p * step, step, between, inner, matrix, columns, places,
                                         result + p * columns);
        }
}

template <int L>
void multiply_vectors(const float* rows, long number, long step, long between, long inner, const float* matrix,
                      long columns, float* result) {
    long left = vectors<L>(columns), tiles = (left + 2) / 3;
    for (long v = 0; tiles > 0; --tiles) {
        const long wide = (left + tiles - 1) / tiles;
        const long at[3] = {vector_at<L>(v, columns), vector_at<L>(v + 1, columns), vector_at<L>(v + 2, columns)};
        (wide == 3   ? multiply_columns<L, 3>
         : wide == 2 ? multiply_columns<L, 2>
                     : multiply_columns<L, 1>)(rows, number, step, between, inner, matrix, columns, at, result);
        v += wide, left -= wide;
    }
}

// The product (number, columns) of rows with a matrix (inner, columns), of 8 columns or more. Value c of row p is at
// p * step + c * between.
void multiply(const float* rows, long number, long step, long between, long inner, const float* matrix, long columns,
              float* result) {
    (columns < kLanes ? multiply_vectors<8> : multiply_vectors<kLanes>)(rows, number, step, between, inner, matrix,
                                                                       columns, result);
}

}  // namespace
