// Products of rows with a model's packed weights, plain or quantised.
#pragma once

#include "amx.h"
#include "memory.h"
#include "quantized.h"
#include "rows.h"

namespace tandem {

enum class Use { PANEL, ROWS };

// This thread's memory for a use: at least `count` words, kept until the next call.
template <Use>
inline int32_t* scratch(int64_t count) {
    static thread_local Memory memory;
    return (int32_t*)memory.at_least(count * sizeof(int32_t));
}

// A packed weight [n, k], `depth` words of k, with a bias [n] or null. What pads n is 0.
struct Linear {
    const int32_t* panels;
    const float* bias;
    int64_t n;
    int64_t depth;
    int64_t bits;  // of a quantised weight; 0: plain, of T
    int64_t by_tiles;  // whether it is multiplied by AMX's (`amx.h`): plain bfloat16

    int64_t num_panels() const { return ceil_div(n, WIDTH); }

    template <class T>
    int64_t k() const {
        return depth * PER_WORD<T>;
    }

    // As it is stored.
    template <class T>
    const int32_t* panel(int64_t i) const {
        const int64_t groups = num_groups(k<T>());
        return panels + i * (bits == 4   ? groups * GROUP_WORDS<4>
                             : bits == 8 ? groups * GROUP_WORDS<8>
                                         : depth * WIDTH);
    }

    // A plain panel as multiply_tile takes it of F. Unless it is as it is stored, it is in this
    // thread's memory until the next one is.
    template <class T, class F>
    const int32_t* factors(int64_t i) const {
        const int32_t* const from = panel<T>(i);
        if constexpr (sizeof(F) == sizeof(T)) return from;
        // Words of two bfloat16: of a panel's line the first items, and then the second ones.
        int32_t* const to = scratch<Use::PANEL>(2 * depth * WIDTH);
        for (int64_t i = 0; i < depth * WIDTH; i += LANES) {
            const Words words = load<Words>(from + i);
            int32_t* const line = to + i / WIDTH * 2 * WIDTH + i % WIDTH;
            store(line, low_half(words));
            store(line + WIDTH, high_half(words));
        }
        return to;
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
};

// As many rows' activations as the level-2 cache holds beside a panel.
constexpr int64_t BLOCK_ROWS = 112;

// For up to so many rows nothing is fetched ahead (but for a row alone by pairs, below), and for up to
// so many a stream (`STREAM_WORDS`); for more, which take a panel from the cache several times, the
// next panel. As measured.
constexpr int UNAIDED_ROWS = LANES == 16 ? 4 : 1;
template <class T>
constexpr int STREAMED_ROWS = LANES == 16 ? 16 : MAX_ROWS<T>;

// Whether the chain of sums of a row alone takes longer than reading its panel, and two chains as long
// as one.
constexpr bool BY_PAIRS = LANES < 16;

// Rows of T, `stride` items apart, as products with a weight take them: as they are, widened, or
// rounded. For few rows plain weights are widened in the product, and so are the rows: the same
// numbers, summed in the same order.
template <class T>
class Operand {
   public:
    // Before a product `convert` is to be called for all rows, on whatever threads. What it makes is
    // in the memory of the thread that is here, until the next operand is.
    Operand(const Linear& linear, const T* rows, int64_t stride, int64_t num_rows)
        : linear(linear), k(linear.k<T>()), rows(rows), stride(stride), num_rows(num_rows) {
        is_wide = !linear.bits && sizeof(Factor<T>) != sizeof(T) && num_rows > MAX_ROWS<T>;
        if (linear.bits)
            made = scratch<Use::ROWS>(num_rows * num_groups(k) * sizeof(Items) / sizeof(int32_t));
        else if (is_wide)
            made = scratch<Use::ROWS>(num_rows * k);
    }

    void convert(int64_t first, int64_t last) const {
        for (int64_t row = first; row < last; row++) {
            const T* const from = rows + row * stride;
            if (linear.bits)
                for (int64_t start = 0; start < k; start += GROUP)
                    round_group(groups(row)[start / GROUP], from + start, least(GROUP, k - start));
            else if (is_wide)
                widen_row((float*)made + row * k, from, k);
        }
    }

    // put(row, first output, sums) for panels [first, last) of the weight. By blocks of BLOCK_ROWS
    // rows, of which a panel's all come before the next panel's.
    template <class Put>
    void multiply(int64_t first, int64_t last, const Put& put) const {
        for (int64_t start = 0; start < num_rows; start += BLOCK_ROWS) {
            const int64_t count = least(BLOCK_ROWS, num_rows - start);
            if (linear.bits == 4)
                by_groups<4>(start, count, first, last, put);
            else if (linear.bits == 8)
                by_groups<8>(start, count, first, last, put);
            else if (is_wide)
                by_words<Factor<T>>(made, k, start, count, first, last, put);
            else if (HAS_TILES<T> && linear.by_tiles)
                by_tiles(start, count, first, last, put);
            else
                by_words<T>(
                    (const int32_t*)rows, stride / PER_WORD<T>, start, count, first, last, put
                );
        }
    }

