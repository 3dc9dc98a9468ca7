// Attention over the pages of the KV cache, for one query or many.
//
// Keys are taken in tiles that lie on a grid of positions, with an online softmax, and within ranges
// of RANGE positions, whose results are merged in order. So the order of all sums depends on
// positions alone, and a token's output has the same bits whether it is computed alone, with its
// whole prompt, with others, or by several threads. A key that is not seen counts as a 0, exactly.
//
// Queries that share a KV head are rows of one matrix, by query, then by head of the group: both
// products are those of matmul.h, over keys and values that are packed on the way.
#pragma once

#include <cstdlib>

#include "rows.h"

namespace tandem {

constexpr int64_t TILE = 256;
constexpr int64_t RANGE = 512;
constexpr int64_t MAX_HEAD_DIM = 512;
constexpr int64_t QUERY_ROWS = 168;
constexpr int64_t LANES_SHIFT = __builtin_ctz(LANES);
// Less than any score, yet a number: what nothing has been seen of has no not-a-number either.
constexpr float LEAST = -1e30f;

alignas(64) const char ZEROS[MAX_HEAD_DIM * sizeof(float)] = {};

// The keys and values of a sequence, from one of its KV heads on.
template <class T>
struct Pages {
    const T* keys;
    const T* values;
    const int32_t* table;
    int64_t block_shift;
    int64_t token_items;
    int64_t head_dim;
    int64_t end;  // positions from here on hold nothing

    int64_t offset(int64_t position) const {
        const int64_t block = table[position >> block_shift];
        const int64_t within = position & ((int64_t(1) << block_shift) - 1);
        return ((block << block_shift) + within) * token_items;
    }

    // Where LANES neighbours lie, the first at a multiple of LANES.
    void find(const T* (&rows)[LANES], const T* items, int64_t position) const {
        if (block_shift >= LANES_SHIFT && position + LANES <= end) {
            const T* first = items + offset(position);
            for (int i = 0; i < LANES; i++) rows[i] = first + i * token_items;
            return;
        }
        for (int i = 0; i < LANES; i++)
            rows[i] = position + i < end ? items + offset(position + i) : (const T*)ZEROS;
    }

    // Brings a tile from memory, of this head and those behind it, `num_items` of a token. One stream
    // of loads, and no prefetches: it sets the hardware's own going, which have more lines under way.
    void fetch_tile(int64_t start, int64_t num_items) const {
        for (const T* items : {keys, values})
            for (int64_t position = start; position < least(start + TILE, end); position += LANES)
                fetch(items, position, num_items);
    }

    void fetch(const T* items, int64_t position, int64_t num_items) const {
        const T* rows[LANES];
        find(rows, items, position);
        for (int i = 0; i < LANES; i++)
            for (int64_t item = 0; item < num_items; item += 64 / int64_t(sizeof(T)))
                if (position + i < end) (void)*(const volatile char*)(rows[i] + item);
    }

    Pages of_head(int64_t head) const {
        Pages pages = *this;
        pages.keys += head * head_dim;
        pages.values += head * head_dim;
        return pages;
    }
};

inline void transpose(Words (&rows)[LANES]) {
#if defined(__AVX512BF16__)
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    for (int c = 0; c < 4; c++) {
        const __m512i even_low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);
        const __m512i even_high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
        const __m512i odd_low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
        const __m512i odd_high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
        rows[c] = (Words)_mm512_shuffle_i32x4(even_low, even_high, 0x88);
        rows[4 + c] = (Words)_mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        rows[8 + c] = (Words)_mm512_shuffle_i32x4(even_low, even_high, 0xdd);
        rows[12 + c] = (Words)_mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
#else
    int32_t words[LANES][LANES];
    memcpy(words, rows, sizeof words);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) rows[i][j] = words[j][i];
#endif
}

// Up to LANES words of a row; 0 for those past its end.
inline Words load_some(const int32_t* from, int64_t count) {
    if (count >= LANES) return load<Words>(from);
    Words words = {};
    memcpy(&words, from, count * sizeof(int32_t));
    return words;
}

