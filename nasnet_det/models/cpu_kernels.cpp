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

// Zeros that begin at a cache line, with 32 more behind them.
class Zeros {
  public:
    explicit Zeros(long size) : values(size + 48) {
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

// L channels of one image, of which `used` exist, from `first` on.
struct Block {
    long channels, first, used;
};

// A block of an image among zeros: pixel (y, x) is at (top + y * step_y, left + x * step_x).
template <int L>
class Plane {
  public:
    Plane(long rows, long columns, long top, long left, long step_y, long step_x)
        : zeros(rows * columns * L), columns(columns), step_y(step_y), step_x(step_x), origin(at(top, left)) {}
    long width() const { return columns; }
    float* at(long y, long x) { return zeros.data() + (y * columns + x) * L; }
    float* pixel(long y, long x) { return origin + (y * step_y * columns + x * step_x) * L; }

    // The border stays zero, and what is read into lanes that the block does not use is never written. Where `scale` is
    // given, each pixel is multiplied by its own.
    void read(const float* image, long height, long width, Block block, bool relu, const float* scale) {
        for (long y = 0; y < height; ++y) {
            const float* from = image + y * width * block.channels + block.first;
            float* to = pixel(y, 0);
            for (long x = 0; x < width; ++x, from += block.channels, to += step_x * L) {
                Vector<L> value{};
                if (block.used == L)
                    std::memcpy(&value, from, sizeof value);
                else
                    std::memcpy(&value, from, block.used * sizeof(float));
                if (relu) value = value < 0 ? Vector<L>{} : value;  // which keeps NaN
                if (scale) value *= scale[y * width + x];
                std::memcpy(to, &value, sizeof value);
            }
        }
    }

  private:
    Zeros zeros;
    const long columns, step_y, step_x;
    float* const origin;
};

// NUMBER neighbouring outputs of a correlation.
template <int L, int NUMBER>
__attribute__((always_inline)) inline void correlate_pixels(const float* input, long input_columns,
                                                            const float* kernel, const Geometry& g, long stride,
                                                            Vector<L>* sums) {
    const long rows = g.rows, columns = g.columns, step = g.dilation;
    for (int t = 0; t < NUMBER; ++t) sums[t] = Vector<L>{};
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < columns; ++j) {
            const Vector<L> weight = load<L>(kernel + (i * columns + j) * L);
            const float* from = input + (i * input_columns + j) * step * L;
            for (int t = 0; t < NUMBER; ++t) sums[t] += load<L>(from + t * stride * L) * weight;
        }
}

// Write the correlation of a plane from `input` on with a kernel to a block of an image; where `mask` is given, 0 where
// a pixel of that plane is 0 or less, and where `scale` is, multiplied by it.
template <int L>
void correlate(const float* input, long input_columns, const float* kernel, const Geometry& g, long stride_y,
               long stride_x, float* image, long height, long width, Block block, Plane<L>* mask,
               const float* scale) {
    constexpr int many = 8, some = 4;
    for (long y = 0; y < height; ++y)
        for (long x = 0; x < width;) {
            Vector<L> sums[many];
            const float* from = input + (y * stride_y * input_columns + x * stride_x) * L;
            const long now = width - x >= many ? many : width - x >= some ? some : 1;
            if (now == many)
                correlate_pixels<L, many>(from, input_columns, kernel, g, stride_x, sums);
            else if (now == some)
                correlate_pixels<L, some>(from, input_columns, kernel, g, stride_x, sums);
            else
                correlate_pixels<L, 1>(from, input_columns, kernel, g, stride_x, sums);
            for (long t = 0; t < now; ++t, ++x) {
                if (mask) sums[t] = load<L>(mask->pixel(y, x)) <= 0 ? Vector<L>{} : sums[t];
                if (scale) sums[t] *= scale[y * width + x];
                float* to = image + (y * width + x) * block.channels + block.first;
                if (block.used == L)
                    std::memcpy(to, &sums[t], sizeof sums[t]);
                else
                    std::memcpy(to, &sums[t], block.used * sizeof(float));
            }
        }
}

// The weight gradient of one image's block, (rows, COLUMNS, L): each output's gradient times the inputs of its window.
template <int L, int COLUMNS>
void weight_sums(Plane<L>& input, Plane<L>& gradient, const Geometry& g, float* result) {
    for (long i = 0; i < g.rows; ++i) {
        double total[COLUMNS * L] = {};
        for (long y = 0; y < g.out_height; ++y) {
            Vector<L> sums[COLUMNS] = {};
            const float *from = input.at(y * g.stride_y + i * g.dilation, 0), *outer = gradient.pixel(y, 0);
            for (long x = 0; x < g.out_width; ++x, from += g.stride_x * L, outer += g.stride_x * L) {
                const Vector<L> value = load<L>(outer);
                for (int j = 0; j < COLUMNS; ++j) sums[j] += load<L>(from + j * g.dilation * L) * value;
            }
            for (int j = 0; j < COLUMNS; ++j)
                for (int lane = 0; lane < L; ++lane) total[j * L + lane] += sums[j][lane];
        }
        for (int k = 0; k < COLUMNS * L; ++k) result[i * COLUMNS * L + k] = static_cast<float>(total[k]);
    }
}

// The depthwise convolution of one image after another, by one thread: channels `begin` to `end`, in blocks of L.
template <int L>
class Depthwise {
  public:
    Depthwise(const Geometry& g, long begin, long end, const float* weight, bool backward)
        : g(g), begin(begin), end(end), area(g.rows * g.columns),
          height(std::max((g.out_height - 1) * g.stride_y + g.reach_y(), g.top + g.height)),
          width(std::max((g.out_width - 1) * g.stride_x + g.reach_x(), g.left + g.width)),
          input(height, width, g.top, g.left, 1, 1),
          // Each input's gradient is the correlation, with the kernel turned by 180 degrees, of the outputs' gradients
          // at their strides.
          outer(backward ? height + g.reach_y() - 1 : 0, backward ? width + g.reach_x() - 1 : 0, g.reach_y() - 1,
                g.reach_x() - 1, g.stride_y, g.stride_x),
          kernels(blocks() * area * L), turned(blocks() * area * L), sums(area * L) {
        for (long c = begin; c < end; ++c)
            for (long k = 0; k < area; ++k) {
                float* block = kernels.data() + (c - begin) / L * area * L;
                float* opposite = turned.data() + (c - begin) / L * area * L;
                block[k * L + (c - begin) % L] = weight[c * area + k];
                opposite[(area - 1 - k) * L + (c - begin) % L] = weight[c * area + k];
            }
    }

