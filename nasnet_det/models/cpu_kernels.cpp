// Training on a CPU: depthwise and separable convolutions and batch norm of float32 maps in channels_last, forward and
// backward. nasnet_det/models/cpu_kernels.py compiles and calls this file.
//
// What limits such steps is memory, so each function reads and writes a map as seldom as it can. A depthwise
// convolution copies one image's block of channels at a time to a plane with a border of zeros that fits the cache;
// ReLU of its input is part of the copy. Batch norm sums a chunk of pixels at a time in float, and the chunks in
// double. A separable convolution with its batch norm works image by image: what is between its parts stays in the
// cache, and what its backward pass needs of that is computed again. No result depends on the number of threads.
#include <algorithm>
#include <cmath>
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

// Zeros that begin at a cache line.
class Zeros {
  public:
    explicit Zeros(long size) : values(size + 16) {
        void* start = values.data();
        std::size_t space = values.size() * sizeof(float);
        first = static_cast<float*>(std::align(64, size * sizeof(float), start, space));
    }
    Zeros(const Zeros&) = delete;
    float* data() { return first; }

  private:
    std::vector<float> values;
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

// Up to `channels` channels of an image among zeros: pixel (y, x) is at (top + y * step_y, left + x * step_x).
template <int L>
class Plane {
  public:
    Plane(long rows, long columns, long channels, long top, long left, long step_y, long step_x)
        : channels(channels), columns(columns), step_x(step_x * channels), step_y(step_y * columns * channels),
          zeros(rows * columns * channels), origin(at(top, left)) {}
    float* at(long y, long x) { return zeros.data() + (y * columns + x) * channels; }
    float* pixel(long y, long x) { return origin + y * step_y + x * step_x; }

    // Take `size` of the channels of an image that has `all`; where `scale` is given, each pixel is multiplied by its
    // own. The border stays zero.
    void read(const float* image, long height, long width, long all, long size, bool relu, const float* scale) {
        for (long y = 0; y < height; ++y) {
            if (size == all && step_x == all && !scale) {
                copy_values<L>(image + y * width * all, width * all, relu, 1, pixel(y, 0));
                continue;
            }
            for (long x = 0; x < width; ++x)
                copy_values<L>(image + (y * width + x) * all, size, relu, scale ? scale[y * width + x] : 1,
                               pixel(y, x));
        }
    }

    const long channels, columns;  // the values from one pixel to the next, and the pixels of a row
    const long step_x, step_y;     // the values from one pixel of the image to the next, and to the next row

    // Take an image, scaled, shifted and with ReLU.
    void activate(const float* image, long height, long width, Affine affine) {
        for (long y = 0; y < height; ++y)
            for (long x = 0; x < width; ++x)
                activate_pixel<L>(image + (y * width + x) * channels, channels, affine, pixel(y, x));
    }

