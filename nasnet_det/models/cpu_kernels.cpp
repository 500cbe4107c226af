// Training on a CPU: depthwise and separable convolutions and batch norm of float32 maps in channels_last, forward and
// backward. nasnet_det/models/cpu_kernels.py compiles and calls this file.
//
// What limits such steps is memory, so each function reads and writes a map as seldom as it can. A depthwise
// convolution copies as many of an image's channels at a time to a plane with a border of zeros as fit the cache; ReLU
// of its input is part of the copy. Batch norm sums a chunk of pixels at a time in float, and the chunks in double. A
// separable convolution with its batch norm works image by image: what is between its parts stays in the cache, and
// what its backward pass needs of that is computed again. Of two in turn the result of the first is not written: the
// second normalizes what it reads. No result depends on the number of threads.
#include "cpu_depthwise.h"
#include "cpu_norm.h"
#include "cpu_products.h"

// The pixels with which a product of two maps is long enough.
constexpr long kProduct = 256;

// A map (count, height, width, the sum of widths) whose channels lie in one map or several.
struct Maps {
    long number;
    const long* widths;
    float* const* maps;

    // Call work(place, size, values) for the values of some pixels: `size` of them, from `place` on among those of all
    // channels, lie side by side in a map.
    template <class Work>
    void each(long first, long pixels, Work work) const {
        if (number == 1) return work(0, pixels * widths[0], maps[0] + first * widths[0]);
        long channels = 0, begin = 0;
        for (long m = 0; m < number; ++m) channels += widths[m];
        for (long m = 0; m < number; begin += widths[m++])
            for (long p = 0; p < pixels; ++p) work(p * channels + begin, widths[m], maps[m] + (first + p) * widths[m]);
    }
    // The values of some pixels side by side, in `whole` if they lie in several maps.
    const float* read(long first, long pixels, float* whole) const {
        if (number == 1) return maps[0] + first * widths[0];
        each(first, pixels, [=](long place, long size, const float* from) { std::copy_n(from, size, whole + place); });
        return whole;
    }
};

// ReLU of some pixels.
void activate(const Maps& x, long first, long pixels, float* result) {
    x.each(first, pixels, [=](long place, long size, const float* __restrict from) {
        float* __restrict to = result + place;
        for (long k = 0; k < size; ++k) to[k] = from[k] < 0 ? 0 : from[k];
    });
}

// The gradient by these pixels of one by their ReLU, plus another where that is given.
void activate_backward(const Maps& x_gradient, long first, long pixels, const float* activated, const float* gradient,
                       const float* passed) {
    x_gradient.each(first, pixels, [=](long place, long size, float* __restrict to) {
        const float *__restrict y = activated + place, *__restrict from = gradient + place;
        for (long k = 0; k < size; ++k) to[k] = y[k] <= 0 ? 0 : from[k];
        for (long k = 0; passed && k < size; ++k) to[k] += passed[place + k];
    });
}

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
            images->backward(x + n * g->in_size(), scale, gradient + n * g->out_size(), nullptr,
                            x_gradient ? x_gradient + n * g->in_size() : nullptr,
                            weight_gradient ? sums.data() + n * size : nullptr);
    }
    if (weight_gradient) add_images(sums.data(), g->count, size, g->channels, weight_gradient, threads);
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
void separable_forward(const Geometry* g, long outputs, float eps, const Maps* x, const Affine* before,
                       const float* depthwise, const float* pointwise, const float* weight, const float* bias,
                       const float* factors, const float* other, float* z, const Maps* y, float* mean, float* variance,
                       float* inverse, float* scale, float* shift, int threads) {
    const long places = g->out_height * g->out_width;
    const Pixels pixels(outputs, g->count * places, places);
    Norm norm(pixels);
    Scratch matrix(g->channels * outputs);  // (channels, outputs)
    for (long k = 0; k < outputs; ++k)
        for (long c = 0; c < g->channels; ++c) matrix.data()[c * outputs + k] = pointwise[k * g->channels + c];
#pragma omp parallel num_threads(threads)
    {
        const auto images = depthwise_images(*g, depthwise, false, true, *before);
        Scratch inner(g->out_size());
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) {
            if (images)
                images->forward(x->maps[0] + n * g->in_size(), nullptr, inner.data());
            else
                activate(*x, n * places, places, inner.data());
            multiply(inner.data(), places, g->channels, 1, g->channels, matrix.data(), outputs, z + pixels.begin(n));
            norm.measure(n, z + pixels.begin(n));
        }
    }
    norm.finish(eps, weight, bias, mean, variance, inverse, scale, shift);
    if (y->number == 0) return;
#pragma omp parallel num_threads(threads)
    {
        const bool divided = y->number > 1;
        Scratch whole(divided ? places * outputs : 0);
#pragma omp for schedule(static)
        for (long n = 0; n < g->count; ++n) {
            norm.write(n, z + pixels.begin(n), divided ? whole.data() : y->maps[0] + pixels.begin(n),
                       factors ? factors[n / g->parts] : 1, other ? other + pixels.begin(n) : nullptr);
            if (divided)
                y->each(n * places, places, [from = whole.data()](long place, long size, float* to) {
                    std::copy_n(from + place, size, to);
                });
        }
    }
}

