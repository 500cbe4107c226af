// Vectors of values, and what all functions of cpu_kernels.cpp are told of a map.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

// The values of one instruction. Compilers make poor code of vectors that are longer.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
#error "written for processors with AVX2"
#endif

// Maps are (count, height, width, channels) in memory; kernels are (channels, rows, columns).
struct Geometry {
    long count, channels, height, width, out_height, out_width;
    long rows, columns, dilation, stride_y, stride_x, top, left;  // of the kernel, and the zeros before the map
    long relu;                                                     // whether ReLU is applied to the input
    long parts;                                                    // of an image, each counted as one

    long reach_y() const { return (rows - 1) * dilation + 1; }
    long reach_x() const { return (columns - 1) * dilation + 1; }
    long in_size() const { return height * width * channels; }
    long out_size() const { return out_height * out_width * channels; }
};

namespace {

template <int L>
struct Lanes {
    typedef float type __attribute__((vector_size(4 * L)));
};
template <int L>
using Vector = typename Lanes<L>::type;

template <int L>
Vector<L> load(const float* from) {
    Vector<L> value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Compilers copy a vector to memory by parts where it is not said to lie anywhere.
template <int L>
void store(Vector<L> value, float* to) {
    typedef float Anywhere __attribute__((vector_size(4 * L), aligned(4), may_alias));
    *reinterpret_cast<Anywhere*>(to) = value;
}

// Memory that begins at a cache line.
class Scratch {
  public:
    explicit Scratch(long size) : values(new float[size + 16]) {
        void* start = values.get();
        std::size_t space = (size + 16) * sizeof(float);
        first = static_cast<float*>(std::align(64, size * sizeof(float), start, space));
    }
    float* data() { return first; }

  private:
    std::unique_ptr<float[]> values;
    float* first;
};

// Where the vectors of `size` values begin, L or more: the last one ends with them, and may overlap the one before.
template <int L>
inline long vector_at(long number, long size) {
    return std::min(number * L, size - L);
}
template <int L>
constexpr long vectors(long size) {
    return (size + L - 1) / L;
}

// Write `size` values, with ReLU or multiplied by a factor.
template <int L>
inline void copy_values(const float* from, long size, bool relu, float factor, float* to) {
    for (long v = 0; v < vectors<L>(size); ++v) {
        const long at = vector_at<L>(v, size);
        Vector<L> value = load<L>(from + at) * factor;
        if (relu) value = value < 0 ? Vector<L>{} : value;  // which keeps NaN
        store<L>(value, to + at);
    }
}

// A factor and a summand of each channel, or null pointers for 1 and 0.
struct Affine {
    const float *scales, *shifts;
};

// Write the channels of a pixel, scaled, shifted and with ReLU.
template <int L>
inline void activate_pixel(const float* from, long size, Affine affine, float* to) {
    for (long v = 0; v < vectors<L>(size); ++v) {
        const long at = vector_at<L>(v, size);
        const Vector<L> value = load<L>(from + at) * load<L>(affine.scales + at) + load<L>(affine.shifts + at);
        store<L>(value < 0 ? Vector<L>{} : value, to + at);
    }
}

}  // namespace
