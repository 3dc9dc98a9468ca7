// Weights of 4 or 8 bits, and their products with rows of 8.
//
// Neighbours along k form groups. Those of a weight share a scale and an offset: each counts code *
// scale + offset. Those of a row share a scale: its items are integers up to 127. So what a group adds
// to a product is a sum of integers, exact in whatever order; only these sums are floats, in one chain
// along k. The bits of an output depend on its own row alone, as those of plain products do
// (`matmul.h`).
//
// A panel has for each group WIDTH words with an output's scale and offset, two bfloat16, and then
// its codes, by quads of neighbours along k. A word holds one quad of an output in its bytes, or two:
// the first one in their low halves.
#pragma once

#include <limits>
#include <type_traits>

#include "matmul.h"

namespace tandem {

constexpr int64_t GROUP = 32;
constexpr int QUADS = GROUP / 4;
template <int BITS>
constexpr int64_t GROUP_WORDS = (1 + QUADS * BITS / 8) * WIDTH;

constexpr int64_t num_groups(int64_t k) { return ceil_div(k, GROUP); }

// A group of a row. What pads it is 0.
struct Items {
    int32_t quads[QUADS];
    float scale;
    float sum;  // of the items, times their scale
};

// Rounds up to GROUP neighbours of a row.
template <class T>
inline void round_group(Items& to, const T* from, int64_t count) {
    T padded[GROUP] = {};
    if (count < GROUP) from = (const T*)memcpy(padded, from, count * sizeof(T));
    constexpr int PARTS = GROUP / LANES;
    Floats parts[PARTS];
    // Without their signs floats are ordered as their bits are, and what is no number comes last.
    Words sizes = {};
    for (int i = 0; i < PARTS; i++) {
        parts[i] = load_floats(from + i * LANES);
        const Words size = (Words)parts[i] & 0x7fffffff;
        sizes = size > sizes ? size : sizes;
    }
    const int32_t bits = highest(sizes);
    float largest;
    memcpy(&largest, &bits, sizeof bits);
    to = {};
    // No number makes that no number.
    to.scale = largest <= std::numeric_limits<float>::max()
                   ? largest / 127.0f
                   : std::numeric_limits<float>::quiet_NaN();
    if (!(to.scale >= std::numeric_limits<float>::min())) return;
    const Floats inverse = splat(1.0f / to.scale);
    Words items[PARTS], sum = {};
    for (int i = 0; i < PARTS; i++) {
        items[i] = nearest(parts[i] * inverse);
        sum += items[i];
    }
    store_bytes(to.quads, items);
    to.sum = to.scale * float(total(sum));
}

// Sums of integers' products while a group lasts, of LANES outputs. Codes count from ZERO on.
#if defined(__AVX512VNNI__)
template <int BITS>
using Counts = Words;
template <int BITS>
constexpr int ZERO = 0;
#else
// A half of a word counts 16 products of at most 15 * 127.
template <int BITS>
using Counts = std::conditional_t<BITS == 4, Halves, Words>;
template <int BITS>
constexpr int ZERO = BITS == 4 ? 0 : 128;

// The halves of each word, added up.
inline Words joined(Halves halves) {
#if defined(__AVX2__)
    return (Words)_mm256_madd_epi16((__m256i)halves, _mm256_set1_epi16(1));
#else
    return ((Words)halves << 16 >> 16) + ((Words)halves >> 16);
#endif
}

// The products of bytes, codes and items, added up by pairs.
template <int BITS>
inline Halves pairs(Words codes, Words items) {
#if defined(__AVX2__)
    // The first factor has no sign.
    if constexpr (BITS == 4) return (Halves)_mm256_maddubs_epi16((__m256i)codes, (__m256i)items);
    const __m256i signed_items = _mm256_sign_epi8((__m256i)items, (__m256i)codes);
    return (Halves)_mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)codes), signed_items);
#else
    const Halves low = ((Halves)codes << 8 >> 8) * ((Halves)items << 8 >> 8);
    return low + ((Halves)codes >> 8) * ((Halves)items >> 8);
#endif
}
#endif

// counts + codes * items, over the bytes of each word.
template <int BITS>
inline Counts<BITS> count(Counts<BITS> counts, Words codes, Words items) {
#if defined(__AVX512VNNI__)
    return (Words)_mm512_dpbusd_epi32((__m512i)counts, (__m512i)codes, (__m512i)items);
#else
    const Halves more = pairs<BITS>(codes, items);
    if constexpr (BITS == 4) return counts + more;
    if constexpr (BITS == 8) return counts + joined(more);
#endif
}