  private:
    Zeros zeros;
    float* const origin;
};

// A correlation of a plane with kernels (rows, COLUMNS, channels): the outputs of a row lie `stride` pixels apart. Where
// UNIT, both the stride and the dilation are 1 and neighbours share inputs.
template <int L, int COLUMNS, bool UNIT, int NUMBER>
__attribute__((always_inline)) inline void correlate_pixels(const Plane<L>& plane, const float* input,
                                                            const float* kernel, const Geometry& g, long stride,
                                                            Vector<L>* sums) {
    const long row = g.dilation * plane.columns * plane.channels, pixel = plane.channels;
    const long column = UNIT ? pixel : g.dilation * pixel, next = UNIT ? pixel : stride * pixel;
    for (int t = 0; t < NUMBER; ++t) sums[t] = Vector<L>{};
    for (long i = 0; i < g.rows; ++i, input += row, kernel += COLUMNS * g.channels) {
        Vector<L> inputs[UNIT ? NUMBER + COLUMNS - 1 : 1];
        if (UNIT)
            for (int t = 0; t < NUMBER + COLUMNS - 1; ++t) inputs[t] = load<L>(input + t * pixel);
        for (int j = 0; j < COLUMNS; ++j) {
            const Vector<L> weight = load<L>(kernel + j * g.channels);
            for (int t = 0; t < NUMBER; ++t)
                sums[t] += (UNIT ? inputs[t + j] : load<L>(input + j * column + t * next)) * weight;
        }
    }
}

// Where correlations are written: some channels of an image, from `first` on. Where `mask` is given, 0 is written where a
// pixel of that plane is 0 or less, and where `scale` is, each pixel is multiplied by its own.
template <int L>
struct Target {
    float* first;
    long height, width, size;
    Plane<L>* mask;
    const float* scale;
};

// Write the correlation of a plane from `input` on. The last outputs of a row may be computed twice.
template <int L, int COLUMNS, bool UNIT, int NUMBER>
void correlate_rows(const Plane<L>& plane, const float* input, const float* kernel, const Geometry& g, long stride_y,
                    long stride_x, const Target<L>& to) {
    for (long y = 0; y < to.height; ++y)
        for (long v = 0; v < vectors<L>(to.size); ++v) {
            const long at = vector_at<L>(v, to.size);
            const float* row = input + y * stride_y * plane.columns * plane.channels + at;
            for (long next = 0; next < to.width; next += NUMBER) {
                const long x = std::min(next, to.width - NUMBER);
                Vector<L> sums[NUMBER];
                correlate_pixels<L, COLUMNS, UNIT, NUMBER>(plane, row + x * stride_x * plane.channels, kernel + at, g,
                                                           stride_x, sums);
                if (to.mask) {
                    const float* mask = to.mask->pixel(y, x) + at;
                    for (int t = 0; t < NUMBER; ++t)
                        sums[t] = load<L>(mask + t * to.mask->step_x) <= 0 ? Vector<L>{} : sums[t];
                }
                if (to.scale)
                    for (int t = 0; t < NUMBER; ++t) sums[t] *= to.scale[y * to.width + x + t];
                float* result = to.first + (y * to.width + x) * g.channels + at;
                for (int t = 0; t < NUMBER; ++t) store<L>(sums[t], result + t * g.channels);
            }
        }
}

template <int L, int COLUMNS>
void correlate(const Plane<L>& plane, const float* input, const float* kernel, const Geometry& g, long stride_y,
               long stride_x, const Target<L>& to) {
    const bool unit = stride_x == 1 && g.dilation == 1;
    (to.width >= 8   ? unit ? correlate_rows<L, COLUMNS, true, 8> : correlate_rows<L, COLUMNS, false, 8>
     : to.width >= 4 ? unit ? correlate_rows<L, COLUMNS, true, 4> : correlate_rows<L, COLUMNS, false, 4>
                     : correlate_rows<L, COLUMNS, false, 1>)(plane, input, kernel, g, stride_y, stride_x, to);
}

// Add the gradients of NUMBER neighbouring outputs times the inputs of their windows to `sums`, which are kept twice so
// that fewer additions wait for one another. Where UNIT, `column` and `next` are one pixel.
template <int L, int COLUMNS, bool UNIT, int NUMBER>
__attribute__((always_inline)) inline void weigh_pixels(const float* input, long column, long next,
                                                        const float* gradient, long step,
                                                        Vector<L> (*sums)[COLUMNS]) {
    Vector<L> inputs[UNIT ? NUMBER + COLUMNS - 1 : 1];
    if (UNIT)
        for (int t = 0; t < NUMBER + COLUMNS - 1; ++t) inputs[t] = load<L>(input + t * next);
    for (int t = 0; t < NUMBER; ++t) {
        const Vector<L> value = load<L>(gradient + t * step);
        for (int j = 0; j < COLUMNS; ++j)
            sums[t % 2][j] += (UNIT ? inputs[t + j] : load<L>(input + t * next + j * column)) * value;
    }
}

// The weight gradient of one image's channels, (rows, COLUMNS, g.channels) from `result` on.
template <int L, int COLUMNS, bool UNIT>
void weight_sums(Plane<L>& input, Plane<L>& gradient, const Geometry& g, long size, float* result) {
    constexpr int some = 4;
    const long group = std::max<long>(1, 256 / g.out_width);  // rows that are summed in float
    const long column = g.dilation * input.channels, next = g.stride_x * input.channels, step = gradient.step_x;
    for (long v = 0; v < vectors<L>(size); ++v) {
        const long at = vector_at<L>(v, size);
        for (long i = 0; i < g.rows; ++i) {
            double total[COLUMNS * L] = {};
            for (long begin = 0; begin < g.out_height; begin += group) {
                Vector<L> sums[2][COLUMNS] = {};
                for (long y = begin; y < std::min(begin + group, g.out_height); ++y) {
                    const float* from = input.at(y * g.stride_y + i * g.dilation, 0) + at;
                    const float* outer = gradient.pixel(y, 0) + at;
                    long x = 0;
                    for (; x + some <= g.out_width; x += some)
                        weigh_pixels<L, COLUMNS, UNIT, some>(from + x * next, column, next, outer + x * step, step,
                                                             sums);
                    for (; x < g.out_width; ++x)
                        weigh_pixels<L, COLUMNS, UNIT, 1>(from + x * next, column, next, outer + x * step, step, sums);
                }
                for (int j = 0; j < COLUMNS; ++j) {
                    const Vector<L> both = sums[0][j] + sums[1][j];
                    for (int lane = 0; lane < L; ++lane) total[j * L + lane] += both[lane];
                }
            }
            for (int j = 0; j < COLUMNS; ++j)
                for (int lane = 0; lane < L; ++lane)
                    result[(i * COLUMNS + j) * g.channels + at + lane] = static_cast<float>(total[j * L + lane]);
        }
    }
}

// The depthwise convolution of one image after another, by one thread.
class Images {
  public:
    virtual ~Images() = default;
    virtual void forward(const float* x, const float* scale, float* y) = 0;
    // Either gradient may be null; that of the weights is of this image, (rows, columns, channels). Where x is null, it
    // is that of the last call.
    virtual void backward(const float* x, const float* scale, const float* gradient, float* x_gradient,
                          float* weight_gradient) = 0;
};

// A convolution copies some channels at a time, as many as fit the cache or all (`whole`, which `before` needs).
template <int L, int COLUMNS>
class Depthwise : public Images {
  public:
    Depthwise(const Geometry& g, const float* weight, bool backward, bool whole, Affine before)
        : g(g), before(before), area(g.rows * COLUMNS),
          height(std::max((g.out_height - 1) * g.stride_y + g.reach_y(), g.top + g.height)),
          width(std::max((g.out_width - 1) * g.stride_x + g.reach_x(), g.left + g.width)),
          span(whole ? g.channels : std::min(g.channels, std::max<long>(1, kFitting / (height * width) / L) * L)),
          input(height, width, span, g.top, g.left, 1, 1),
          // Each input's gradient is the correlation, with the kernel turned by 180 degrees, of the outputs' gradients
          // at their strides.
          outer(backward ? height + g.reach_y() - 1 : 0, backward ? width + g.reach_x() - 1 : 0, span, g.reach_y() - 1,
                g.reach_x() - 1, g.stride_y, g.stride_x),
          kernels(area * g.channels), turned(area * g.channels) {
        for (long c = 0; c < g.channels; ++c)
            for (long k = 0; k < area; ++k) {
                kernels.data()[k * g.channels + c] = weight[c * area + k];
                turned.data()[(area - 1 - k) * g.channels + c] = weight[c * area + k];
            }
    }