// Keys of positions [start, start + count) as panels [key / WIDTH][word][WIDTH].
template <class T>
inline void pack_keys(int32_t* to, const Pages<T>& pages, int64_t start, int64_t count) {
    const int64_t depth = pages.head_dim / PER_WORD<T>;
    for (int64_t key = 0; key < round_up(count, WIDTH); key += LANES) {
        const T* rows[LANES];
        pages.find(rows, pages.keys, start + key);
        int32_t* panel = to + key / WIDTH * depth * WIDTH + key % WIDTH;
        for (int64_t word = 0; word < depth; word += LANES) {
            Words words[LANES];
            for (int i = 0; i < LANES; i++)
                words[i] = load_some((const int32_t*)rows[i] + word, depth - word);
            transpose(words);
            const int64_t num_words = depth - word < LANES ? depth - word : LANES;
            for (int64_t i = 0; i < num_words; i++) store(panel + (word + i) * WIDTH, words[i]);
        }
    }
}

// WIDTH items of each of the keys that share a word.
inline void store_pair(int32_t* to, const float* row, const float*) {
    store(to, load<Words>(row));
    store(to + LANES, load<Words>(row + LANES));
}

inline void store_pair(int32_t* to, const bfloat16* row, const bfloat16* next) {
#if defined(__AVX512BF16__)
    const __m512i order = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35,
        3, 34, 2, 33, 1, 32, 0
    );
    const __m512i further = _mm512_add_epi16(order, _mm512_set1_epi16(16));
    const __m512i a = load<__m512i>(row), b = load<__m512i>(next);
    store(to, _mm512_permutex2var_epi16(a, order, b));
    store(to + LANES, _mm512_permutex2var_epi16(a, further, b));
#else
    const bfloat16* pairs[2] = {row, next};
    for (int i = 0; i < WIDTH; i++)
        to[i] = int32_t(uint32_t(pairs[0][i].bits) | uint32_t(pairs[1][i].bits) << 16);
#endif
}

// Values of positions [start, start + count) as panels [item / WIDTH][key / PER_WORD][WIDTH].
template <class T>
inline void pack_values(int32_t* to, const Pages<T>& pages, int64_t start, int64_t count) {
    constexpr int64_t PANEL = TILE / PER_WORD<T> * WIDTH;
    const int64_t whole = pages.head_dim / WIDTH * WIDTH, rest = pages.head_dim - whole;
    for (int64_t key = 0; key < count; key += LANES) {
        const T* rows[LANES];
        pages.find(rows, pages.values, start + key);
        for (int i = 0; i < LANES; i += PER_WORD<T>) {
            const T *row = rows[i], *next = rows[i + PER_WORD<T> - 1];
            int32_t* line = to + (key + i) / PER_WORD<T> * WIDTH;
            for (int64_t item = 0; item < whole; item += WIDTH)
                store_pair(line + item / WIDTH * PANEL, row + item, next + item);
            if (rest) {
                T tails[2][WIDTH] = {};
                memcpy(tails[0], row + whole, rest * sizeof(T));
                memcpy(tails[1], next + whole, rest * sizeof(T));
                store_pair(line + whole / WIDTH * PANEL, tails[0], tails[1]);
            }
        }
    }
}

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

template <class T>
struct Scratch {
    alignas(64) T queries[QUERY_ROWS * MAX_HEAD_DIM];
    alignas(64) int32_t keys[TILE * MAX_HEAD_DIM];
    alignas(64) int32_t values[TILE * MAX_HEAD_DIM];
    alignas(64) float scores[MAX_ROWS<T> * TILE];
    alignas(64) float seen[2][QUERY_ROWS * (MAX_HEAD_DIM + LANES + 1) + 16];
    alignas(64) T weights[MAX_ROWS<T> * TILE];

    // This thread's, kept.
    static Scratch& mine() {
        static thread_local Scratch* scratch = nullptr;
        if (!scratch) scratch = (Scratch*)aligned_alloc(64, sizeof(Scratch));
        return *scratch;
    }
};

// The highest of `top` and the scores of keys [first, last), after those that the row does not see,
// outside of [seen_first, seen_last), have become -infinity.
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
        high = max(high, score);
    }
    return highest(high);
}

// The weights of keys [first, last) relative to `top`, and their sums by lanes.
template <class T>
inline Floats soften(
    T* weights, const float* scores, float top, int64_t first, int64_t last, float scale
) {
    const Floats factor = splat(scale), shift = splat(-top * scale);
    Floats sum = {};
    for (int64_t i = first; i < last; i += LANES) {
        const Floats weight = exp2<T>(fma(load_floats(scores + i), factor, shift));
        sum += weight;
        store_floats(weights + i, weight);
    }
    return sum;
}

