// Attention over the pages of the KV cache, for one query or many.
//
// Keys are taken in tiles that lie on a grid of positions, with an online softmax, and within ranges
// of RANGE positions, whose results are merged in order. So the order of all sums depends on
// positions alone, and a token's output has the same bits whether it is computed alone, with its
// whole prompt, with others, or by several threads. A key that is not seen counts as a 0, exactly.
//
// Queries that share a KV head are rows of one matrix, by query, then by head of the group. Many rows
// are multiplied as in matmul.h, by keys and values that are packed on the way; few, as in a decode
// step, by what is taken from the pages into registers, where packing would cost more than all else.
// Both ways each output is the same chain of sums. Where there are tiles (amx.h) all rows, few or
// many, are multiplied by those, and what is packed.
#pragma once

#include "amx.h"
#include "memory.h"
#include "packing.h"
#include "rows.h"

namespace tandem {

constexpr int64_t RANGE = 512;
constexpr int64_t QUERY_ROWS = 336;
// Those of a view of a tile at the most.
template <class F>
constexpr int VIEW_ROWS = HAS_TILES<F> ? TILE_ROWS : MAX_ROWS<F>;
// Less than any score, yet a number: what nothing has been seen of has no not-a-number either.
constexpr float LEAST = -1e30f;

// What rows have seen so far: the highest score; the weights relative to it, summed by lanes
// [rows, LANES]; and the weighted sums of values [rows, width].
struct Seen {
    float* top;
    float* mass;
    float* values;
    int64_t width;

    static int64_t size(int64_t num_rows, int64_t width) {
        return round_up(num_rows, 16) + num_rows * (LANES + width);
    }

    Seen(float* memory, int64_t num_rows, int64_t width)
        : top(memory),
          mass(memory + round_up(num_rows, 16)),
          values(mass + num_rows * LANES),
          width(width) {}

    Seen from_row(int64_t row) const {
        Seen seen = *this;
        seen.top += row;
        seen.mass += row * LANES;
        seen.values += row * width;
        return seen;
    }

    void clear(int64_t num_rows) {
        for (int64_t i = 0; i < num_rows; i++) top[i] = LEAST;
        memset(mass, 0, num_rows * LANES * sizeof(float));
        memset(values, 0, num_rows * width * sizeof(float));
    }

    // Adds what the rows saw of later keys.
    void merge(const Seen& later, int64_t num_rows, float scale) {
        for (int64_t row = 0; row < num_rows; row++) {
            const float highest = later.top[row] > top[row] ? later.top[row] : top[row];
            const Floats ours = exp2<float>(splat((top[row] - highest) * scale));
            const Floats theirs = exp2<float>(splat((later.top[row] - highest) * scale));
            top[row] = highest;
            blend(mass + row * LANES, later.mass + row * LANES, ours, theirs);
            for (int64_t i = row * width; i < (row + 1) * width; i += LANES)
                blend(values + i, later.values + i, ours, theirs);
        }
    }

    static void blend(float* to, const float* from, Floats ours, Floats theirs) {
        store(to, fma(load<Floats>(from), theirs, load<Floats>(to) * ours));
    }
};

// Queries of some KV heads, the first at `position`: rows by KV head, by query, by head of the group.
struct Queries {
    int64_t position;
    int64_t num_queries;
    int64_t num_kv_heads;
    int64_t group;
    int64_t window;  // a query sees so many positions, itself the last; 0: all up to itself

    int64_t head_rows() const { return num_queries * group; }
    int64_t num_rows() const { return num_kv_heads * head_rows(); }
    // Of a row of the first KV head.
    int64_t last_of(int64_t row) const { return position + row / group; }
    int64_t first_of(int64_t row) const {
        const int64_t first = last_of(row) - window + 1;
        return window && first > 0 ? first : 0;
    }
};

template <class F>
struct Scratch {
    alignas(64) F queries[QUERY_ROWS * MAX_HEAD_DIM];
    alignas(64) char copied[2][LANES * MAX_HEAD_DIM * sizeof(F)];
    alignas(64) int32_t keys[TILE * MAX_HEAD_DIM];
    alignas(64) int32_t values[TILE * MAX_HEAD_DIM];
    alignas(64) float key_scales[TILE];
    alignas(64) float value_scales[TILE];
    alignas(64) float scores[VIEW_ROWS<F> * TILE];
    alignas(64) float kept[round_up(VIEW_ROWS<F>, LANES)];
    alignas(64) float seen[2][QUERY_ROWS * (MAX_HEAD_DIM + LANES + 1) + 16];
    alignas(64) F weights[VIEW_ROWS<F> * TILE];

