// Products of row-major rows with packed matrices, by tiles.
//
// A matrix [n, k] is packed into panels of WIDTH outputs, [n / WIDTH][k / PER_WORD][WIDTH] words, so
// that a step along k reads whole vectors. Each output is one chain of sums along k, whatever is
// computed beside it: its bits depend on its own row alone.
#pragma once

#include <type_traits>

#include "simd.h"

namespace tandem {

constexpr int WIDTH = 2 * LANES;

// As many rows as the registers hold sums for.
#if defined(__AVX512BF16__)
template <class T>
constexpr int MAX_ROWS = 14;
#elif defined(__AVX2__)
template <class T>
constexpr int MAX_ROWS = sizeof(T) == 4 ? 6 : 4;
#else
template <class T>
constexpr int MAX_ROWS = 4;
#endif

// How many of their sums may be kept there by the loops before and after a product, too: with 16
// registers the compiler would keep the product's own in memory.
constexpr int ROWS_IN_REGISTERS = LANES == 16 ? 14 : 1;

// What many rows are multiplied by, and attention multiplies by. Without instructions for bfloat16
// its items are widened once, not in every product.
#if defined(__AVX512BF16__)
template <class T>
using Factor = T;
#else
template <class T>
using Factor = float;
#endif

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// A panel's words of one step along k.
struct Line {
    Words left, right;
};

// One row's outputs of one panel.
struct Sums {
    Floats left, right;
};

// By vectors: the compiler would copy what is not one by halves of one.
template <>
inline Sums load<Sums>(const void* from) {
    return {load<Floats>(from), load<Floats>((const float*)from + LANES)};
}

inline void store(void* to, const Sums& sums) {
    store(to, sums.left);
    store((float*)to + LANES, sums.right);
}

// sums[r] += row r . line, over one word of each row, `stride` words apart.
template <class T, int ROWS>
inline __attribute__((always_inline)) void multiply_line(
    Sums (&sums)[ROWS], const int32_t* rows, int64_t stride, Line line
) {
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; r++) {
        const Words item = splat_word(rows + r * stride);
        sums[r].left = dot<T>(sums[r].left, item, line.left);
        sums[r].right = dot<T>(sums[r].right, item, line.right);
    }
}

// Where sums of products begin.
enum class From { ZERO, SUMS };

// How far ahead of what is multiplied weights are fetched, to the second level of the cache, that come
// as a stream. All of their lines: of some alone a processor learns nothing, and fetches less by
// itself. Rows that are multiplied sooner than their weights come are best served by that alone: what
// is fetched besides then takes its place.
constexpr int64_t STREAM_WORDS = 2048;

// What is fetched while a tile is multiplied: with each word of the rows the next WORDS of what is
// wanted soon.
template <int WORDS, Level LEVEL>
struct FetchAhead {
    const int32_t* from;

    void operator()(int64_t k) const { fetch<For::READING, LEVEL>(from + k * WORDS, WORDS); }
};

struct FetchNothing {
    void operator()(int64_t) const {}
};

// sums[p][r] += row r . panel p, over `depth` words; from zero, whatever they were. `stride` is the
// words from row to row, `panel_stride` those from panel to panel; `ahead` is called with each word.
template <class T, From FROM, int PANELS, int ROWS, class Fetch>
inline __attribute__((always_inline)) void multiply_tile(
    Sums (&sums)[PANELS][ROWS], const int32_t* rows, int64_t stride, const int32_t* panels,
    int64_t panel_stride, int64_t depth, Fetch ahead
) {
    // A pointer for every third row; those between are reached by the stride.
    const int32_t* starts[(ROWS + 2) / 3];
    for (int r = 0; r < ROWS; r += 3) starts[r / 3] = rows + r * stride;
    Sums local[PANELS][ROWS];
    if constexpr (FROM == From::SUMS)
        memcpy(local, sums, sizeof sums);
    else
#pragma GCC unroll 2
        for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 14
            for (int r = 0; r < ROWS; r++) local[p][r] = {Floats{}, Floats{}};
#pragma GCC unroll 2
    for (int64_t k = 0; k < depth; k++) {
        ahead(k);
        if constexpr (PANELS == 1) {
            const Words left = load<Words>(panels + k * WIDTH);
            const Words right = load<Words>(panels + k * WIDTH + LANES);
#pragma GCC unroll 14
            for (int r = 0; r < ROWS; r++) {
                const Words item = splat_word(starts[r / 3] + (r % 3) * stride + k);
                local[0][r].left = dot<T>(local[0][r].left, item, left);
                local[0][r].right = dot<T>(local[0][r].right, item, right);
            }
        } else {
            // Here the rows are fewer than the panels' vectors, and they stay in registers.
            Words items[ROWS];
#pragma GCC unroll 14
            for (int r = 0; r < ROWS; r++)
                items[r] = splat_word(starts[r / 3] + (r % 3) * stride + k);
#pragma GCC unroll 2
            for (int p = 0; p < PANELS; p++) {
                const int32_t* line = panels + p * panel_stride + k * WIDTH;
                const Words left = load<Words>(line);
#pragma GCC unroll 14
                for (int r = 0; r < ROWS; r++)
                    local[p][r].left = dot<T>(local[p][r].left, items[r], left);
                const Words right = load<Words>(line + LANES);
#pragma GCC unroll 14
                for (int r = 0; r < ROWS; r++)
                    local[p][r].right = dot<T>(local[p][r].right, items[r], right);
            }
        }
    }
    memcpy(sums, local, sizeof sums);
}

// Calls tile(first row, number of rows as a constant) for tiles as even as possible, of at most MOST
// rows. None has fewer than LEAST: the code for such is not made.
template <int MOST, int LEAST = 1, class Tile>
inline void each_tile(int64_t num_rows, const Tile& tile) {
    const int64_t num_tiles = ceil_div(num_rows, MOST);
    for (int64_t i = 0; i < num_tiles; i++) {
        const int64_t first = num_rows * i / num_tiles, last = num_rows * (i + 1) / num_tiles;
        switch (last - first) {
#define TANDEM_ROWS(n)                                                    \
    case n:                                                               \
        if constexpr (LEAST <= n && n <= MOST) tile(first, std::integral_constant<int, n>{}); \
        break
            TANDEM_ROWS(1);
            TANDEM_ROWS(2);
            TANDEM_ROWS(3);
            TANDEM_ROWS(4);
            TANDEM_ROWS(5);
            TANDEM_ROWS(6);
            TANDEM_ROWS(7);
            TANDEM_ROWS(8);
            TANDEM_ROWS(9);
            TANDEM_ROWS(10);
            TANDEM_ROWS(11);
            TANDEM_ROWS(12);
            TANDEM_ROWS(13);
            TANDEM_ROWS(14);
#undef TANDEM_ROWS
        }
    }
}

}  // namespace tandem