    void forward(const float* x, const float* scale, float* y) {
        for (long b = 0; b < blocks(); ++b) {
            input.read(x, g.height, g.width, block(b), g.relu, nullptr);
            correlate<L>(input.at(0, 0), input.width(), kernels.data() + b * area * L, g, g.stride_y, g.stride_x, y,
                         g.out_height, g.out_width, block(b), nullptr, scale);
        }
    }

    // Either gradient may be null; that of the weights is of this image.
    void backward(const float* x, const float* scale, const float* gradient, float* x_gradient,
                  float* weight_gradient) {
        for (long b = 0; b < blocks(); ++b) {
            input.read(x, g.height, g.width, block(b), g.relu, nullptr);
            outer.read(gradient, g.out_height, g.out_width, block(b), false, scale);
            if (x_gradient)
                correlate<L>(outer.at(g.top, g.left), outer.width(), turned.data() + b * area * L, g, 1, 1, x_gradient,
                             g.height, g.width, block(b), g.relu ? &input : nullptr, nullptr);
            if (!weight_gradient) continue;
            (g.columns == 3 ? weight_sums<L, 3> : g.columns == 5 ? weight_sums<L, 5> : weight_sums<L, 7>)(
                input, outer, g, sums.data());
            for (long lane = 0; lane < block(b).used; ++lane)
                for (long k = 0; k < area; ++k)
                    weight_gradient[(begin + b * L + lane) * area + k] = sums.data()[k * L + lane];
        }
    }

  private:
    long blocks() const { return (end - begin + L - 1) / L; }
    Block block(long b) const { return {g.channels, begin + b * L, std::min<long>(L, end - begin - b * L)}; }