// `gradient` is in as many maps as the result was divided into, and that by x in as many as x, or in none where it is
// not wanted; it is that of x after what is `before`, plus `passed`, where that is given, of an undivided x. Where
// `before_mean` is given, x is what a batch norm of that mean, of as many images, normalizes, and its sums over the
// gradient are written to `before_sums`, which its own call takes as `sums`.
void separable_backward(const Geometry* g, long outputs, const Maps* x, const Affine* before, const float* before_mean,
                        double* before_sums, const float* depthwise, const float* pointwise, const float* weight,
                        const float* factors, const float* z, const Maps* gradient, double* sums, const float* passed,
                        const float* mean, const float* inverse, const Maps* x_gradient, float* depthwise_gradient,
                        float* pointwise_gradient, float* weight_gradient, float* bias_gradient, int threads) {
    const long places = g->out_height * g->out_width, area = g->height * g->width, kernel = g->rows * g->columns;
    const Pixels pixels(outputs, g->count * places, places);
    Norm norm(pixels);
    const std::vector<float> centres = pixels.repeat(mean);
    const long divided = gradient->number > 1 ? places * outputs : 0;
    if (sums) {
        norm.copy_notes(sums, true);
    } else {
#pragma omp parallel num_threads(threads)
        {
            Scratch whole(divided);
#pragma omp for schedule(static)
            for (long n = 0; n < g->count; ++n)
                norm.measure_gradient(n, z + pixels.begin(n), gradient->read(n * places, places, whole.data()), centres,
                                      factors ? factors[n / g->parts] : 1);
        }
    }
    norm.finish_gradient(weight, mean, inverse, weight_gradient, bias_gradient);

    const Pixels x_pixels(g->channels, g->count * area, area);
    Norm norm_before(x_pixels);
    const std::vector<float> x_centres = before_mean ? x_pixels.repeat(before_mean) : std::vector<float>();
    // A thread takes the parts of an image, or some small images, one after another; the gradient by the pointwise
    // kernels is one product for as many of them as make it long.
    const long together = std::max<long>(1, kProduct / places), each = std::max(g->parts, together);
    const long tasks = (g->count + each - 1) / each, size = outputs * g->channels;
    std::vector<float> depthwise_sums(depthwise ? g->count * g->channels * kernel : 0);
    Scratch pointwise_sums(tasks * size);
#pragma omp parallel num_threads(threads)
    {
        const auto images = depthwise_images(*g, depthwise, true, true, *before);
        Scratch inners(together * g->out_size()), inner_gradient(g->out_size());
        Scratch outers(together * places * outputs), product(each > together ? size : 0), whole(divided);
#pragma omp for schedule(static)
        for (long task = 0; task < tasks; ++task) {
            const long begin = task * each, end = std::min(begin + each, g->count);
            float* sum = pointwise_sums.data() + task * size;
            for (long n = begin; n < end; ++n) {
                const long taken = (n - begin) % together;
                float* inner = inners.data() + taken * g->out_size();
                float* outer = outers.data() + taken * places * outputs;
                norm.write_gradient(n, z + pixels.begin(n), gradient->read(n * places, places, whole.data()), outer,
                                    factors ? factors[n / g->parts] : 1);
                const float* input = images ? x->maps[0] + n * g->in_size() : nullptr;
                if (images)
                    images->forward(input, nullptr, inner);
                else
                    activate(*x, n * places, places, inner);
                const bool by_x = x_gradient->number > 0;
                if (by_x || images)
                    multiply(outer, places, outputs, 1, outputs, pointwise, g->channels, inner_gradient.data());
                const float* added = passed ? passed + n * g->in_size() : nullptr;
                if (images) {
                    float* result = by_x ? x_gradient->maps[0] + n * g->in_size() : nullptr;
                    images->backward(nullptr, nullptr, inner_gradient.data(), added, result,
                                     &depthwise_sums[n * g->channels * kernel]);
                    if (before_mean) norm_before.measure_gradient(n, input, result, x_centres);
                } else if (by_x) {
                    activate_backward(*x_gradient, n * places, places, inner, inner_gradient.data(), added);
                }
                if (taken + 1 < together && n + 1 < end) continue;
                float* target = n - begin < together ? sum : product.data();
                multiply(outers.data(), outputs, 1, outputs, (taken + 1) * places, inners.data(), g->channels, target);
                if (target != sum) add_line(target, size, sum);
            }
        }
    }
    if (before_mean) norm_before.copy_notes(before_sums, false);
    if (depthwise)
        add_images(depthwise_sums.data(), g->count, g->channels * kernel, g->channels, depthwise_gradient, threads);
    add_images(pointwise_sums.data(), tasks, size, 1, pointwise_gradient, threads);
}
}