    void forward(const float* x, const float* scale, float* y) override {
        for (long b = 0; b * span < g.channels; ++b) {
            const long c = first(b), size = std::min(span, g.channels - c);
            read(x, c, size);
            correlate<L, COLUMNS>(input, input.at(0, 0), kernels.data() + c, g, g.stride_y, g.stride_x,
                                  {y + c, g.out_height, g.out_width, size, nullptr, scale});
        }
    }

    void backward(const float* x, const float* scale, const float* gradient, float* x_gradient,
                  float* weight_gradient) override {
        for (long b = 0; b * span < g.channels; ++b) {
            const long c = first(b), size = std::min(span, g.channels - c);
            if (x) read(x, c, size);
            outer.read(gradient + c, g.out_height, g.out_width, g.channels, size, false, scale);
            if (x_gradient)
                correlate<L, COLUMNS>(outer, outer.at(g.top, g.left), turned.data() + c, g, 1, 1,
                                      {x_gradient + c, g.height, g.width, size, g.relu ? &input : nullptr, nullptr});
            if (weight_gradient)
                (g.stride_x == 1 && g.dilation == 1 ? weight_sums<L, COLUMNS, true> : weight_sums<L, COLUMNS, false>)(
                    input, outer, g, size, weight_gradient + c);
        }
    }