    template <class Item>
    Item* copies(int i) {
        return (Item*)copied[i];
    }

    // This thread's, kept.
    static Scratch& mine() {
        static thread_local Memory memory;
        return *(Scratch*)memory.at_least(sizeof(Scratch));
    }
};

// The highest of `top` and the scores of keys [first, last), after those that the row does not see,
// outside of [seen_first, seen_last), have become -infinity. A score that is no number is not the
// highest: `top` stays one, and no number is what `soften` makes of that score.
inline float mask_and_top(
    float* scores, float top, int64_t first, int64_t last, int64_t seen_first, int64_t seen_last
) {
    Words lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    Floats high = splat(top);
    for (int64_t i = first; i < last; i += LANES) {
        Floats score = load_floats(scores + i);
        if (i < seen_first || i + LANES > seen_last) {
            const Words key = lane + int32_t(i);
            const Words seen = (key >= int32_t(seen_first)) & (key < int32_t(seen_last));
            score = seen ? score : splat(-INFINITY);
            store(scores + i, score);
        }
        high = max(score, high);
    }
    return highest(high);
}

// The weights of keys [first, last) relative to `top`, times `value_scales` if there are any, and the
// sums by lanes of what they are without.
template <class F>
inline Floats soften(
    F* weights, const float* scores, const float* value_scales, float top, int64_t first,
    int64_t last, float scale
) {
    const Floats factor = splat(scale), shift = splat(-top * scale);
    Floats sum = {};
    for (int64_t i = first; i < last; i += LANES) {
        const Floats weight = exp2<F>(fma(load_floats(scores + i), factor, shift));
        sum += weight;
        store_floats(weights + i, value_scales ? weight * load_floats(value_scales + i) : weight);
    }
    return sum;
}

// A tile of one KV head, of positions [start, end). For many rows it is packed piece by piece, by the
// first of them that see it, so that they find it in the cache. Meanwhile the next tile comes from
// memory.
template <class F, class Item>
struct Tile {
    const Pages<Item>& pages;
    Scratch<F>& scratch;
    int64_t start;
    int64_t end;
    Ahead<Item>& ahead;
    int64_t num_keys = 0;
    int64_t num_values = 0;

    void need_keys(int64_t first, int64_t last) {
        first = most(first, num_keys);
        if (first >= last) return;
        need_scales(first, last);
        for (; first < last; first += LANES) {
            ahead.keys.fetch(LANES * pages.head_items);
            pack_keys<F>(scratch.keys, scratch.template copies<Item>(0), pages, start, first);
        }
        num_keys = last;
    }

    void need_values(int64_t first, int64_t last) {
        for (first = most(first, num_values); first < last; first += LANES) {
            ahead.values.fetch(LANES * pages.head_items);
            pack_values<F>(scratch.values, scratch.template copies<Item>(0), pages, start, first);
        }
        num_values = most(round_up(last, LANES), num_values);
    }

    void need_scales(int64_t first, int64_t last) {
        if constexpr (SCALE_BYTES<Item> != 0)
            load_scales(scratch.key_scales, scratch.value_scales, pages, start, first, last);
    }
};

// How rows are multiplied by the keys and values of a tile.
enum class Way { FROM_PAGES, PACKED, BY_TILES };

template <Way WAY>
using ThatWay = std::integral_constant<Way, WAY>;

// What so many rows may be at the most, if they are not a constant.
template <class NumRows>
constexpr int MOST_OF = TILE_ROWS;
template <int ROWS>
constexpr int MOST_OF<std::integral_constant<int, ROWS>> = ROWS;

// What rows [row, row + num_rows) of a KV head see of one tile.
template <class F, class Item, class NumRows, Way WAY>
struct TileView {
    Tile<F, Item>& tile;
    Scratch<F>& scratch;
    const Seen& seen;
    const Queries& queries;
    const F* rows;
    int64_t row;
    NumRows num_rows;
    int64_t head_dim;
    float scale;
    const Tiles* tiles;