inline Floats counted(Words counts) { return __builtin_convertvector(counts, Floats); }

#if !defined(__AVX512VNNI__)
inline Floats counted(Halves counts) { return counted(joined(counts)); }
#endif

// A quad of LANES outputs: the first or the second of its words.
template <int BITS>
inline Words codes(const int32_t* words, int place) {
    const Words all = load<Words>(words);
    if constexpr (BITS == 4) return all >> 4 * place & 0x0f0f0f0f;
    // 128 less, as bytes with a sign.
    return ZERO<BITS> ? all ^ int32_t(0x80808080) : all;
}

// What LANES outputs' codes count in a group.
template <int BITS>
struct Scales {
    Floats scale, offset;

    explicit Scales(const int32_t* from) {
        const Words words = load<Words>(from);
        scale = low_half(words);
        offset = high_half(words);
        if constexpr (ZERO<BITS> != 0) offset = fma(scale, splat(ZERO<BITS>), offset);
    }

    Floats add(Floats sum, Counts<BITS> counts, const Items& items) const {
        sum = fma(offset, splat(items.sum), sum);
        return fma(counted(counts), scale * splat(items.scale), sum);
    }
};

// As many rows as the registers hold counts for.
template <int BITS>
#if defined(__AVX512VNNI__)
constexpr int MAX_ITEM_ROWS = 8;
#else
constexpr int MAX_ITEM_ROWS = BITS == 4 ? 3 : 4;
#endif

// With a tile of up to so many rows nothing is fetched ahead (`STREAM_WORDS`).
template <int BITS>
constexpr int UNAIDED_ITEM_ROWS = LANES == 16 ? BITS / 2 : 1;

// sums[r] = row r . panel, over so many groups. Rows follow one another.
template <int BITS, int ROWS>
__attribute__((noinline)) void multiply_groups(
    Sums (&sums)[ROWS], const Items* rows, const int32_t* panel, int64_t groups
) {
    Sums local[ROWS] = {};
    for (int64_t group = 0; group < groups; group++, rows++, panel += GROUP_WORDS<BITS>) {
        if constexpr (ROWS > UNAIDED_ITEM_ROWS<BITS>)
            fetch<For::READING, Level::SECOND>(panel + STREAM_WORDS, GROUP_WORDS<BITS>);
        Counts<BITS> left[ROWS] = {}, right[ROWS] = {};
        // Unrolled, the compiler orders all these sums as a tree, for which there are no registers.
#pragma GCC unroll 1
        for (int line = 0; line < QUADS * BITS / 8; line++) {
            const int32_t* const words = panel + (1 + line) * WIDTH;
#pragma GCC unroll 2
            for (int place = 0; place < 8 / BITS; place++) {
                const Words left_codes = codes<BITS>(words, place);
                const Words right_codes = codes<BITS>(words + LANES, place);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) {
                    const Words items = splat_word(rows[r * groups].quads + line * (8 / BITS) + place);
                    left[r] = count<BITS>(left[r], left_codes, items);
                    right[r] = count<BITS>(right[r], right_codes, items);
                }
            }
        }
        const Scales<BITS> left_scales(panel), right_scales(panel + LANES);
        for (int r = 0; r < ROWS; r++) {
            local[r].left = left_scales.add(local[r].left, left[r], rows[r * groups]);
            local[r].right = right_scales.add(local[r].right, right[r], rows[r * groups]);
        }
    }
    memcpy(sums, local, sizeof sums);
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
    const int64_t panel_words = num_groups(k) * GROUP_WORDS<BITS>;
    memset(to, 0, ceil_div(n, WIDTH) * panel_words * sizeof(int32_t));
    for (int64_t output = 0; output < n; output++) {
        int32_t* column = to + output / WIDTH * panel_words + output % WIDTH;
        const T* row = from + output * k;
        for (int64_t start = 0; start < k; start += GROUP, column += GROUP_WORDS<BITS>) {
            const int64_t count = least(GROUP, k - start);
            const Grid grid = Grid::over(row + start, count, NUM_STEPS);
            *column = grid.word();
            for (int64_t i = 0; i < count; i++) {
                const int64_t quad = i / 4, half = BITS == 4 ? quad % 2 : 0;
                int32_t& word = column[(1 + quad * BITS / 8) * WIDTH];
                const uint32_t code = grid.code(to_float(row[start + i]), NUM_STEPS);
                word = int32_t(uint32_t(word) | code << (8 * (i % 4) + 4 * half));
            }
        }
    }
}

}  // namespace tandem
