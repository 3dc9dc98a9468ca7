// Products of rows with a model's packed weights, plain or quantised.
#pragma once

#include <cstdlib>

#include "quantized.h"

namespace tandem {

enum class Use { PANEL, ROWS };

// This thread's memory for a use: at least `count` words, kept until the next call.
template <Use>
inline int32_t* scratch(int64_t count) {
    static thread_local int32_t* words = nullptr;
    static thread_local int64_t size = 0;
    if (count > size) {
        free(words);
        size = round_up(count, 16);
        words = (int32_t*)aligned_alloc(64, size * sizeof(int32_t));
    }
    return words;
}

// A packed weight [n, k], `depth` words of k, with a bias [n] or null. What pads n is 0.
struct Linear {
    const int32_t* panels;
    const float* bias;
    int64_t n;
    int64_t depth;
    int64_t bits;  // of a quantised weight; 0: plain, of T

    int64_t num_panels() const { return ceil_div(n, WIDTH); }

    // As it is stored.
    template <class T>
    const int32_t* panel(int64_t i) const {
        const int64_t k = depth * PER_WORD<T>;
        return panels + i * (bits == 4   ? quantized_words<4>(k)
                             : bits == 8 ? quantized_words<8>(k)
                                         : depth * WIDTH);
    }

    // Words of F along k.
    template <class T, class F>
    int64_t depth_of() const {
        return depth * PER_WORD<T> / PER_WORD<F>;
    }

    // As multiply_tile takes it of F. Unless it is as it is stored, it is in this thread's memory
    // until the next one is.
    template <class T, class F>
    const int32_t* factors(int64_t i) const {
        const int32_t* const from = panel<T>(i);
        if (!bits && sizeof(F) == sizeof(T)) return from;
        const int64_t factors_depth = depth_of<T, F>();
        int32_t* const to = scratch<Use::PANEL>((factors_depth + CODES_PER_WORD<4>) * WIDTH);
        if (bits)
            bits == 4 ? unpack<F, 4>(to, from, factors_depth) : unpack<F, 8>(to, from, factors_depth);
        else
            widen(to, from);
        return to;
    }

    // sums = row . panels i and i + 1: the chain of sums of a row alone takes longer than reading its
    // panel, and two chains as long as one. Of a row alone plain panels are never widened.
    template <class T, class F>
    void multiply_pair(Sums (&sums)[2], const int32_t* row, int64_t i) const {
        const int32_t* const pair = panel<T>(i);
        if (bits == 4) return multiply_row<F, 4>(sums, row, pair, depth_of<T, F>());
        if (bits == 8) return multiply_row<F, 8>(sums, row, pair, depth_of<T, F>());
        Sums tile[2][1] = {};
        multiply_tile<T>(tile, row, 0, pair, depth * WIDTH, depth, pair + 2 * depth * WIDTH);
        sums[0] = tile[0][0];
        sums[1] = tile[1][0];
    }

    // put(row, first output, sums) for panel i.
    template <class Put>
    void finish(int64_t row, int64_t i, Sums sums, const Put& put) const {
        if (bias) {
            sums.left += load<Floats>(bias + i * WIDTH);
            sums.right += load<Floats>(bias + i * WIDTH + LANES);
        }
        put(row, i * WIDTH, sums);
    }

   private:
    // Words of two bfloat16: of a panel's line the first items, and then the second ones.
    void widen(int32_t* to, const int32_t* from) const {
        for (int64_t i = 0; i < depth * WIDTH; i += LANES) {
            const Words words = load<Words>(from + i);
            int32_t* const line = to + i / WIDTH * 2 * WIDTH + i % WIDTH;
            store(line, low_half(words));
            store(line + WIDTH, high_half(words));
        }
    }
};

// Rows of `depth` floats.
inline const int32_t* widened(const bfloat16* rows, int64_t stride, int64_t num_rows, int64_t depth) {
    float* const to = (float*)scratch<Use::ROWS>(num_rows * depth);
    for (int64_t row = 0; row < num_rows; row++) {
        int64_t k = 0;
        for (; k + LANES <= depth; k += LANES)
            store(to + row * depth + k, load_floats(rows + row * stride + k));
        for (; k < depth; k++) to[row * depth + k] = to_float(rows[row * stride + k]);
    }
    return (const int32_t*)to;
}

// `multiply` by factors of F, with `stride` of their words from row to row.
template <class T, class F, class Put>
inline void multiply_factors(
    const Linear& linear, const int32_t* rows, int64_t stride, int64_t num_rows, int64_t first,
    int64_t last, const Put& put
) {
    for (; num_rows == 1 && first + 1 < last; first += 2) {
        Sums sums[2];
        linear.multiply_pair<T, F>(sums, rows, first);
        linear.finish(0, first, sums[0], put);
        linear.finish(0, first + 1, sums[1], put);
    }
    const int64_t depth = linear.depth_of<T, F>();
    for (int64_t i = first; i < last; i++) {
        const int32_t* panel = linear.factors<T, F>(i);
        const int32_t* next = linear.panel<T>(i + 1 < last ? i + 1 : i);
        each_tile<F>(num_rows, [&](int64_t row, auto count) {
            constexpr int ROWS = decltype(count)::value;
            Sums sums[1][ROWS] = {};
            // The first tiles fetch the next panel, half of it each.
            const int32_t* ahead = next + (row ? linear.depth * LANES : 0);
            multiply_tile<F>(sums, rows + row * stride, stride, panel, 0, depth, ahead);
            for (int r = 0; r < ROWS; r++) linear.finish(row + r, i, sums[0][r], put);
        });
    }
}

// Hands out panels [first, last) for `num_rows` rows, by put(row, first output, sums). `stride` is
// the items from row to row. All rows of a panel come before the next panel's.
template <class T, class Put>
inline void multiply(
    const Linear& linear, const T* rows, int64_t stride, int64_t num_rows, int64_t first,
    int64_t last, const Put& put
) {
    using F = Factor<T>;
    if constexpr (sizeof(F) != sizeof(T)) {
        // For few rows plain weights are widened in the product, in no memory: the same numbers,
        // summed in the same order. What is unpacked is unpacked to F at once.
        if (linear.bits || num_rows > MAX_ROWS<T>) {
            const int64_t depth = linear.depth_of<T, F>();
            const int32_t* wide = widened(rows, stride, num_rows, depth);
            multiply_factors<T, F>(linear, wide, depth, num_rows, first, last, put);
            return;
        }
    }
    multiply_factors<T, T>(
        linear, (const int32_t*)rows, stride / PER_WORD<T>, num_rows, first, last, put
    );
}

}  // namespace tandem