    static constexpr int ROWS = MOST_OF<NumRows>;
    // Sums of as many panels as the registers hold, and what is added to them.
    static constexpr int PANELS = 2 * ROWS <= MAX_ROWS<F> ? 2 : 1;

    void see() const {
        const int64_t first = most(queries.first_of(row), tile.start) - tile.start;
        const int64_t last = least(queries.last_of(row + num_rows - 1) + 1, tile.end) - tile.start;
        if (first >= last) return;
        // On a grid that does not depend on the rows: what is packed has no gap behind it.
        const int64_t begin = first / WIDTH * WIDTH;
        if constexpr (WAY != Way::FROM_PAGES)
            fetch<For::WRITING>(seen.values + row * seen.width, num_rows * seen.width);
        for (int64_t key = begin; key < last; key += WIDTH) score(key);
        // AMX's tiles take whole panels; else what no row sees, and would count as 0, is left out.
        const int64_t stop = WAY == Way::BY_TILES ? round_up(last, WIDTH) : last;
        weigh(begin, stop);
        add_values(begin, stop);
    }

    // Of the keys [key, key + WIDTH).
    void score(int64_t key) const {
        constexpr int N = PARTS<F, Item>;
        constexpr int64_t READ = 4 * N * PER_WORD<F>;
        const int64_t depth = key_words<F, Item>(head_dim);
        const int32_t* words = (const int32_t*)rows + row * depth;
        Sums sums[1][ROWS];
        if constexpr (WAY == Way::BY_TILES) {
            tile.need_keys(key, key + WIDTH);
            multiply_by_tiles<false>(sums, words, depth, scratch.keys + key * depth, depth);
        } else if constexpr (WAY == Way::PACKED) {
            tile.need_keys(key, key + WIDTH);
            multiply_tile<F, From::ZERO>(
                sums, words, depth, scratch.keys + key * depth, 0, depth, FetchNothing{}
            );
        } else {
            tile.need_scales(key, key + WIDTH);
            constexpr bool AT_ONCE = LANES == 16;
            tile.ahead.keys.fetch(WIDTH * (SCALE_BYTES<Item> + (AT_ONCE ? head_dim : 0)));
            auto left = read_keys_from(key, 0), right = read_keys_from(key + LANES, 1);
            Sums local[ROWS] = {};
            for (int64_t word = 0; word < depth; word += 4 * N) {
                // AVX-512 multiplies so few words in less time than it takes to find what is next.
                if constexpr (!AT_ONCE)
                    tile.ahead.keys.fetch(WIDTH * least(READ, head_dim - word * PER_WORD<F>));
                Words left_columns[4], right_columns[4];
                left.read(left_columns);
                right.read(right_columns);
#pragma GCC unroll 8
                for (int i = 0; i < 4 * N; i++) {
                    const Line line = {
                        part_of<F, Item>(left_columns[i / N], i % N),
                        part_of<F, Item>(right_columns[i / N], i % N),
                    };
                    multiply_line<F>(local, words + word + i, depth, line);
                }
            }
            memcpy(sums, local, sizeof sums);
        }
        const int count = num_rows;
#pragma GCC unroll ROWS_IN_REGISTERS
        for (int r = 0; r < count; r++) put_scores(sums[0][r], r, key);
    }

    ColumnReader<F, Item> read_keys_from(int64_t key, int side) const {
        return read_keys<F>(scratch.template copies<Item>(side), tile.pages, tile.start + key);
    }

