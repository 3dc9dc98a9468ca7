// Products by AMX, where the processor sums tiles: 16 rows by 16 outputs, over 16 words of k at a time.
//
// It takes rows and panels as they are (`matmul.h`). Each output is one chain of sums along k here,
// too, if another one than elsewhere: of 16 words the first items and the second ones by themselves,
// and both together added to the sum. So few rows are a product of tiles as well, here and in
// attention.
#pragma once

#include "matmul.h"
#include "memory.h"

#if defined(__AVX512BF16__) && __has_include(<amxbf16intrin.h>)
// (The header is GCC's: other compilers' builds go on without.)
#define TANDEM_HAS_AMX 1
// All else is compiled for processors without it.
#define TANDEM_AMX __attribute__((target("amx-tile,amx-bf16")))
#endif

namespace tandem {

// A tile's rows, and its words of each, at the most.
constexpr int TILE_ROWS = 16;
constexpr int TILE_WORDS = 16;

// Whether there are products of T by tiles.
#if TANDEM_HAS_AMX
template <class T>
constexpr bool HAS_TILES = std::is_same_v<T, bfloat16>;

static_assert(WIDTH == 2 * TILE_WORDS, "a panel is two tiles wide");

// What was stored before this is in memory, also `object`, which may be anyone's own: the compiler is
// not told what the intrinsics of tiles read.
inline void finish_stores(const void* object = nullptr) { asm volatile("" ::"r"(object) : "memory"); }

// What `ldtilecfg` reads.
struct alignas(CACHE_LINE) TileSizes {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t num_rows[16] = {};

    void set(int tile, int64_t rows) {
        row_bytes[tile] = TILE_WORDS * sizeof(int32_t);
        num_rows[tile] = uint8_t(rows);
    }
};

// Rows of two neighbouring bfloat16 a word.
struct TileRows {
    const int32_t* first;
    int64_t stride;  // words from one row to the next
};

// The tiles of the thread that is here, for products of `height` rows, or twice as many, with panels:
// sums of the first rows (0, 1) and of the second ones (2, 3), rows (4, 5), a panel's halves (6, 7).
class Tiles {
   public:
    TANDEM_AMX explicit Tiles(int64_t height) : height(height) {
        TileSizes sizes;
        for (int tile = 0; tile < 6; tile++) sizes.set(tile, height);
        for (int tile = 6; tile < 8; tile++) sizes.set(tile, TILE_ROWS);
        finish_stores(&sizes);
        _tile_loadconfig(&sizes);
    }
    Tiles(const Tiles&) = delete;
    TANDEM_AMX ~Tiles() { _tile_release(); }

    // sums[i] = rows[i] . panel, over `depth` words, or with IS_MORE what there is plus that. The
    // memory at `ahead`, as much as the panel, is wanted soon if there is any.
    template <int COUNT, bool IS_MORE = false>
    TANDEM_AMX void multiply(
        Sums (&sums)[COUNT][TILE_ROWS], const TileRows (&rows)[COUNT], const int32_t* panel,
        int64_t depth, const int32_t* ahead
    ) const {
        const int64_t whole = depth / TILE_WORDS * TILE_WORDS;
        Rest<COUNT> rest;
        // Before there are sums: who copies may use tiles himself.
        if (whole < depth) rest.copy(rows, height, panel, whole, depth);
        finish_stores();
        if constexpr (IS_MORE) {
            static_assert(COUNT == 1, "of other sums nobody has wanted more");
            _tile_loadd(0, &sums[0][0].left, sizeof(Sums));
            _tile_loadd(1, &sums[0][0].right, sizeof(Sums));
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int64_t k = 0; k < whole; k += TILE_WORDS)
            add<COUNT>(rows, k, panel + k * WIDTH, ahead ? ahead + k * WIDTH : nullptr);
        if (whole < depth) add<COUNT>(rest.rows, 0, rest.lines, nullptr);
        _tile_stored(0, &sums[0][0].left, sizeof(Sums));
        _tile_stored(1, &sums[0][0].right, sizeof(Sums));
        if constexpr (COUNT == 2) {
            _tile_stored(2, &sums[1][0].left, sizeof(Sums));
            _tile_stored(3, &sums[1][0].right, sizeof(Sums));
        }
    }

   private:
    int64_t height;