  private:
    static constexpr long kFitting = 1 << 15;
    long first(long b) const { return std::min(b * span, g.channels - L); }
    void read(const float* x, long c, long size) {
        if (before.scales)
            input.activate(x, g.height, g.width, before);
        else
            input.read(x + c, g.height, g.width, g.channels, size, g.relu, nullptr);
    }

    const Geometry& g;
    const Affine before;
    const long area, height, width, span;  // the sides are of the padded input
    Plane<L> input, outer;
    Zeros kernels, turned;
};

template <int L>
std::unique_ptr<Images> depthwise_of(const Geometry& g, const float* weight, bool backward, bool whole,
                                     Affine before) {
    if (g.columns == 3) return std::make_unique<Depthwise<L, 3>>(g, weight, backward, whole, before);
    if (g.columns == 5) return std::make_unique<Depthwise<L, 5>>(g, weight, backward, whole, before);
    return std::make_unique<Depthwise<L, 7>>(g, weight, backward, whole, before);
}

// ReLU alone.
class Activation : public Images {
  public:
    explicit Activation(const Geometry& g) : size(g.in_size()) {}
    void forward(const float* x, const float*, float* y) override {
        input = x;
        for (long k = 0; k < size; ++k) y[k] = x[k] < 0 ? 0 : x[k];
    }
    void backward(const float*, const float*, const float* gradient, float* x_gradient, float*) override {
        if (!x_gradient) return;
        for (long k = 0; k < size; ++k) x_gradient[k] = input[k] <= 0 ? 0 : gradient[k];
    }