    void put_scores(const Sums& scores, int r, int64_t key) const {
        float* const to = scratch.scores + r * TILE + key;
        if constexpr (SCALE_BYTES<Item> != 0) {
            const Sums scales = load<Sums>(scratch.key_scales + key);
            store(to, Sums{scores.left * scales.left, scores.right * scales.right});
        } else {
            store(to, scores);
        }
    }

    // Makes weights of scores, relative to the highest one by now. Of earlier sums the share `kept` is
    // left.
    void weigh(int64_t begin, int64_t stop) const {
        const float* value_scales = SCALE_BYTES<Item> ? scratch.value_scales : nullptr;
        float* const kept = scratch.kept;
        for (int r = 0; r < num_rows; r++) {
            float& top = seen.top[row + r];
            const float before = top;
            top = mask_and_top(
                scratch.scores + r * TILE, top, begin, stop, queries.first_of(row + r) - tile.start,
                queries.last_of(row + r) + 1 - tile.start
            );
            kept[r] = (before - top) * scale;
        }
        for (int r = 0; r < num_rows; r += LANES)
            store(kept + r, exp2<float>(load_floats(kept + r)));
        for (int r = 0; r < num_rows; r++) {
            const Floats sum = soften(
                scratch.weights + r * TILE, scratch.scores + r * TILE, value_scales,
                seen.top[row + r], begin, stop, scale
            );
            float* mass = seen.mass + (row + r) * LANES;
            store(mass, fma(load_floats(mass), splat(kept[r]), sum));
        }
    }

    void add_values(int64_t begin, int64_t stop) const {
        if constexpr (WAY == Way::FROM_PAGES) {
            tile.ahead.values.fetch((stop - begin) * SCALE_BYTES<Item>);
            int64_t item = 0;
            for (; item + PANELS * WIDTH <= seen.width; item += PANELS * WIDTH)
                add_lines<PANELS>(item, begin, stop);
            if (item < seen.width) add_lines<1>(item, begin, stop);
        } else {
            tile.need_values(begin, stop);
            for (int64_t item = 0; item < seen.width; item += WIDTH) add_panel(item, begin, stop);
        }
    }

    template <int COUNT>
    void add_lines(int64_t item, int64_t begin, int64_t stop) const {
        each_sums<COUNT>(item, [&](Sums(&sums)[COUNT][ROWS]) {
            Sums local[COUNT][ROWS];
            memcpy(local, sums, sizeof sums);
            for (int64_t key = begin; key < stop; key += LANES) {
                tile.ahead.values.fetch(LANES * least(COUNT * WIDTH, head_dim - item));
                const Neighbours<Item> values =
                    find_values(scratch.template copies<Item>(0), tile.pages, tile.start + key);
                const int32_t* words = (const int32_t*)scratch.weights + key / PER_WORD<F>;
#pragma GCC unroll 8
                for (int i = 0; i < LANES / PER_WORD<F>; i++)
#pragma GCC unroll 2
                    for (int p = 0; p < COUNT; p++)
                        multiply_line<F>(
                            local[p], words + i, TILE / PER_WORD<F>,
                            values.template line<F>(i, item + p * WIDTH)
                        );
            }
            memcpy(sums, local, sizeof sums);
        });
    }

    void add_panel(int64_t item, int64_t begin, int64_t stop) const {
        constexpr int64_t KEY_WORDS = TILE / PER_WORD<F>;
        const int64_t first = begin / PER_WORD<F>, depth = ceil_div(stop - begin, PER_WORD<F>);
        const int32_t* const words = (const int32_t*)scratch.weights + first;
        const int32_t* const panel = scratch.values + item * KEY_WORDS + first * WIDTH;
        each_sums<1>(item, [&](Sums(&sums)[1][ROWS]) {
            if constexpr (WAY == Way::BY_TILES)
                multiply_by_tiles<true>(sums, words, KEY_WORDS, panel, depth);
            else
                multiply_tile<F, From::SUMS>(
                    sums, words, KEY_WORDS, panel, 0, depth, FetchNothing{}
                );
        });
    }

