// Keys and values of a sequence as products read them (`matmul.h`), from their pages: a line at a time
// in registers, or a tile packed into panels. What is called for each line is `always_inline`: as a
// call it would hand its registers over in memory, and how many of these the compiler leaves depends
// on what else is in the library.
#pragma once

#include "pages.h"
#include "rows.h"

namespace tandem {

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

// Four words of factors F from each of LANES / 4 rows, `stride` items apart.
template <class F, class Item>
inline Words load_quads(const Item* from, int64_t stride) {
    constexpr int64_t BYTES = 4 * PER_WORD<F> * sizeof(Item);
    if constexpr (BYTES < 16) {
        using Quad = std::conditional_t<BYTES == 8, int64_t, int32_t>;
        typedef Quad Quads __attribute__((vector_size(LANES / 4 * BYTES)));
        Quads quads;
        for (int i = 0; i < LANES / 4; i++) quads[i] = load<Quad>(from + i * stride);
        return load_words<F>((const Item*)&quads);
    }
#if defined(__AVX512BF16__)
    // By halves: what is inserted from memory into 256 bits takes no shuffle.
    const auto half = [&](int i) {
        const __m256i quad = _mm256_castsi128_si256(load<__m128i>(from + i * stride));
        return _mm256_inserti128_si256(quad, load<__m128i>(from + (i + 1) * stride), 1);
    };
    return (Words)_mm512_inserti64x4(_mm512_castsi256_si512(half(0)), half(2), 1);
#elif defined(__AVX2__)
    const __m256i quad = _mm256_castsi128_si256(load<__m128i>(from));
    return (Words)_mm256_inserti128_si256(quad, load<__m128i>(from + stride), 1);
#else
    return load<Words>(from);
#endif
}

// What the pages' items are read as: factors; but bfloat16 stays two to a word until it is multiplied
// as float32, for that is half of what is to be moved about.
template <class F, class Item>
using Read = std::conditional_t<std::is_same_v<Item, bfloat16>, bfloat16, F>;

// Words of factors in one that is read.
template <class F, class Item>
constexpr int PARTS = PER_WORD<Read<F, Item>> / PER_WORD<F>;

// The i-th of them.
template <class F, class Item>
inline Words part_of(Words read, int i) {
    if constexpr (PARTS<F, Item> == 1) return read;
    return (Words)(i ? high_half(read) : low_half(read));
}

// Words of factors that a key's items take: whole quads, as they are read.
template <class F, class Item>
constexpr int64_t key_words(int64_t head_dim) {
    return round_up(ceil_div(head_dim, PER_WORD<F>), 4 * PARTS<F, Item>);
}

// The keys or values of LANES neighbouring positions, the first a multiple of LANES.
template <class Item>
struct Neighbours {
    const Item* first;
    int64_t stride;

    const Item* row(int64_t i) const { return first + i * stride; }

    // Items [item, item + WIDTH) of the rows that share word i of F: one row as float32, two as
    // bfloat16. Of two rows, and of pairs of items, they are in an order of their own, which
    // `in_order` undoes.
    template <class F>
    __attribute__((always_inline)) Line line(int i, int64_t item) const {
        if constexpr (PARTS<F, Item> == 2) {
            const Words pairs = load<Words>(row(i) + item);
            return {part_of<F, Item>(pairs, 0), part_of<F, Item>(pairs, 1)};
        }
        if constexpr (PER_WORD<F> == 1) {
            const Item* const from = row(i) + item;
            return {load_words<F>(from), load_words<F>(from + LANES)};
        }
#if defined(__AVX512BF16__)
        const __m512i a = (__m512i)load_words<F>(row(2 * i) + item);
        const __m512i b = (__m512i)load_words<F>(row(2 * i + 1) + item);
        return {(Words)_mm512_unpacklo_epi16(a, b), (Words)_mm512_unpackhi_epi16(a, b)};
#endif
    }
};

// Reads neighbours four words at a time, as `Read` has them: a column of each word.
template <class F, class Item>
struct ColumnReader {
    const Item* rows[4];
    int64_t stride;  // from row to fourth row

    explicit ColumnReader(const Neighbours<Item>& neighbours) : stride(4 * neighbours.stride) {
        for (int i = 0; i < 4; i++) rows[i] = neighbours.row(i);
    }