  private:
    const long size;
    const float* input = nullptr;
};

// The depthwise convolution with these kernels; where they are null, ReLU alone.
std::unique_ptr<Images> depthwise_images(const Geometry& g, const float* weight, bool backward, bool whole,
                                     Affine before) {
    if (!weight) return std::make_unique<Activation>(g);
    return g.channels < kLanes ? depthwise_of<8>(g, weight, backward, whole, before)
                               : depthwise_of<kLanes>(g, weight, backward, whole, before);
}

// The sum over images of `size` values each, written as the transpose of (size / columns, columns).
void add_images(const std::vector<float>& images, long size, long columns, float* result, int threads) {
    constexpr long some = 256;
    const long count = static_cast<long>(images.size()) / size, rows = size / columns;
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

// The pixels of a map in chunks that fit the cache; several pixels are a line, so that loops are long.
class Pixels {
  public:
    // The pixels of a chunk are given, or as many as fit the first cache.
    Pixels(long channels, long count, long given = 0)
        : channels(channels), count(count), line(std::max<long>(1, 128 / channels) * channels),
          chunk(given > 0 ? given : std::max<long>(1, 8192 / line) * line / channels),
          chunks((count + chunk - 1) / chunk) {}
    // How many pixels a chunk has, and where its values begin.
    long members(long number) const { return std::min(chunk, count - number * chunk); }
    long begin(long number) const { return number * chunk * channels; }
    // Call work(first value in the chunk, number of values) for each line of a chunk.
    template <class Work>
    void each_line(long number, Work work) const {
        const long end = members(number) * channels;
        for (long at = 0; at < end; at += line) work(at, std::min(line, end - at));
    }
    // Values of channels, repeated along a line.
    std::vector<float> repeat(const float* values) const {
        std::vector<float> result(line);
        for (long at = 0; at < line; at += channels) std::copy(values, values + channels, result.begin() + at);
        return result;
    }
    // Add the sums of a line to those of its channels, and clear them.
    void collect(std::vector<float>& sums, double* result) const {
        for (long at = 0; at < line; at += channels)
            for (long c = 0; c < channels; ++c) result[c] += sums[at + c];
        std::fill(sums.begin(), sums.end(), 0.0f);
    }

    const long channels, count, line, chunk, chunks;
};

void add_line(const float* __restrict x, long size, float* __restrict sums) {
    for (long k = 0; k < size; ++k) sums[k] += x[k];
}

void add_squares(const float* __restrict x, const float* __restrict centres, long size, float* __restrict sums) {
    for (long k = 0; k < size; ++k) sums[k] += (x[k] - centres[k]) * (x[k] - centres[k]);
}

void add_products(const float* __restrict x, const float* __restrict gradient, const float* __restrict centres,
                  long size, float* __restrict sums, float* __restrict products) {
    for (long k = 0; k < size; ++k) {
        sums[k] += gradient[k];
        products[k] += gradient[k] * (x[k] - centres[k]);
    }
}

void scale_line(const float* __restrict x, const float* __restrict scales, const float* __restrict shifts, float factor,
                long size, float* __restrict y) {
    for (long k = 0; k < size; ++k) y[k] = (x[k] * scales[k] + shifts[k]) * factor;
}

void scale_and_add_line(const float* __restrict x, const float* __restrict scales, const float* __restrict shifts,
                        float factor, const float* __restrict other, long size, float* __restrict y) {
    for (long k = 0; k < size; ++k) y[k] = (x[k] * scales[k] + shifts[k]) * factor + other[k];
}

void combine_lines(const float* __restrict x, const float* __restrict gradient, float factor,
                   const float* __restrict scales, const float* __restrict slopes, const float* __restrict shifts,
                   long size, float* __restrict result) {
    for (long k = 0; k < size; ++k) result[k] = gradient[k] * factor * scales[k] + (x[k] * slopes[k] + shifts[k]);
}

// Batch norm in two passes over a map and two over its gradient, each chunk by chunk: pointers are to a chunk's values.
class Norm {
  public:
    explicit Norm(const Pixels& pixels)
        : pixels(pixels), first(pixels.chunks * pixels.channels), second(pixels.chunks * pixels.channels) {}

    // What was noted of all chunks, (2, chunks, channels).
    void copy_notes(double* values, bool from_values) {
        for (std::vector<double>* notes : {&first, &second}) {
            std::copy_n(from_values ? values : notes->data(), notes->size(), from_values ? notes->data() : values);
            values += notes->size();
        }
    }

    // Note the sum of a chunk of x, and that of the squares about its mean.
    void measure(long n, const float* x) {
        const long channels = pixels.channels;
        double *sum = &first[n * channels], *square = &second[n * channels];
        const double members = static_cast<double>(pixels.members(n));
        std::vector<float> line(pixels.line), centre(channels);
        pixels.each_line(n, [x, to = line.data()](long at, long size) { add_line(x + at, size, to); });
        pixels.collect(line, sum);
        for (long c = 0; c < channels; ++c) centre[c] = static_cast<float>(sum[c] / members);
        const std::vector<float> centres = pixels.repeat(centre.data());
        pixels.each_line(n, [x, from = centres.data(), to = line.data()](long at, long size) {
            add_squares(x + at, from, size, to);
        });
        pixels.collect(line, square);
        for (long c = 0; c < channels; ++c) {  // from the rounded centre to the exact one
            const double error = sum[c] / members - centre[c];
            square[c] -= members * error * error;
        }
    }

    // The mean, the biased variance and the inverse of the deviation of each channel, from all chunks, and what x is
    // multiplied by and what is added.
    void finish(float eps, const float* weight, const float* bias, float* mean, float* variance, float* inverse,
                float* scale, float* shift) {
        const long channels = pixels.channels;
        for (long c = 0; c < channels; ++c) {
            const double centre = total(first, c) / pixels.count;
            double square = total(second, c);
            for (long n = 0; n < pixels.chunks; ++n) {
                const double apart = first[n * channels + c] / static_cast<double>(pixels.members(n)) - centre;
                square += static_cast<double>(pixels.members(n)) * apart * apart;
            }
            const double deviation = std::sqrt(square / pixels.count + eps);
            mean[c] = static_cast<float>(centre);
            variance[c] = static_cast<float>(square / pixels.count);
            inverse[c] = static_cast<float>(1 / deviation);
            scale[c] = static_cast<float>(weight[c] / deviation);
            shift[c] = static_cast<float>(bias[c] - centre * weight[c] / deviation);
        }
        scales = pixels.repeat(scale), shifts = pixels.repeat(shift);
    }

    // Write a chunk, multiplied by a factor, to which another map is added where it is given.
    void write(long n, const float* x, float* y, float factor = 1, const float* other = nullptr) const {
        pixels.each_line(n, [=, a = scales.data(), b = shifts.data()](long at, long size) {
            if (other)
                scale_and_add_line(x + at, a, b, factor, other + at, size, y + at);
            else
                scale_line(x + at, a, b, factor, size, y + at);
        });
    }

    // Note the sum of a chunk of the gradient, and that of its product with x - mean, both times the factor with which
    // the chunk was written; `centres` repeats the mean.
    void measure_gradient(long n, const float* x, const float* gradient, const std::vector<float>& centres,
                          float factor = 1) {
        std::vector<float> sums(pixels.line), products(pixels.line);
        pixels.each_line(n, [=, m = centres.data(), a = sums.data(), b = products.data()](long at, long size) {
            add_products(x + at, gradient + at, m, size, a, b);
        });
        pixels.collect(sums, &first[n * pixels.channels]);
        pixels.collect(products, &second[n * pixels.channels]);
        for (long c = n * pixels.channels; c < (n + 1) * pixels.channels; ++c) first[c] *= factor, second[c] *= factor;
    }

    // The gradients by weight and bias, from all chunks. That by x is
    // scale * (g - mean(g) - normalized x * mean(g * normalized x)), a sum of multiples of g and x.
    void finish_gradient(const float* weight, const float* mean, const float* inverse, float* weight_gradient,
                         float* bias_gradient) {
        const long channels = pixels.channels;
        std::vector<float> scale(channels), slope(channels), shift(channels);
        for (long c = 0; c < channels; ++c) {
            const double sum = total(first, c), product = total(second, c);
            const double factor = static_cast<double>(weight[c]) * inverse[c];
            const double incline = -factor * inverse[c] * inverse[c] * product / pixels.count;
            weight_gradient[c] = static_cast<float>(product * inverse[c]);
            bias_gradient[c] = static_cast<float>(sum);
            scale[c] = static_cast<float>(factor);
            slope[c] = static_cast<float>(incline);
            shift[c] = static_cast<float>(-factor * sum / pixels.count - incline * mean[c]);
        }
        scales = pixels.repeat(scale.data()), slopes = pixels.repeat(slope.data());
        shifts = pixels.repeat(shift.data());
    }

    // The gradient of a chunk by x.
    void write_gradient(long n, const float* x, const float* gradient, float* result, float factor = 1) const {
        pixels.each_line(n, [=, a = scales.data(), b = slopes.data(), c = shifts.data()](long at, long size) {
            combine_lines(x + at, gradient + at, factor, a, b, c, size, result + at);
        });
    }

    const Pixels& pixels;

  private:
    double total(const std::vector<double>& values, long c) const {
        double result = 0;
        for (long n = 0; n < pixels.chunks; ++n) result += values[n * pixels.channels + c];
        return result;
    }

    std::vector<double> first, second;
    std::vector<float> scales, slopes, shifts;
};

}  // namespace

// A map (count, height, width, the sum of widths) whose channels lie in several maps.
struct Maps {
    long number;
    const long* widths;
    float* const* maps;

