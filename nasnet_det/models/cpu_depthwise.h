// The depthwise convolution of cpu_kernels.cpp.
#pragma once
#include "cpu_vectors.h"

namespace {

// Up to `span` channels of an image among zeros: pixel (y, x) is at (top + y * step_y, left + x * step_x). Pixels begin
// where whole vectors do, of which a load across two lines of the cache takes two.
template <int L>
class Plane {
  public:
    Plane(long rows, long columns, long span, long top, long left, long step_y, long step_x)
        : channels(vectors<L>(span) * L), columns(columns), step_x(step_x * channels),
          step_y(step_y * columns * channels), memory(rows * columns * channels), origin(at(top, left)) {
        std::fill_n(memory.data(), rows * columns * channels, 0.0f);
    }
    float* at(long y, long x) { return memory.data() + (y * columns + x) * channels; }
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

    // Take an image of `all` channels, scaled, shifted and with ReLU.
    void activate(const float* image, long height, long width, long all, Affine affine) {
        for (long y = 0; y < height; ++y)
            for (long x = 0; x < width; ++x)
                activate_pixel<L>(image + (y * width + x) * all, all, affine, pixel(y, x));
    }

  private:
    Scratch memory;
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
// pixel of that plane is 0 or less; where `scale` is, each pixel is multiplied by its own; where `other` is, the same
// channels of another image, from there on, are added.
template <int L>
struct Target {
    float* first;
    long height, width, size;
    Plane<L>* mask;
    const float *scale, *other;
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
                const long place = (y * to.width + x) * g.channels + at;
                if (to.other)
                    for (int t = 0; t < NUMBER; ++t) sums[t] += load<L>(to.other + place + t * g.channels);
                float* result = to.first + place;
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
    for (long at = 0; at < size; at += L) {
        const long members = std::min<long>(L, size - at);
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
                for (long lane = 0; lane < members; ++lane)
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
    // is that of the last call. Where `other` is given, it is added to the gradient by x.
    virtual void backward(const float* x, const float* scale, const float* gradient, const float* other,
                          float* x_gradient, float* weight_gradient) = 0;
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
                                  {y + c, g.out_height, g.out_width, size, nullptr, scale, nullptr});
        }
    }

    void backward(const float* x, const float* scale, const float* gradient, const float* other, float* x_gradient,
                  float* weight_gradient) override {
        for (long b = 0; b * span < g.channels; ++b) {
            const long c = first(b), size = std::min(span, g.channels - c);
            if (x) read(x, c, size);
            outer.read(gradient + c, g.out_height, g.out_width, g.channels, size, false, scale);
            if (x_gradient)
                correlate<L, COLUMNS>(outer, outer.at(g.top, g.left), turned.data() + c, g, 1, 1,
                                      {x_gradient + c, g.height, g.width, size, g.relu ? &input : nullptr, nullptr,
                                       other ? other + c : nullptr});
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
            input.activate(x, g.height, g.width, g.channels, before);
        else
            input.read(x + c, g.height, g.width, g.channels, size, g.relu, nullptr);
    }

    const Geometry& g;
    const Affine before;
    const long area, height, width, span;  // the sides are of the padded input
    Plane<L> input, outer;
    Scratch kernels, turned;
};

template <int L>
std::unique_ptr<Images> depthwise_of(const Geometry& g, const float* weight, bool backward, bool whole,
                                     Affine before) {
    if (g.columns == 3) return std::make_unique<Depthwise<L, 3>>(g, weight, backward, whole, before);
    if (g.columns == 5) return std::make_unique<Depthwise<L, 5>>(g, weight, backward, whole, before);
    return std::make_unique<Depthwise<L, 7>>(g, weight, backward, whole, before);
}

// The depthwise convolution with these kernels; null where they are null.
std::unique_ptr<Images> depthwise_images(const Geometry& g, const float* weight, bool backward, bool whole,
                                     Affine before) {
    if (!weight) return nullptr;
    return g.channels < kLanes ? depthwise_of<8>(g, weight, backward, whole, before)
                               : depthwise_of<kLanes>(g, weight, backward, whole, before);
}

}  // namespace