    const Geometry& g;
    const long begin, end, area, height, width;  // these are of the padded input
    Plane<L> input, outer;
    Zeros kernels, turned, sums;
};

// All channels: blocks of an instruction's, and one of 8 where no more are left.
class DepthwiseImages {
  public:
    DepthwiseImages(const Geometry& g, const float* weight, bool backward = false) {
        const long wide = g.channels % kLanes > 8 ? g.channels : g.channels / kLanes * kLanes;
        if (wide > 0) many = std::make_unique<Depthwise<kLanes>>(g, 0, wide, weight, backward);
        if (wide < g.channels) few = std::make_unique<Depthwise<8>>(g, wide, g.channels, weight, backward);
    }
    void forward(const float* x, const float* scale, float* y) {
        if (many) many->forward(x, scale, y);
        if (few) few->forward(x, scale, y);
    }
    void backward(const float* x, const float* scale, const float* gradient, float* x_gradient,
                  float* weight_gradient) {
        if (many) many->backward(x, scale, gradient, x_gradient, weight_gradient);
        if (few) few->backward(x, scale, gradient, x_gradient, weight_gradient);
    }

  private:
    std::unique_ptr<Depthwise<kLanes>> many;
    std::unique_ptr<Depthwise<8>> few;
};

// The sum over images of `size` values each.
void add_images(const std::vector<float>& images, long size, float* result, int threads) {
    const long count = static_cast<long>(images.size()) / size;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long k = 0; k < size; ++k) {
        double total = 0;
        for (long n = 0; n < count; ++n) total += images[n * size + k];
        result[k] = static_cast<float>(total);
    }
}

// ROWS rows of a product and WIDE * L columns of it, of which `used` exist: each row's values times a matrix's rows.
template <int L, int WIDE, int ROWS>
__attribute__((always_inline)) inline void multiply_tile(const float* rows, long step, long between, long inner,
                                                         const float* matrix, long columns, float* result, long used) {
    Vector<L> sums[ROWS][WIDE] = {};
    for (long c = 0; c < inner; ++c) {
        Vector<L> values[WIDE];
        for (int k = 0; k < WIDE; ++k) values[k] = load<L>(matrix + c * columns + k * L);
        for (int i = 0; i < ROWS; ++i)
            for (int k = 0; k < WIDE; ++k) sums[i][k] += values[k] * rows[i * step + c * between];
    }
    for (int i = 0; i < ROWS; ++i) {
        if (used == WIDE * L)
            std::memcpy(result + i * columns, sums[i], sizeof sums[i]);
        else
            std::memcpy(result + i * columns, sums[i], used * sizeof(float));
    }
}

template <int L, int WIDE>
void multiply_columns(const float* rows, long number, long step, long between, long inner, const float* matrix,
                      long columns, float* result, long used) {
    constexpr int many = WIDE > 1 ? 6 : 8;
    long p = 0;
    for (; p + many <= number; p += many)
        multiply_tile<L, WIDE, many>(rows + p * step, step, between, inner, matrix, columns, result + p * columns,
                                     used);
    for (; p < number; ++p)
        multiply_tile<L, WIDE, 1>(rows + p * step, step, between, inner, matrix, columns, result + p * columns, used);
}

// The product (number, columns) of rows with a matrix (inner, columns). Value c of row p is at p * step + c * between;
// up to 31 values after the matrix are read.
void multiply(const float* rows, long number, long step, long between, long inner, const float* matrix, long columns,
              float* result) {
    for (long first = 0; first < columns;) {
        const long left = columns - first, taken = left > kLanes ? 2 * kLanes : left > 8 ? kLanes : 8;
        (left > kLanes ? multiply_columns<kLanes, 2>
         : left > 8    ? multiply_columns<kLanes, 1>
                       : multiply_columns<8, 1>)(rows, number, step, between, inner, matrix + first, columns,
                                                 result + first, std::min(taken, left));
        first += taken;
    }
}

