// Keys and values of a tile, packed from their pages into panels, as products read them (`matmul.h`).
#pragma once

#include "pages.h"

namespace tandem {

// A word of each of LANES rows in, a row of each of LANES words out.
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
#elif defined(__AVX2__)
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm256_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    for (int c = 0; c < 4; c++) {
        rows[c] = (Words)_mm256_permute2x128_si256(b[c], b[4 + c], 0x20);
        rows[4 + c] = (Words)_mm256_permute2x128_si256(b[c], b[4 + c], 0x31);
    }
#else
    Words columns[LANES];
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) columns[j][i] = rows[i][j];
    for (int i = 0; i < LANES; i++) rows[i] = columns[i];
#endif
}

// LANES words of factors F from a row of items.
template <class F, class Item>
inline Words load_words(const Item* from) {
    if constexpr (PER_WORD<F> == 1) return (Words)load_floats(from);
    if constexpr (sizeof(F) == sizeof(Item)) return load<Words>(from);
#if defined(__AVX512BF16__)
    // Every int8 is a bfloat16.
    const Floats low = load_floats(from), high = load_floats(from + LANES);
    return (Words)(__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#endif
}

// The same of up to LANES words; 0 for those past the end of the row.
template <class F, class Item>
inline Words load_words(const Item* from, int64_t num_words) {
    if (num_words >= LANES) return load_words<F>(from);
    Item items[LANES * PER_WORD<F>] = {};
    memcpy(items, from, num_words * PER_WORD<F> * sizeof(Item));
    return load_words<F>(items);
}

// Keys [first, last) of the tile at `start`, as panels [key / WIDTH][word][WIDTH].
template <class F, class Item>
inline void pack_keys(
    int32_t* to, const Pages<Item>& pages, int64_t start, int64_t first, int64_t last
) {
    const int64_t depth = pages.head_dim / PER_WORD<F>;
    for (int64_t key = first; key < last; key += LANES) {
        const Item* rows[LANES];
        pages.find(rows, pages.keys, start + key);
        int32_t* panel = to + key / WIDTH * depth * WIDTH + key % WIDTH;
        for (int64_t word = 0; word < depth; word += LANES) {
            Words words[LANES];
            for (int i = 0; i < LANES; i++)
                words[i] = load_words<F>(rows[i] + word * PER_WORD<F>, depth - word);
            transpose(words);
            const int64_t num_words = least(depth - word, LANES);
            for (int64_t i = 0; i < num_words; i++) store(panel + (word + i) * WIDTH, words[i]);
        }
    }
}

// WIDTH items of each of the keys that share a word: of one key as float32, of two as bfloat16.
template <class F, class Item>
inline void pack_line(int32_t* to, const Item* row, const Item* next) {
    if constexpr (PER_WORD<F> == 1) {
        store(to, load_words<F>(row));
        store(to + LANES, load_words<F>(row + LANES));
    } else {
#if defined(__AVX512BF16__)
        const __m512i order = _mm512_set_epi16(
            47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4,
            35, 3, 34, 2, 33, 1, 32, 0
        );
        const __m512i further = _mm512_add_epi16(order, _mm512_set1_epi16(16));
        const __m512i a = (__m512i)load_words<F>(row), b = (__m512i)load_words<F>(next);
        store(to, _mm512_permutex2var_epi16(a, order, b));
        store(to + LANES, _mm512_permutex2var_epi16(a, further, b));
#endif
    }
}

// Values of keys [first, last) of the tile at `start`, as panels
// [item / WIDTH][key / PER_WORD][WIDTH].
template <class F, class Item>
inline void pack_values(
    int32_t* to, const Pages<Item>& pages, int64_t start, int64_t first, int64_t last
) {
    constexpr int64_t PANEL = TILE / PER_WORD<F> * WIDTH;
    const int64_t whole = pages.head_dim / WIDTH * WIDTH, rest = pages.head_dim - whole;
    for (int64_t key = first; key < last; key += LANES) {
        const Item* rows[LANES];
        pages.find(rows, pages.values, start + key);
        for (int i = 0; i < LANES; i += PER_WORD<F>) {
            const Item *row = rows[i], *next = rows[i + PER_WORD<F> - 1];
            int32_t* line = to + (key + i) / PER_WORD<F> * WIDTH;
            for (int64_t item = 0; item < whole; item += WIDTH)
                pack_line<F>(line + item / WIDTH * PANEL, row + item, next + item);
            if (rest) {
                Item tails[2][WIDTH] = {};
                memcpy(tails[0], row + whole, rest * sizeof(Item));
                memcpy(tails[1], next + whole, rest * sizeof(Item));
                pack_line<F>(line + whole / WIDTH * PANEL, tails[0], tails[1]);
            }
        }
    }
}

// Of keys [first, last) of the tile at `start`: what one of their items, or their values', counts.
inline void load_scales(
    float* keys, float* values, const Pages<int8_t>& pages, int64_t start, int64_t first,
    int64_t last
) {
    for (int64_t key = first; key < last; key += LANES) {
        const int8_t *key_rows[LANES], *value_rows[LANES];
        pages.find(key_rows, pages.keys, start + key);
        pages.find(value_rows, pages.values, start + key);
        for (int i = 0; i < LANES; i++) {
            memcpy(keys + key + i, key_rows[i] + pages.head_dim, sizeof(float));
            memcpy(values + key + i, value_rows[i] + pages.head_dim, sizeof(float));
        }
    }
}

}  // namespace tandem
