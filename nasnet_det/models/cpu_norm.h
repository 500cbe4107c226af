// The batch norm of cpu_kernels.cpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

namespace {

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