// The pixels of a map in chunks that fit the cache; several pixels are a line, so that loops are long.
class Pixels {
  public:
    // The pixels of a chunk are given, or as many as fit the first cache.
    Pixels(long channels, long count, long given = 0)
        : channels(channels), count(count), line(std::max<long>(1, 128 / channels) * channels),
          chunk(given > 0 ? given : std::max<long>(1, 8192 / line) * line / channels),
          chunks((count + chunk - 1) / chunk) {}
    // How many pixels a chunk has.
    double members(long number) const { return static_cast<double>(std::min(chunk, count - number * chunk)); }
    // Call work(first value, number of values) for each line of a chunk.
    template <class Work>
    void each_line(long number, Work work) const {
        const long end = std::min(count, (number + 1) * chunk) * channels;
        for (long at = number * chunk * channels; at < end; at += line) work(at, std::min(line, end - at));
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

void scale_line(const float* __restrict x, const float* __restrict scales, const float* __restrict shifts, long size,
                float* __restrict y) {
    for (long k = 0; k < size; ++k) y[k] = x[k] * scales[k] + shifts[k];
}

void combine_lines(const float* __restrict x, const float* __restrict gradient, const float* __restrict scales,
                   const float* __restrict slopes, const float* __restrict shifts, long size,
                   float* __restrict result) {
    for (long k = 0; k < size; ++k) result[k] = gradient[k] * scales[k] + (x[k] * slopes[k] + shifts[k]);
}

// Batch norm in two passes over a map and two over its gradient, each chunk by chunk.
class Norm {
  public:
    explicit Norm(const Pixels& pixels)
        : pixels(pixels), first(pixels.chunks * pixels.channels), second(pixels.chunks * pixels.channels) {}

    // Note the sum of a chunk of x, and that of the squares about its mean.
    void measure(long n, const float* x) {
        const long channels = pixels.channels;
        double *sum = &first[n * channels], *square = &second[n * channels];
        const double members = pixels.members(n);
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

    // The mean, the biased variance and the inverse of the deviation of each channel, from all chunks.
    void finish(float eps, const float* weight, const float* bias, float* mean, float* variance, float* inverse) {
        const long channels = pixels.channels;
        std::vector<float> scale(channels), shift(channels);
        for (long c = 0; c < channels; ++c) {
            const double centre = total(first, c) / pixels.count;
            double square = total(second, c);
            for (long n = 0; n < pixels.chunks; ++n) {
                const double apart = first[n * channels + c] / pixels.members(n) - centre;
                square += pixels.members(n) * apart * apart;
            }
            const double deviation = std::sqrt(square / pixels.count + eps);
            mean[c] = static_cast<float>(centre);
            variance[c] = static_cast<float>(square / pixels.count);
            inverse[c] = static_cast<float>(1 / deviation);
            scale[c] = static_cast<float>(weight[c] / deviation);
            shift[c] = static_cast<float>(bias[c] - centre * weight[c] / deviation);
        }
        scales = pixels.repeat(scale.data()), shifts = pixels.repeat(shift.data());
    }

    void write(long n, const float* x, float* y) const {
        pixels.each_line(n, [=, a = scales.data(), b = shifts.data()](long at, long size) {
            scale_line(x + at, a, b, size, y + at);
        });
    }

    // Note the sum of a chunk of the gradient, and that of its product with x - mean; `centres` repeats the mean.
    void measure_gradient(long n, const float* x, const float* gradient, const std::vector<float>& centres) {
        std::vector<float> sums(pixels.line), products(pixels.line);
        pixels.each_line(n, [=, m = centres.data(), a = sums.data(), b = products.data()](long at, long size) {
            add_products(x + at, gradient + at, m, size, a, b);
        });
        pixels.collect(sums, &first[n * pixels.channels]);
        pixels.collect(products, &second[n * pixels.channels]);
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

    // The gradient of a chunk by x, at the chunk's place in a map, or from `result` on.
    void write_gradient(long n, const float* x, const float* gradient, float* result, bool alone = false) const {
        const long start = alone ? n * pixels.chunk * pixels.channels : 0;
        pixels.each_line(n, [=, a = scales.data(), b = slopes.data(), c = shifts.data()](long at, long size) {
            combine_lines(x + at, gradient + at, a, b, c, size, result + at - start);
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

extern "C" {

// `scale` is null, or a factor of each place of the output.
void depthwise_forward(const Geometry* g, const float* x, const float* weight, const float* scale, float* y,
                       int threads) {
#pragma omp parallel num_threads(threads)
    {
        DepthwiseImages images(*g, weight);
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) images.forward(x + n * g->in_size(), scale, y + n * g->out_size());
    }
}

// Either gradient may be null.
void depthwise_backward(const Geometry* g, const float* x, const float* weight, const float* scale,
                        const float* gradient, float* x_gradient, float* weight_gradient, int threads) {
    const long size = g->channels * g->rows * g->columns;
    std::vector<float> sums(weight_gradient ? g->count * size : 0);
#pragma omp parallel num_threads(threads)
    {
        DepthwiseImages images(*g, weight, true);
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n)
            images.backward(x + n * g->in_size(), scale, gradient + n * g->out_size(),
                            x_gradient ? x_gradient + n * g->in_size() : nullptr,
                            weight_gradient ? sums.data() + n * size : nullptr);
    }
    if (weight_gradient) add_images(sums, size, weight_gradient, threads);
}

// y = (x - mean) * inverse * weight + bias
void norm_forward(long channels, long count, float eps, const float* x, const float* weight, const float* bias,
                  float* y, float* mean, float* variance, float* inverse, int threads) {
    const Pixels pixels(channels, count);
    Norm norm(pixels);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n) norm.measure(n, x);
    norm.finish(eps, weight, bias, mean, variance, inverse);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n) norm.write(n, x, y);
}

void norm_backward(long channels, long count, const float* x, const float* gradient, const float* weight,
                   const float* mean, const float* inverse, float* x_gradient, float* weight_gradient,
                   float* bias_gradient, int threads) {
    const Pixels pixels(channels, count);
    Norm norm(pixels);
    const std::vector<float> centres = pixels.repeat(mean);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n) norm.measure_gradient(n, x, gradient, centres);
    norm.finish_gradient(weight, mean, inverse, weight_gradient, bias_gradient);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < pixels.chunks; ++n) norm.write_gradient(n, x, gradient, x_gradient);
}

// Batch norm of z, which is x after the depthwise convolution and a pointwise one to `outputs` channels.
void separable_forward(const Geometry* g, long outputs, float eps, const float* x, const float* depthwise,
                       const float* pointwise, const float* weight, const float* bias, float* z, float* y,
                       float* mean, float* variance, float* inverse, int threads) {
    const long places = g->out_height * g->out_width;
    const Pixels pixels(outputs, g->count * places, places);
    Norm norm(pixels);
    Zeros matrix(g->channels * outputs);  // (channels, outputs)
    for (long k = 0; k < outputs; ++k)
        for (long c = 0; c < g->channels; ++c) matrix.data()[c * outputs + k] = pointwise[k * g->channels + c];
#pragma omp parallel num_threads(threads)
    {
        DepthwiseImages images(*g, depthwise);
        Zeros inner(g->out_size());
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) {
            images.forward(x + n * g->in_size(), nullptr, inner.data());
            multiply(inner.data(), places, g->channels, 1, g->channels, matrix.data(), outputs,
                     z + n * places * outputs);
            norm.measure(n, z);
        }
    }
    norm.finish(eps, weight, bias, mean, variance, inverse);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < g->count; ++n) norm.write(n, z, y);
}

// The gradient by x may be null.
void separable_backward(const Geometry* g, long outputs, const float* x, const float* depthwise, const float* pointwise,
                        const float* weight, const float* z, const float* gradient, const float* mean,
                        const float* inverse, float* x_gradient, float* depthwise_gradient, float* pointwise_gradient,
                        float* weight_gradient, float* bias_gradient, int threads) {
    const long places = g->out_height * g->out_width, area = g->rows * g->columns;
    const Pixels pixels(outputs, g->count * places, places);
    Norm norm(pixels);
    const std::vector<float> centres = pixels.repeat(mean);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < g->count; ++n) norm.measure_gradient(n, z, gradient, centres);
    norm.finish_gradient(weight, mean, inverse, weight_gradient, bias_gradient);