    // Copy some pixels, of all channels, from or to the maps.
    void copy(long first, long pixels, float* values, bool to_maps) const {
        long channels = 0, begin = 0;
        for (long m = 0; m < number; ++m) channels += widths[m];
        for (long m = 0; m < number; begin += widths[m++])
            for (long p = 0; p < pixels; ++p) {
                float *here = values + p * channels + begin, *there = maps[m] + (first + p) * widths[m];
                std::copy_n(to_maps ? here : there, widths[m], to_maps ? there : here);
            }
    }
};

extern "C" {

// `scale` is null, or a factor of each place of the output.
void depthwise_forward(const Geometry* g, const float* x, const float* weight, const float* scale, float* y,
                       int threads) {
#pragma omp parallel num_threads(threads)
    {
        const auto images = depthwise_images(*g, weight, false, false, {});
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) images->forward(x + n * g->in_size(), scale, y + n * g->out_size());
    }
}

// Either gradient may be null.
void depthwise_backward(const Geometry* g, const float* x, const float* weight, const float* scale,
                        const float* gradient, float* x_gradient, float* weight_gradient, int threads) {
    const long size = g->channels * g->rows * g->columns;
    std::vector<float> sums(weight_gradient ? g->count * size : 0);
#pragma omp parallel num_threads(threads)
    {
        const auto images = depthwise_images(*g, weight, true, false, {});
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n)
            images->backward(x + n * g->in_size(), scale, gradient + n * g->out_size(),
                            x_gradient ? x_gradient + n * g->in_size() : nullptr,
                            weight_gradient ? sums.data() + n * size : nullptr);
    }
    if (weight_gradient) add_images(sums, size, g->channels, weight_gradient, threads);
}

