// The keys and values of one sequence in the pages of the KV cache.
#pragma once

#include "matmul.h"

namespace tandem {

constexpr int64_t TILE = 256;
constexpr int64_t MAX_HEAD_DIM = 512;
// Positions between what is loaded and what is prefetched.
constexpr int64_t PREFETCHED = 16;
constexpr int64_t LANES_SHIFT = __builtin_ctz(LANES);

// What follows the items of a head in the cache: of bytes, the number that one of them counts.
template <class Item>
constexpr int64_t SCALE_BYTES = sizeof(Item) == 1 ? sizeof(float) : 0;

alignas(64) const char ZEROS[MAX_HEAD_DIM * sizeof(float)] = {};

// From one of its KV heads on.
template <class Item>
struct Pages {
    const Item* keys;
    const Item* values;
    const int32_t* table;
    int64_t block_shift;
    int64_t token_items;  // from token to token, as head_items is from head to head
    int64_t head_items;
    int64_t head_dim;
    int64_t end;  // positions from here on hold nothing

    int64_t offset(int64_t position) const {
        const int64_t block = table[position >> block_shift];
        const int64_t within = position & ((int64_t(1) << block_shift) - 1);
        return ((block << block_shift) + within) * token_items;
    }

    // Where LANES neighbours lie, the first at a multiple of LANES.
    void find(const Item* (&rows)[LANES], const Item* items, int64_t position) const {
        if (block_shift >= LANES_SHIFT && position + LANES <= end) {
            const Item* first = items + offset(position);
            for (int i = 0; i < LANES; i++) rows[i] = first + i * token_items;
            return;
        }
        for (int i = 0; i < LANES; i++)
            rows[i] = position + i < end ? items + offset(position + i) : (const Item*)ZEROS;
    }

    // Brings positions [start, stop) from memory, `num_items` of a token. By loads, which set the
    // hardware's own prefetches going, and prefetches of what they will come to.
    void fetch(const Item* items, int64_t start, int64_t stop, int64_t num_items) const {
        for (int64_t position = start; position < least(stop, end); position++) {
            const Item* row = items + offset(position);
            const Item* further = items + offset(least(position + PREFETCHED, end - 1));
            for (int64_t item = 0; item < num_items; item += 64 / int64_t(sizeof(Item))) {
                (void)*(const volatile char*)(row + item);
                __builtin_prefetch(further + item);
            }
        }
    }

    Pages of_head(int64_t head) const {
        Pages pages = *this;
        pages.keys += head * head_items;
        pages.values += head * head_items;
        return pages;
    }
};

// Brings from memory what `num_heads` heads will need: all of a token's, in order, as one stream for
// keys and one for values.
template <class Item>
struct Ahead {
    const Pages<Item>& pages;
    int64_t num_heads;
    int64_t next_key;
    int64_t next_value;

    Ahead(const Pages<Item>& pages, int64_t num_heads, int64_t start)
        : pages(pages), num_heads(num_heads), next_key(start), next_value(start) {}

    // The share of one head that packs `count` keys.
    void fetch_keys(int64_t count) { fetch(pages.keys, next_key, count); }
    void fetch_values(int64_t count) { fetch(pages.values, next_value, count); }

    void fetch(const Item* items, int64_t& next, int64_t count) const {
        const int64_t stop = next + ceil_div(count, num_heads);
        pages.fetch(items, next, stop, num_heads * pages.head_items);
        next = stop;
    }
};

}  // namespace tandem
