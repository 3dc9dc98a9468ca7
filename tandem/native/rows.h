// What happens to each row (token) by itself, between the products.
#pragma once

#include <cmath>
#include <limits>

#include "matmul.h"

namespace tandem {

// Rows of n items take as many as whole panels have; what pads them is 0.
constexpr int64_t padded(int64_t n) { return round_up(n, WIDTH); }

// to = from / rms(from) * weight, over n items of a padded row.
template <class T>
inline void rms_norm(T* to, const float* from, const float* weight, int64_t n, float eps) {
    Floats squares = {};
    for (int64_t i = 0; i < padded(n); i += LANES) {
        const Floats x = load_floats(from + i);
        squares = fma(x, x, squares);
    }
    const Floats scale = splat(1.0f / std::sqrt(total(squares) / float(n) + eps));
    for (int64_t i = 0; i < padded(n); i += LANES)
        store_floats(to + i, load_floats(from + i) * scale * load_floats(weight + i));
}

// A head's norm, in place. Its length need not be padded.
inline void head_norm(float* x, const float* weight, int64_t n, float eps) {
    float squares = 0;
    int64_t i = 0;
    if (n >= LANES) {
        Floats sums = {};
        for (; i + LANES <= n; i += LANES) sums = fma(load_floats(x + i), load_floats(x + i), sums);
        squares = total(sums);
    }
    for (; i < n; i++) squares += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(squares / float(n) + eps);
    for (i = 0; i < n; i++) x[i] = x[i] * scale * weight[i];
}

// to = from, rotated: halves of the head by the angles of its position. Two roundings, never a
// fused multiply-add: the same bits in vector loops and in their ends.
inline void rotate(float* to, const float* from, const float* cosines, const float* sines, int64_t n) {
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) {
        const float x = from[i], y = from[half + i];
        to[i] = x * cosines[i] + y * -sines[i];
        to[half + i] = y * cosines[i] + x * sines[i];
    }
}

template <class T>
inline void round_row(T* to, const float* from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store_floats(to + i, load_floats(from + i));
    for (; i < n; i++) round_to(to[i], from[i]);
}

// As bytes, and behind them what one of them counts, so that the largest is 127. No number makes
// that no number.
inline void round_row(int8_t* to, const float* from, int64_t n) {
    float largest = 0, nothing = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = std::fabs(from[i]) > largest ? std::fabs(from[i]) : largest;
        nothing += from[i] * 0.0f;
    }
    const float scale = largest / 127.0f + nothing;
    memcpy(to + n, &scale, sizeof scale);
    if (!(scale >= std::numeric_limits<float>::min())) {
        memset(to, 0, n);
        return;
    }
    const float inverse = 1.0f / scale;
    for (int64_t i = 0; i < n; i++) to[i] = int8_t(std::nearbyint(from[i] * inverse));
}

// Whether all items of a rounded row are numbers.
template <class T>
inline bool is_of_numbers(const T* row, int64_t n) {
    Floats sums = {};
    float nothing = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sums = sums + load_floats(row + i) * 0.0f;
    for (; i < n; i++) nothing += to_float(row[i]) * 0.0f;
    return total(sums) + nothing == 0;
}

inline bool is_of_numbers(const int8_t* row, int64_t n) {
    float scale;
    memcpy(&scale, row + n, sizeof scale);
    return scale == scale;
}

inline void widen_row(float* to, const bfloat16* from, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = uint32_t(from[i].bits) << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

template <class T>
inline void widen_row(T* to, const T* from, int64_t n) {
    memcpy(to, from, n * sizeof(T));
}

// gate * sigmoid(gate) * up.
template <class T>
inline Floats silu_mul(Floats gate, Floats up) {
    const Floats exponent = gate * -1.44269504f;
    const Floats limit = splat(125.0f);
    return gate / (exp2<T>(exponent < limit ? exponent : limit) + 1.0f) * up;
}

}  // namespace tandem