// y = (x - mean) * inverse * weight + bias
void norm_forward(long channels, long count, float eps, const float* x, const float* weight, const float* bias,
                  float* y, float* mean, float* variance, float* inverse, int threads) {
    const Pixels pixels(channels, count);
    Norm norm(pixels);
    std::vector<float> scale(channels), shift(channels);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n) norm.measure(n, x + pixels.begin(n));
    norm.finish(eps, weight, bias, mean, variance, inverse, scale.data(), shift.data());
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n) norm.write(n, x + pixels.begin(n), y + pixels.begin(n));
}

void norm_backward(long channels, long count, const float* x, const float* gradient, const float* weight,
                   const float* mean, const float* inverse, float* x_gradient, float* weight_gradient,
                   float* bias_gradient, int threads) {
    const Pixels pixels(channels, count);
    Norm norm(pixels);
    const std::vector<float> centres = pixels.repeat(mean);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n)
        norm.measure_gradient(n, x + pixels.begin(n), gradient + pixels.begin(n), centres);
    norm.finish_gradient(weight, mean, inverse, weight_gradient, bias_gradient);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n)
        norm.write_gradient(n, x + pixels.begin(n), gradient + pixels.begin(n), x_gradient + pixels.begin(n));
}

// Batch norm of z, which is x, after what is `before`, ReLU, the depthwise convolution, if any, and a pointwise one to
// `outputs` channels. Where they are not null, each image is multiplied by one of `factors`, and `other` is added. The
// result is divided into one map or several, or not written (none); `other` is for one only.
void separable_forward(const Geometry* g, long outputs, float eps, const float* x, const Affine* before,
                       const float* depthwise, const float* pointwise, const float* weight, const float* bias,
                       const float* factors, const float* other, float* z, const Maps* y, float* mean, float* variance,
                       float* inverse, float* scale, float* shift, int threads) {
    const long places = g->out_height * g->out_width;
    const Pixels pixels(outputs, g->count * places, places);
    Norm norm(pixels);
    Zeros matrix(g->channels * outputs);  // (channels, outputs)
    for (long k = 0; k < outputs; ++k)
        for (long c = 0; c < g->channels; ++c) matrix.data()[c * outputs + k] = pointwise[k * g->channels + c];
#pragma omp parallel num_threads(threads)
    {
        const auto images = depthwise_images(*g, depthwise, false, true, *before);
        Zeros inner(g->out_size());
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) {
            images->forward(x + n * g->in_size(), nullptr, inner.data());
            multiply(inner.data(), places, g->channels, 1, g->channels, matrix.data(), outputs, z + pixels.begin(n));
            norm.measure(n, z + pixels.begin(n));
        }
    }
    norm.finish(eps, weight, bias, mean, variance, inverse, scale, shift);
    if (y->number == 0) return;
#pragma omp parallel num_threads(threads)
    {
        const bool divided = y->number > 1;
        Zeros whole(divided ? places * outputs : 0);
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) {
            norm.write(n, z + pixels.begin(n), divided ? whole.data() : y->maps[0] + pixels.begin(n),
                       factors ? factors[n / g->parts] : 1, other ? other + pixels.begin(n) : nullptr);
            if (divided) y->copy(n * places, places, whole.data(), true);
        }
    }
}