    __attribute__((always_inline)) void read(Words (&columns)[4]) {
        Words quads[4];
        for (int i = 0; i < 4; i++) {
            quads[i] = load_quads<Read<F, Item>>(rows[i], stride);
            rows[i] += 4 * PER_WORD<Read<F, Item>>;
            // Or the compiler keeps an address of each row, more than there are registers.
            asm("" : "+r"(rows[i]));
        }
        const Words low = zip_low(quads[0], quads[1]), high = zip_high(quads[0], quads[1]);
        const Words next_low = zip_low(quads[2], quads[3]), next_high = zip_high(quads[2], quads[3]);
        columns[0] = join_low(low, next_low);
        columns[1] = join_high(low, next_low);
        columns[2] = join_low(high, next_high);
        columns[3] = join_high(high, next_high);
    }
};

enum class Unseen { ANYTHING, NUMBERS };

// Neighbours with as many items as are wanted: those past a row's own are 0. Rows past the last
// position, which nobody sees, are whatever there is in its block, or else the last one again. Where
// the cache has no such rows side by side they are copied.
template <Unseen UNSEEN, class Item>
inline Neighbours<Item> find_neighbours(
    Item* copies, const Pages<Item>& pages, const Item* items, int64_t position, int64_t num_items
) {
    const int64_t last = pages.end - 1;
    position = least(position, last / LANES * LANES);
    const bool are_together = pages.block_shift >= LANES_SHIFT;
    const bool are_all_there = UNSEEN == Unseen::ANYTHING || position + LANES <= pages.end;
    if (are_together && are_all_there && num_items == pages.head_dim)
        return {items + pages.offset(position), pages.token_items};
    constexpr int64_t STEP = sizeof(Words) / sizeof(Item);
    for (int64_t i = 0; i < LANES; i++) {
        const Item* const from = items + pages.offset(least(position + i, last));
        Item* const to = copies + i * num_items;
        int64_t item = 0;
        for (; item + STEP <= pages.head_dim; item += STEP)
            store(to + item, load<Words>(from + item));
        memcpy(to + item, from + item, (pages.head_dim - item) * sizeof(Item));
        memset(to + pages.head_dim, 0, (num_items - pages.head_dim) * sizeof(Item));
    }
    return {copies, num_items};
}

// The keys do not matter where nobody sees them: their scores are dropped.
template <class F, class Item>
inline ColumnReader<F, Item> read_keys(Item* copies, const Pages<Item>& pages, int64_t position) {
    const int64_t num_items = key_words<F, Item>(pages.head_dim) * PER_WORD<F>;
    return ColumnReader<F, Item>(
        find_neighbours<Unseen::ANYTHING>(copies, pages, pages.keys, position, num_items)
    );
}

// The values do: they weigh 0, and so have to be numbers.
template <class Item>
inline Neighbours<Item> find_values(Item* copies, const Pages<Item>& pages, int64_t position) {
    const int64_t num_items = padded(pages.head_dim);
    return find_neighbours<Unseen::NUMBERS>(copies, pages, pages.values, position, num_items);
}

// What was summed of lines, as the rows' items are.
template <class F, class Item>
inline Sums in_order(Sums sums) {
#if defined(__AVX512BF16__)
    if constexpr (PER_WORD<F> == 2) {
        const __m512i lower = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
        return {
            (Floats)_mm512_permutex2var_ps((__m512)sums.left, lower, (__m512)sums.right),
            (Floats)_mm512_permutex2var_ps((__m512)sums.left, upper, (__m512)sums.right),
        };
    }
#else
    if constexpr (PARTS<F, Item> == 2) {
        const Words low = zip_low((Words)sums.left, (Words)sums.right);
        const Words high = zip_high((Words)sums.left, (Words)sums.right);
#if defined(__AVX2__)
        return {
            (Floats)_mm256_permute2x128_si256((__m256i)low, (__m256i)high, 0x20),
            (Floats)_mm256_permute2x128_si256((__m256i)low, (__m256i)high, 0x31),
        };
#else
        return {(Floats)low, (Floats)high};
#endif
    }
#endif
    return sums;
}

// Keys [key, key + LANES) of the tile at `start`, as panels [key / WIDTH][word][WIDTH].
template <class F, class Item>
inline void pack_keys(
    int32_t* to, Item* copies, const Pages<Item>& pages, int64_t start, int64_t key
) {
    constexpr int N = PARTS<F, Item>;
    const int64_t depth = key_words<F, Item>(pages.head_dim);
    ColumnReader<F, Item> reader = read_keys<F>(copies, pages, start + key);
    int32_t* panel = to + key / WIDTH * depth * WIDTH + key % WIDTH;
    for (int64_t word = 0; word < depth; word += 4 * N, panel += 4 * N * WIDTH) {
        Words columns[4];
        reader.read(columns);
        for (int i = 0; i < 4 * N; i++)
            store(panel + i * WIDTH, part_of<F, Item>(columns[i / N], i % N));
    }
}

// Values of keys [key, key + LANES) of the tile at `start`, as panels
// [item / WIDTH][key / PER_WORD][WIDTH].
template <class F, class Item>
inline void pack_values(
    int32_t* to, Item* copies, const Pages<Item>& pages, int64_t start, int64_t key
) {
    constexpr int64_t PANEL = TILE / PER_WORD<F> * WIDTH;
    const Neighbours<Item> values = find_values(copies, pages, start + key);
    for (int i = 0; i < LANES / PER_WORD<F>; i++) {
        int32_t* line = to + (key / PER_WORD<F> + i) * WIDTH;
        for (int64_t item = 0; item < pages.head_dim; item += WIDTH, line += PANEL)
            store(line, values.template line<F>(i, item));
    }
}

// Of keys [first, last) of the tile at `start`: what one of their items, or their values', counts.
inline void load_scales(
    float* keys, float* values, const Pages<int8_t>& pages, int64_t start, int64_t first,
    int64_t last
) {
    for (int64_t key = first; key < last; key++) {
        const int64_t position = least(start + key, pages.end - 1);
        const int64_t scale = pages.offset(position) + pages.head_dim;
        memcpy(keys + key, pages.keys + scale, sizeof(float));
        memcpy(values + key, pages.values + scale, sizeof(float));
    }
}

}  // namespace tandem