// Rows [row, row + ROWS) of a KV head see one tile of packed keys, of positions [start, end).
template <class T, int ROWS>
inline void see_tile(
    const Seen& seen, const Queries& queries, const T* rows, Scratch<T>& scratch, int64_t row,
    int64_t start, int64_t end, int64_t head_dim, float scale
) {
    constexpr int64_t KEY_WORDS = TILE / PER_WORD<T>;
    const int64_t depth = head_dim / PER_WORD<T>;
    const int64_t first = most(queries.first_of(row), start) - start;
    const int64_t last = least(queries.last_of(row + ROWS - 1) + 1, end) - start;
    if (first >= last) return;
    const int64_t begin = first / WIDTH * WIDTH, stop = round_up(last, WIDTH);
    for (int64_t key = begin; key < stop; key += WIDTH) {
        Sums sums[ROWS] = {};
        multiply_tile<T, ROWS>(
            sums, (const int32_t*)rows + row * depth, depth,
            scratch.keys + key * depth, depth, nullptr
        );
        for (int r = 0; r < ROWS; r++) {
            store(scratch.scores + r * TILE + key, sums[r].left);
            store(scratch.scores + r * TILE + key + LANES, sums[r].right);
        }
    }
    // Of each row: what its earlier sums are worth now.
    float kept[round_up(ROWS, LANES)] = {};
    for (int r = 0; r < ROWS; r++) {
        float& top = seen.top[row + r];
        const float before = top;
        top = mask_and_top(
            scratch.scores + r * TILE, top, begin, stop, queries.first_of(row + r) - start,
            queries.last_of(row + r) + 1 - start
        );
        kept[r] = (before - top) * scale;
    }
    for (int r = 0; r < ROWS; r += LANES) store(kept + r, exp2<float>(load_floats(kept + r)));
    for (int r = 0; r < ROWS; r++) {
        const Floats sum = soften(
            scratch.weights + r * TILE, scratch.scores + r * TILE, seen.top[row + r], begin, stop,
            scale
        );
        float* mass = seen.mass + (row + r) * LANES;
        store(mass, fma(load_floats(mass), splat(kept[r]), sum));
    }
    for (int64_t item = 0; item < seen.width; item += WIDTH) {
        Sums sums[ROWS];
        float* values = seen.values + row * seen.width + item;
        for (int r = 0; r < ROWS; r++) {
            sums[r].left = load_floats(values + r * seen.width) * kept[r];
            sums[r].right = load_floats(values + r * seen.width + LANES) * kept[r];
        }
        multiply_tile<T, ROWS>(
            sums, (const int32_t*)scratch.weights + begin / PER_WORD<T>, KEY_WORDS,
            scratch.values + (item / WIDTH * KEY_WORDS + begin / PER_WORD<T>)*WIDTH,
            (stop - begin) / PER_WORD<T>, nullptr
        );
        for (int r = 0; r < ROWS; r++) {
            store(values + r * seen.width, sums[r].left);
            store(values + r * seen.width + LANES, sums[r].right);
        }
    }
}

// Adds to `seen` what the queries in `scratch` see of positions [start, end), within one range.
template <class T>
inline void see_range(
    const Seen& seen, const Queries& queries, const Pages<T>& pages, Scratch<T>& scratch,
    int64_t start, int64_t end, float scale
) {
    const int64_t head_rows = queries.head_rows();
    const int64_t num_items = queries.num_kv_heads * pages.head_dim;
    pages.fetch_tile(start, num_items);
    for (; start < end; start += TILE) {
        const int64_t stop = least(start + TILE, end), count = round_up(stop - start, WIDTH);
        pages.fetch_tile(start + TILE, num_items);
        for (int64_t head = 0; head < queries.num_kv_heads; head++) {
            const Pages<T> its = pages.of_head(head);
            pack_keys(scratch.keys, its, start, count);
            pack_values(scratch.values, its, start, count);
            const Seen seen_of = seen.from_row(head * head_rows);
            const T* rows = scratch.queries + head * head_rows * pages.head_dim;
            each_tile<T>(head_rows, [&](int64_t row, auto num_rows) {
                see_tile<T, decltype(num_rows)::value>(
                    seen_of, queries, rows, scratch, row, start, stop, pages.head_dim, scale
                );
            });
        }
    }
}

}  // namespace tandem