   private:
    const Linear& linear;
    int64_t k;
    const T* rows;
    int64_t stride;
    int64_t num_rows;
    bool is_wide;
    int32_t* made = nullptr;

    Items* groups(int64_t row) const { return (Items*)made + row * num_groups(k); }

    template <int BITS, class Put>
    void by_groups(int64_t start, int64_t count, int64_t first, int64_t last, const Put& put) const {
        for (int64_t i = first; i < last; i++)
            each_tile<MAX_ITEM_ROWS<BITS>>(count, [&](int64_t row, auto num_rows) {
                Sums sums[decltype(num_rows)::value];
                multiply_groups<BITS>(sums, groups(start + row), linear.panel<T>(i), num_groups(k));
                for (int r = 0; r < num_rows; r++) linear.finish(start + row + r, i, sums[r], put);
            });
    }

    template <class Put>
    void by_tiles(int64_t start, int64_t count, int64_t first, int64_t last, const Put& put) const {
#if TANDEM_HAS_AMX
        if constexpr (std::is_same_v<T, bfloat16>)
            multiply_by_tiles(
                TileRows{(const int32_t*)(rows + start * stride), stride / PER_WORD<T>}, count,
                linear.depth, first, last, [&](int64_t i) { return linear.panel<T>(i); },
                [&](int64_t row, int64_t i, const Sums& sums) {
                    linear.finish(start + row, i, sums, put);
                }
            );
#endif
    }

    // By factors of F, from rows with `step` words from one to the next.
    template <class F, class Put>
    void by_words(
        const int32_t* from, int64_t step, int64_t start, int64_t count, int64_t first, int64_t last,
        const Put& put
    ) const {
        constexpr bool IS_STORED = sizeof(F) == sizeof(T);
        const int64_t size = linear.depth * WIDTH, depth = k / PER_WORD<F>;
        from += start * step;
        if constexpr (IS_STORED && BY_PAIRS)
            for (; count == 1 && first + 1 < last; first += 2) {
                Sums sums[2][1];
                const int32_t* const pair = linear.panel<T>(first);
                const FetchAhead<2 * WIDTH, Level::SECOND> ahead{pair + 2 * size};
                multiply_tile<T, From::ZERO>(sums, from, 0, pair, size, depth, ahead);
                linear.finish(start, first, sums[0][0], put);
                linear.finish(start, first + 1, sums[1][0], put);
            }
        for (int64_t i = first; i < last; i++) {
            const int32_t* const panel = linear.factors<T, F>(i);
            const auto multiply = [&](int64_t row, auto num_rows, auto ahead) {
                Sums sums[1][decltype(num_rows)::value];
                multiply_tile<F, From::ZERO>(sums, from + row * step, step, panel, 0, depth, ahead);
                for (int r = 0; r < num_rows; r++) linear.finish(start + row + r, i, sums[0][r], put);
            };
            if (IS_STORED && count <= UNAIDED_ROWS) {
                each_tile<UNAIDED_ROWS>(count, [&](int64_t row, auto num_rows) {
                    multiply(row, num_rows, FetchNothing{});
                });
            } else if (IS_STORED && count <= STREAMED_ROWS<F>) {
                const FetchAhead<WIDTH, Level::SECOND> ahead{panel + STREAM_WORDS};
                each_tile<MAX_ROWS<F>, UNAIDED_ROWS + 1>(count, [&](int64_t row, auto num_rows) {
                    multiply(row, num_rows, ahead);
                });
            } else {
                // The first tiles fetch the next panel, half of it each.
                const int32_t* const next = linear.panel<T>(i + 1 < last ? i + 1 : i);
                // More rows than are streamed are two tiles or more, as even as possible; of wide
                // ones a block's last may be few.
                static_assert(STREAMED_ROWS<F> < 2 * MAX_ROWS<F>);
                constexpr int LEAST = IS_STORED ? (STREAMED_ROWS<F> + 1) / 2 : 1;
                each_tile<MAX_ROWS<F>, LEAST>(count, [&](int64_t row, auto num_rows) {
                    const int64_t half = row ? linear.depth * LANES : 0;
                    multiply(row, num_rows, FetchAhead<LANES, Level::FIRST>{next + half});
                });
            }
        }
    }
};

}  // namespace tandem
