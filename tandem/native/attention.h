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

constexpr int64_t TILE = 128;
constexpr int64_t RANGE = 512;
constexpr int64_t MAX_HEAD_DIM = 512;
constexpr int64_t QUERY_ROWS = 168;
// Less than any score, yet a number: what nothing has been seen of has no not-a-number either.
constexpr float LEAST = -1e30f;

alignas(64) const char ZEROS[MAX_HEAD_DIM * sizeof(float)] = {};

// The keys and values of one KV head of a sequence.
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

    const T* row(const T* items, int64_t position) const {
        return position < end ? items + offset(position) : (const T*)ZEROS;
    }

    void fetch(const T* items, int64_t position) const {
        if (position >= end) return;
        const char* from = (const char*)(items + offset(position));
        for (int64_t i = 0; i < head_dim * int64_t(sizeof(T)); i += 64) __builtin_prefetch(from + i);
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
        for (int i = 0; i < LANES; i++) {
            rows[i] = pages.row(pages.keys, start + key + i);
            pages.fetch(pages.keys, start + key + i + 2 * WIDTH);
        }
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
    for (int64_t key = 0; key < count; key += PER_WORD<T>) {
        const T* row = pages.row(pages.values, start + key);
        const T* next = pages.row(pages.values, start + key + PER_WORD<T> - 1);
        pages.fetch(pages.values, start + key + 2 * WIDTH);
        if (PER_WORD<T> > 1) pages.fetch(pages.values, start + key + 2 * WIDTH + 1);
        int32_t* line = to + key / PER_WORD<T> * WIDTH;
        int64_t item = 0;
        for (; item + WIDTH <= pages.head_dim; item += WIDTH)
            store_pair(line + item / WIDTH * PANEL, row + item, next + item);
        if (item < pages.head_dim) {
            T tails[2][WIDTH] = {};
            memcpy(tails[0], row + item, (pages.head_dim - item) * sizeof(T));
            memcpy(tails[1], next + item, (pages.head_dim - item) * sizeof(T));
            store_pair(line + item / WIDTH * PANEL, tails[0], tails[1]);
        }
    }
}

// What rows have seen so far: the highest score, the sum of the weights relative to it, and the
// weighted sums of values [rows, width].
struct Seen {
    float* top;
    float* mass;
    float* values;
    int64_t width;

    static int64_t size(int64_t num_rows, int64_t width) {
        return round_up(num_rows + MAX_ROWS<bfloat16>, 16) * 2 + num_rows * width;
    }

    Seen(float* memory, int64_t num_rows, int64_t width)
        : top(memory),
          mass(memory + round_up(num_rows + MAX_ROWS<bfloat16>, 16)),
          values(mass + round_up(num_rows + MAX_ROWS<bfloat16>, 16)),
          width(width) {}

    void clear(int64_t num_rows) {
        for (int64_t i = 0; i < num_rows; i++) top[i] = LEAST;
        memset(mass, 0, num_rows * sizeof(float));
        memset(values, 0, num_rows * width * sizeof(float));
    }

    // Adds what the rows saw of later keys.
    void merge(const Seen& later, int64_t num_rows, float scale) {
        for (int64_t row = 0; row < num_rows; row++) {
            const float highest = later.top[row] > top[row] ? later.top[row] : top[row];
            const Floats ours = exp2<float>(splat((top[row] - highest) * scale));
            const Floats theirs = exp2<float>(splat((later.top[row] - highest) * scale));
            top[row] = highest;
            mass[row] = mass[row] * ours[0] + later.mass[row] * theirs[0];
            float* to = values + row * width;
            const float* from = later.values + row * width;
            for (int64_t i = 0; i < width; i += LANES)
                store(to + i, fma(load<Floats>(from + i), theirs, load<Floats>(to + i) * ours));
        }
    }
};

// Queries of one KV head: rows by query, then by head of the group; the first at `position`.
struct Queries {
    int64_t position;
    int64_t num_queries;
    int64_t group;
    int64_t window;  // a query sees so many positions, itself the last; 0: all up to itself

    int64_t num_rows() const { return num_queries * group; }
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
    alignas(64) float seen[2][QUERY_ROWS * (MAX_HEAD_DIM + 4)];
    alignas(64) T weights[MAX_ROWS<T> * TILE];

    // This thread's, kept.
    static Scratch& mine() {
        static thread_local Scratch* scratch = nullptr;
        if (!scratch) scratch = (Scratch*)aligned_alloc(64, sizeof(Scratch));
        return *scratch;
    }
};

// The weights of one row's keys [first, last) of the tile, of which it sees [seen_first, seen_last).
// `top` becomes the new highest score; returns the sum of the weights.
template <class T>
inline float soften(
    T* weights, float* scores, float& top, int64_t first, int64_t last, int64_t seen_first,
    int64_t seen_last, float scale
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
    top = highest(high);
    const Floats factor = splat(scale), shift = splat(-top * scale);
    Floats sum = {};
    for (int64_t i = first; i < last; i += LANES) {
        const Floats weight = exp2<T>(fma(load_floats(scores + i), factor, shift));
        sum += weight;
        store_floats(weights + i, weight);
    }
    return total(sum);
}

// Rows [row, row + ROWS) see one tile of packed keys, of positions [start, end).
template <class T, int ROWS>
inline void see_tile(
    Seen& seen, const Queries& queries, Scratch<T>& scratch, int64_t row, int64_t start,
    int64_t end, int64_t head_dim, float scale
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
            sums, (const int32_t*)scratch.queries + row * depth, depth,
            scratch.keys + key * depth, depth, nullptr
        );
        for (int r = 0; r < ROWS; r++) {
            store(scratch.scores + r * TILE + key, sums[r].left);
            store(scratch.scores + r * TILE + key + LANES, sums[r].right);
        }
    }
    // Of each row: what its earlier sums are worth now.
    float kept[round_up(ROWS, LANES)] = {}, mass[ROWS];
    for (int r = 0; r < ROWS; r++) {
        const float before = seen.top[row + r];
        mass[r] = soften(
            scratch.weights + r * TILE, scratch.scores + r * TILE, seen.top[row + r], begin, stop,
            queries.first_of(row + r) - start, queries.last_of(row + r) + 1 - start, scale
        );
        kept[r] = (before - seen.top[row + r]) * scale;
    }
    for (int r = 0; r < ROWS; r += LANES) store(kept + r, exp2<float>(load_floats(kept + r)));
    for (int r = 0; r < ROWS; r++) seen.mass[row + r] = seen.mass[row + r] * kept[r] + mass[r];
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
    Seen& seen, const Queries& queries, const Pages<T>& pages, Scratch<T>& scratch, int64_t start,
    int64_t end, float scale
) {
    for (; start < end; start += TILE) {
        const int64_t stop = least(start + TILE, end);
        pack_keys(scratch.keys, pages, start, stop - start);
        pack_values(scratch.values, pages, start, round_up(stop - start, WIDTH));
        each_tile<T>(queries.num_rows(), [&](int64_t row, auto count) {
            see_tile<T, decltype(count)::value>(
                seen, queries, scratch, row, start, stop, pages.head_dim, scale
            );
        });
    }
}

}  // namespace tandem
