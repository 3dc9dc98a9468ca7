// Weights of 4 or 8 bits. Neighbours along k form groups, which share a scale and an offset: a weight
// is code * scale + offset, rounded to the factors of products (`Factor`), here T. A product with such
// weights has the bits of the product with what they are rounded to, so all that holds for plain
// panels holds for them.
//
// A panel has for each group WIDTH words with an output's scale and offset, two bfloat16, and then
// its codes: a word holds neighbours along k of one output, the first in the lowest bits.
#pragma once

#include "matmul.h"

namespace tandem {

constexpr int64_t GROUP = 32;
template <int BITS>
constexpr int64_t CODES_PER_WORD = 32 / BITS;

// The words of a panel of k weights.
template <int BITS>
constexpr int64_t quantized_words(int64_t k) {
    return (ceil_div(k, GROUP) + ceil_div(k, CODES_PER_WORD<BITS>)) * WIDTH;
}

// Of LANES outputs, in one group.
struct Scales {
    Floats scale, offset;

    explicit Scales(const int32_t* from) {
        const Words words = load<Words>(from);
        scale = low_half(words);
        offset = high_half(words);
    }

    // One word of T for each output: the weights from the code at `place` on.
    template <class T, int BITS>
    Words weights(Words codes, int place) const {
        if constexpr (PER_WORD<T> == 1) return (Words)weight<BITS>(codes, place);
        return to_pairs(weight<BITS>(codes, place), weight<BITS>(codes, place + 1));
    }

    template <int BITS>
    Floats weight(Words codes, int place) const {
        const Words code = (codes >> place * BITS) & ((1 << BITS) - 1);
        return fma(__builtin_convertvector(code, Floats), scale, offset);
    }
};

// The panel as a plain one of `depth` words, and what fills its last word of codes.
template <class T, int BITS>
inline void unpack(int32_t* to, const int32_t* panel, int64_t depth) {
    constexpr int64_t GROUP_WORDS = GROUP / PER_WORD<T>;
    for (int64_t start = 0; start < depth; start += GROUP_WORDS) {
        const int64_t end = least(depth, start + GROUP_WORDS);
        const Scales left(panel), right(panel + LANES);
        panel += WIDTH;
        for (int64_t k = start; k < end; panel += WIDTH) {
            const Words left_codes = load<Words>(panel), right_codes = load<Words>(panel + LANES);
#pragma GCC unroll 8
            for (int place = 0; place < CODES_PER_WORD<BITS>; place += PER_WORD<T>, k++) {
                store(to + k * WIDTH, left.weights<T, BITS>(left_codes, place));
                store(to + k * WIDTH + LANES, right.weights<T, BITS>(right_codes, place));
            }
        }
    }
}

// sums += row . panel, over `depth` words, for a row alone: it takes the weights as they are unpacked,
// and two neighbouring panels at a time, since the one chain of sums of each takes longer than that.
template <class T, int BITS>
inline void multiply_row(Sums (&sums)[2], const int32_t* row, const int32_t* panel, int64_t depth) {
    constexpr int64_t GROUP_WORDS = GROUP / PER_WORD<T>;
    const int64_t next = quantized_words<BITS>(depth * PER_WORD<T>);
    const int64_t starts[4] = {0, LANES, next, next + LANES};
    Floats chains[4] = {};
    for (int64_t start = 0; start < depth; start += GROUP_WORDS) {
        const int64_t end = least(depth, start + GROUP_WORDS);
        const Scales scales[4] = {
            Scales(panel), Scales(panel + LANES), Scales(panel + next), Scales(panel + next + LANES)
        };
        panel += WIDTH;
        for (int64_t k = start; k < end; panel += WIDTH) {
            Words codes[4];
            for (int i = 0; i < 4; i++) codes[i] = load<Words>(panel + starts[i]);
#pragma GCC unroll 8
            for (int place = 0; place < CODES_PER_WORD<BITS> && k < end; place += PER_WORD<T>, k++) {
                const Words item = splat_word(row + k);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    chains[i] =
                        dot<T>(chains[i], item, scales[i].template weights<T, BITS>(codes[i], place));
            }
        }
    }
    sums[0] = {chains[0], chains[1]};
    sums[1] = {chains[2], chains[3]};
}

// How an output's weights in a group are written down.
struct Grid {
    bfloat16 scale, offset;

    // From the least weight to the largest, in even steps.
    template <class T>
    static Grid over(const T* weights, int64_t count, int num_steps) {
        float low = to_float(weights[0]), high = low;
        for (int64_t i = 1; i < count; i++) {
            const float weight = to_float(weights[i]);
            low = weight < low ? weight : low;
            high = weight > high ? weight : high;
        }
        Grid grid;
        round_to(grid.offset, low);
        round_to(grid.scale, (high - to_float(grid.offset)) / num_steps);
        return grid;
    }

    int32_t word() const { return int32_t(uint32_t(scale.bits) | uint32_t(offset.bits) << 16); }

    // The nearest.
    uint32_t code(float weight, int num_steps) const {
        const float step = to_float(scale);
        const float code = step > 0 ? (weight - to_float(offset)) / step + 0.5f : 0;
        return uint32_t(code > 0 ? code < num_steps ? code : num_steps : 0);
    }
};

// Row-major weights [n, k] as quantised panels. What pads n is 0.
template <class T, int BITS>
void quantize(int32_t* to, const T* from, int64_t n, int64_t k) {
    constexpr int NUM_STEPS = (1 << BITS) - 1;
    const int64_t panel_words = quantized_words<BITS>(k);
    memset(to, 0, ceil_div(n, WIDTH) * panel_words * sizeof(int32_t));
    for (int64_t output = 0; output < n; output++) {
        int32_t* column = to + output / WIDTH * panel_words + output % WIDTH;
        const T* row = from + output * k;
        for (int64_t start = 0; start < k; start += GROUP) {
            const int64_t count = least(GROUP, k - start);
            const Grid grid = Grid::over(row + start, count, NUM_STEPS);
            *column = grid.word();
            for (int64_t i = 0; i < count; i++) {
                const int64_t place = i % CODES_PER_WORD<BITS>;
                if (place == 0) column += WIDTH;
                const uint32_t code = grid.code(to_float(row[start + i]), NUM_STEPS);
                *column = int32_t(uint32_t(*column) | code << place * BITS);
            }
            column += WIDTH;
        }
    }
}

}  // namespace tandem