    Zeros matrix(outputs * g->channels);  // (outputs, channels)
    std::copy(pointwise, pointwise + outputs * g->channels, matrix.data());
    std::vector<float> depthwise_sums(g->count * g->channels * area), pointwise_sums(g->count * outputs * g->channels);
#pragma omp parallel num_threads(threads)
    {
        DepthwiseImages images(*g, depthwise, true);
        Zeros inner(g->out_size()), inner_gradient(g->out_size()), outer(places * outputs);
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) {
            const float* image = x + n * g->in_size();
            norm.write_gradient(n, z, gradient, outer.data(), true);
            images.forward(image, nullptr, inner.data());
            multiply(outer.data(), outputs, 1, outputs, places, inner.data(), g->channels,
                     &pointwise_sums[n * outputs * g->channels]);
            multiply(outer.data(), places, outputs, 1, outputs, matrix.data(), g->channels, inner_gradient.data());
            images.backward(image, nullptr, inner_gradient.data(), x_gradient ? x_gradient + n * g->in_size() : nullptr,
                            &depthwise_sums[n * g->channels * area]);
        }
    }
    add_images(depthwise_sums, g->channels * area, depthwise_gradient, threads);
    add_images(pointwise_sums, outputs * g->channels, pointwise_gradient, threads);
}
}