    // The words past whole tiles' of each row and of a panel, in copies that zeros make a tile's.
    template <int COUNT>
    struct Rest {
        alignas(CACHE_LINE) int32_t lines[TILE_WORDS * WIDTH];
        alignas(CACHE_LINE) int32_t words[COUNT][TILE_ROWS * TILE_WORDS];
        TileRows rows[COUNT];

        void copy(
            const TileRows (&from)[COUNT], int64_t height, const int32_t* panel, int64_t first,
            int64_t last
        ) {
            memset(lines, 0, sizeof lines);
            memset(words, 0, sizeof words);
            memcpy(lines, panel + first * WIDTH, (last - first) * WIDTH * sizeof(int32_t));
            for (int i = 0; i < COUNT; i++) {
                for (int64_t row = 0; row < height; row++)
                    memcpy(
                        words[i] + row * TILE_WORDS, from[i].first + row * from[i].stride + first,
                        (last - first) * sizeof(int32_t)
                    );
                rows[i] = {words[i], TILE_WORDS};
            }
        }
    };

    // Adds the products of words [k, k + TILE_WORDS) of the rows with those lines of a panel. As many
    // are fetched from `ahead`, if it is there, little by little: both come through the same few
    // buffers.
    template <int COUNT>
    TANDEM_AMX void add(
        const TileRows (&rows)[COUNT], int64_t k, const int32_t* lines, const int32_t* ahead
    ) const {
        fetch_quarter(ahead, 0);
        _tile_loadd(6, lines, WIDTH * sizeof(int32_t));
        fetch_quarter(ahead, 1);
        _tile_loadd(7, lines + TILE_WORDS, WIDTH * sizeof(int32_t));
        fetch_quarter(ahead, 2);
        _tile_loadd(4, rows[0].first + k, rows[0].stride * sizeof(int32_t));
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        fetch_quarter(ahead, 3);
        if constexpr (COUNT == 2) {
            _tile_loadd(5, rows[1].first + k, rows[1].stride * sizeof(int32_t));
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }

    // Inlined, or the compiler takes it for a function that does nothing.
    static inline __attribute__((always_inline)) void fetch_quarter(
        const int32_t* ahead, int quarter
    ) {
        constexpr int WORDS = TILE_WORDS * WIDTH / 4;
        if (!ahead) return;
        for (int i = 0; i < WORDS; i += LANES)
            __builtin_prefetch(ahead + quarter * WORDS + i, 0, 2);
    }
};

// put(row, panel, sums) for `num_rows` rows and panels [first, last), which are at panel_of(i), of
// `depth` words each. All rows of a panel come before the next panel's.
template <class PanelOf, class Put>
TANDEM_AMX void multiply_by_tiles(
    TileRows rows, int64_t num_rows, int64_t depth, int64_t first, int64_t last,
    const PanelOf& panel_of, const Put& put
) {
    const int64_t num_tiles = ceil_div(num_rows, TILE_ROWS), height = ceil_div(num_rows, num_tiles);
    const Tiles tiles(height);
    // All have one height: the last one may begin with rows of the one before.
    const auto first_row = [&](int64_t tile) { return least(tile * height, num_rows - height); };
    for (int64_t i = first; i < last; i++) {
        const int32_t* const panel = panel_of(i);
        const int32_t* const next = i + 1 < last ? panel_of(i + 1) : nullptr;
        const auto multiply = [&](int64_t tile, auto num_at_once) TANDEM_AMX {
            constexpr int COUNT = decltype(num_at_once)::value;
            TileRows its_rows[COUNT];
            for (int j = 0; j < COUNT; j++)
                its_rows[j] = {rows.first + first_row(tile + j) * rows.stride, rows.stride};
            Sums sums[COUNT][TILE_ROWS];
            tiles.multiply<COUNT>(sums, its_rows, panel, depth, tile ? nullptr : next);
            for (int j = 0; j < COUNT; j++) {
                const int64_t row = (tile + j) * height, end = least(row + height, num_rows);
                for (int64_t r = row; r < end; r++) put(r, i, sums[j][r - first_row(tile + j)]);
            }
        };
        int64_t tile = 0;
        for (; tile + 2 <= num_tiles; tile += 2) multiply(tile, std::integral_constant<int, 2>{});
        if (tile < num_tiles) multiply(tile, std::integral_constant<int, 1>{});
    }
}

#else
template <class T>
constexpr bool HAS_TILES = false;

struct Tiles {
    explicit Tiles(int64_t) {}
};
#endif

}  // namespace tandem