// `gradient` is in as many maps as the result was divided into. The gradient by x may be null; it is that of x after what
// is `before`. Where `before_mean` is given, x is what a batch norm of that mean, of as many images, normalizes, and its
// sums over the gradient are written to `before_sums`, which its own call takes as `sums`.
void separable_backward(const Geometry* g, long outputs, const float* x, const Affine* before, const float* before_mean,
                        double* before_sums, const float* depthwise, const float* pointwise, const float* weight,
                        const float* factors, const float* z, const Maps* gradient, double* sums, const float* mean,
                        const float* inverse, float* x_gradient, float* depthwise_gradient, float* pointwise_gradient,
                        float* weight_gradient, float* bias_gradient, int threads) {
    const long places = g->out_height * g->out_width, area = g->rows * g->columns;
    const Pixels pixels(outputs, g->count * places, places);
    Norm norm(pixels);
    const std::vector<float> centres = pixels.repeat(mean);
    // The gradient of an image, or of a part of one, which is copied if it is divided.
    const auto gradient_of = [=](long n, Zeros& whole) -> const float* {
        if (gradient->number == 1) return gradient->maps[0] + n * places * outputs;
        gradient->copy(n * places, places, whole.data(), false);
        return whole.data();
    };
    if (sums) {
        norm.copy_notes(sums, true);
    } else {
#pragma omp parallel num_threads(threads)
        {
            Zeros whole(gradient->number > 1 ? places * outputs : 0);
#pragma omp for schedule(static)
            for (long n = 0; n < g->count; ++n)
                norm.measure_gradient(n, z + pixels.begin(n), gradient_of(n, whole), centres,
                                      factors ? factors[n / g->parts] : 1);
        }
    }
    norm.finish_gradient(weight, mean, inverse, weight_gradient, bias_gradient);

    const Pixels x_pixels(g->channels, g->count * g->height * g->width, g->height * g->width);
    Norm norm_before(x_pixels);
    const std::vector<float> x_centres = before_mean ? x_pixels.repeat(before_mean) : std::vector<float>();
    const long images_count = g->count / g->parts, size = outputs * g->channels;
    std::vector<float> depthwise_sums(depthwise ? g->count * g->channels * area : 0), pointwise_sums(images_count * size);
#pragma omp parallel num_threads(threads)
    {
        const auto images = depthwise_images(*g, depthwise, true, true, *before);
        Zeros inner(g->out_size()), inner_gradient(g->out_size()), outer(places * outputs), product(size);
        Zeros whole(gradient->number > 1 ? places * outputs : 0);
#pragma omp for schedule(static)
        for (long image = 0; image < images_count; ++image)
            for (long n = image * g->parts; n < (image + 1) * g->parts; ++n) {
                norm.write_gradient(n, z + pixels.begin(n), gradient_of(n, whole), outer.data(),
                                    factors ? factors[image] : 1);
                images->forward(x + n * g->in_size(), nullptr, inner.data());
                multiply(outer.data(), outputs, 1, outputs, places, inner.data(), g->channels, product.data());
                add_line(product.data(), size, &pointwise_sums[image * size]);
                if (!x_gradient && !depthwise) continue;
                multiply(outer.data(), places, outputs, 1, outputs, pointwise, g->channels, inner_gradient.data());
                images->backward(nullptr, nullptr, inner_gradient.data(),
                                 x_gradient ? x_gradient + n * g->in_size() : nullptr,
                                 depthwise ? &depthwise_sums[n * g->channels * area] : nullptr);
                if (before_mean)
                    norm_before.measure_gradient(n, x + n * g->in_size(), x_gradient + n * g->in_size(), x_centres);
            }
    }
    if (before_mean) norm_before.copy_notes(before_sums, false);
    if (depthwise) add_images(depthwise_sums, g->channels * area, g->channels, depthwise_gradient, threads);
    add_images(pointwise_sums, size, 1, pointwise_gradient, threads);
}
}
