// Products of rows with a model's packed weights, plain or quantised.
#pragma once

#include <cstdlib>

#include "quantized.h"

namespace tandem {

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

    // As multiply_tile takes it: a quantised panel is in this thread's memory until the next is.
    template <class T>
    const int32_t* plain_panel(int64_t i) const {
        if (!bits) return panel<T>(i);
        int32_t* const to = scratch((depth + CODES_PER_WORD<4>) * WIDTH);
        bits == 4 ? unpack<T, 4>(to, panel<T>(i), depth) : unpack<T, 8>(to, panel<T>(i), depth);
        return to;
    }

    // sums = row . panels i and i + 1, quantised.
    template <class T>
    void multiply_pair(Sums (&sums)[2], const int32_t* row, int64_t i) const {
        bits == 4 ? multiply_row<T, 4>(sums, row, panel<T>(i), depth)
                  : multiply_row<T, 8>(sums, row, panel<T>(i), depth);
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
    static int32_t* scratch(int64_t count) {
        static thread_local int32_t* words = nullptr;
        static thread_local int64_t size = 0;
        if (count > size) {
            free(words);
            size = round_up(count, 16);
            words = (int32_t*)aligned_alloc(64, size * sizeof(int32_t));
        }
        return words;
    }
};

// Hands out panels [first, last) for `num_rows` rows, by put(row, first output, sums). `stride` is
// the items from row to row. All rows of a panel come before the next panel's.
template <class T, class Put>
inline void multiply(
    const Linear& linear, const T* rows, int64_t stride, int64_t num_rows, int64_t first,
    int64_t last, const Put& put
) {
    const int32_t* words = (const int32_t*)rows;
    const int64_t word_stride = stride / PER_WORD<T>;
    int64_t i = first;
    for (; linear.bits && num_rows == 1 && i + 1 < last; i += 2) {
        Sums sums[2];
        linear.multiply_pair<T>(sums, words, i);
        linear.finish(0, i, sums[0], put);
        linear.finish(0, i + 1, sums[1], put);
    }
    for (; i < last; i++) {
        const int32_t* panel = linear.plain_panel<T>(i);
        const int32_t* next = linear.panel<T>(i + 1 < last ? i + 1 : i);
        each_tile<T>(num_rows, [&](int64_t row, auto count) {
            constexpr int ROWS = decltype(count)::value;
            Sums sums[1][ROWS] = {};
            // The first tiles fetch the next panel, half of it each.
            const int32_t* ahead = next + (row ? linear.depth * LANES : 0);
            multiply_tile<T>(
                sums, words + row * word_stride, word_stride, panel, 0, linear.depth, ahead
            );
            for (int r = 0; r < ROWS; r++) linear.finish(row + r, i, sums[0][r], put);
        });
    }
}

}  // namespace tandem
