// The keys and values of one sequence in the pages of the KV cache.
#pragma once

#include "matmul.h"

namespace tandem {

constexpr int64_t TILE = 256;
constexpr int64_t MAX_HEAD_DIM = 512;
constexpr int64_t LANES_SHIFT = __builtin_ctz(LANES);

// What follows the items of a head in the cache: of bytes, the number that one of them counts.
template <class Item>
constexpr int64_t SCALE_BYTES = sizeof(Item) == 1 ? sizeof(float) : 0;

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

    Pages of_head(int64_t head) const {
        Pages pages = *this;
        pages.keys += head * head_items;
        pages.values += head * head_items;
        return pages;
    }
};

// Positions [start, end) of a sequence, from the first of a tile on, and the heads of its pages that
// are wanted.
template <class Item>
struct Span {
    Pages<Item> pages;
    int64_t num_heads;
    int64_t start;
    int64_t end;

    int64_t num_items() const { return num_heads * pages.head_items; }
};

// Brings keys, or values, from memory before they are wanted: the lines of a span, then those of the
// one that is likely to be next.
template <class Item>
class Prefetch {
   public:
    Prefetch(const Item* Pages<Item>::*items, const Span<Item>& span, const Span<Item>* next)
        : items(items), span(&span), next(next), position(span.start) {}

    // As many items as are read meanwhile, to the second level of the cache: what goes to the first is
    // waited for once there are a few. Best little by little: what is read comes through the same
    // buffers, and waits if they are full.
    void fetch(int64_t num_items) {
        each_line(num_items, [](const char* line) { __builtin_prefetch(line, 0, 2); });
    }

    // A tile, by loads: nothing else is there to be done, and they set the hardware's own prefetches
    // going.
    void load_tile() {
        each_line(TILE * span->num_items(), [](const char* line) {
            (void)*(const volatile char*)line;
        });
    }

    // Past the first tile, which is likely to be here.
    void skip_tile() { position += TILE; }

   private:
    static constexpr int64_t LINE = 64;

    const Item* Pages<Item>::*items;
    const Span<Item>* span;
    const Span<Item>* next;
    int64_t position;
    const char* line = nullptr;
    const char* stop = nullptr;

    template <class Visit>
    void each_line(int64_t num_items, const Visit& visit) {
        for (int64_t n = num_items * int64_t(sizeof(Item)); n > 0;) {
            if (line >= stop && !advance()) return;
            const char *const from = line, *const end = from + least(n, stop - from);
            line = end;
            for (const char* each = from; each < end; each += LINE) visit(each);
            n -= end - from;
        }
    }

    // To the next positions whose items lie together. False: there are none.
    bool advance() {
        if (position >= span->end) {
            if (!next) return false;
            span = next;
            next = nullptr;
            position = span->start;
        }
        const Pages<Item>& pages = span->pages;
        const int64_t block = int64_t(1) << pages.block_shift;
        const int64_t count = span->num_items() < pages.token_items
                                  ? 1
                                  : least(block - position % block, span->end - position);
        line = (const char*)(pages.*items + pages.offset(position));
        stop = line + count * span->num_items() * int64_t(sizeof(Item));
        position += count;
        return true;
    }
};

template <class Item>
struct Ahead {
    Prefetch<Item> keys;
    Prefetch<Item> values;

    Ahead(const Span<Item>& span, const Span<Item>* next)
        : keys(&Pages<Item>::keys, span, next), values(&Pages<Item>::values, span, next) {}

    void load_tile() {
        keys.load_tile();
        values.load_tile();
    }

    void skip_tile() {
        keys.skip_tile();
        values.skip_tile();
    }
};

}  // namespace tandem