    // As `Tiles::multiply` does. Tiles are as high as the highest view of a head: where this one has a
    // row less, that of the next view counts for nothing.
    template <bool IS_MORE>
    void multiply_by_tiles(
        Sums (&sums)[1][ROWS], const int32_t* words, int64_t stride, const int32_t* panel,
        int64_t depth
    ) const {
#if TANDEM_HAS_AMX
        const TileRows its_rows[1] = {{words, stride}};
        if constexpr (IS_MORE)
            for (int r = num_rows; r < ROWS; r++) sums[0][r] = Sums{};
        tiles->multiply<1, IS_MORE>(sums, its_rows, panel, depth, nullptr);
#endif
    }

    // add(sums), which are what is kept of those of the values' items [item, item + COUNT * WIDTH).
    template <int COUNT, class Add>
    void each_sums(int64_t item, const Add& add) const {
        Sums sums[COUNT][ROWS];
        float* values = seen.values + row * seen.width + item;
        for (int p = 0; p < COUNT; p++)
            for (int r = 0; r < num_rows; r++) {
                const Sums before = load<Sums>(values + r * seen.width + p * WIDTH);
                sums[p][r] = {before.left * scratch.kept[r], before.right * scratch.kept[r]};
            }
        add(sums);
        for (int p = 0; p < COUNT; p++)
            for (int r = 0; r < num_rows; r++)
                store(values + r * seen.width + p * WIDTH, sums[p][r]);
    }
};

// What the queries in `scratch` see of a span within one range, with products `by_tiles` or not.
template <class F, class Item>
inline void see_range(
    Seen& seen, const Queries& queries, const Span<Item>& span, Scratch<F>& scratch, float scale,
    Ahead<Item>& ahead, bool by_tiles
) {
    const int64_t head_rows = queries.head_rows(), head_dim = span.pages.head_dim;
    seen.clear(queries.num_rows());
    // each_view(see), and it sees (row, number of rows, way, tiles) of each head's tiles.
    const auto each_tile_of_keys = [&](const auto& each_view) {
        for (int64_t start = span.start; start < span.end; start += TILE) {
            const int64_t stop = least(start + TILE, span.end);
            for (int64_t head = 0; head < queries.num_kv_heads; head++) {
                const Pages<Item> its = span.pages.of_head(head);
                Tile<F, Item> tile{its, scratch, start, stop, ahead};
                const Seen seen_of = seen.from_row(head * head_rows);
                const F* rows =
                    scratch.queries + head * head_rows * key_words<F, Item>(head_dim) * PER_WORD<F>;
                each_view([&](int64_t row, auto num_rows, auto way, const Tiles* tiles) {
                    TileView<F, Item, decltype(num_rows), decltype(way)::value>{
                        tile, scratch, seen_of, queries, rows, row, num_rows, head_dim, scale, tiles
                    }.see();
                });
            }
        }
    };
    if constexpr (HAS_TILES<F>) {
        if (by_tiles) {
            const int64_t num_views = ceil_div(head_rows, TILE_ROWS);
            const Tiles tiles(ceil_div(head_rows, num_views));
            each_tile_of_keys([&](const auto& see) {
                for (int64_t i = 0; i < num_views; i++) {
                    const int64_t row = head_rows * i / num_views;
                    const int64_t end = head_rows * (i + 1) / num_views;
                    see(row, end - row, ThatWay<Way::BY_TILES>{}, &tiles);
                }
            });
            return;
        }
    }
    // What is packed for a single tile of rows would be read once only.
    if (head_rows <= MAX_ROWS<F>)
        each_tile_of_keys([&](const auto& see) {
            each_tile<MAX_ROWS<F>>(head_rows, [&](int64_t row, auto num_rows) {
                see(row, num_rows, ThatWay<Way::FROM_PAGES>{}, nullptr);
            });
        });
    else
        each_tile_of_keys([&](const auto& see) {
            each_tile<MAX_ROWS<F>, (MAX_ROWS<F> + 1) / 2>(
                head_rows, [&](int64_t row, auto num_rows) {
                    see(row, num_rows, ThatWay<Way::PACKED>{}, nullptr);
                }
            );
        });
}

}  // namespace tandem
