// Stands before `kernels.cpp` where a processor has no AMX: its tiles by plain loops, as Intel's manual
// describes them. What a processor would refuse ends the process.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

struct Tile {
    int num_rows = 0;
    int row_bytes = 0;
    uint32_t words[16][16];
};

struct State {
    bool is_configured = false;
    Tile tiles[8];
};

inline State& state() {
    static thread_local State state;
    return state;
}

inline void refuse_unless(bool is_right, const char* what) {
    if (is_right) return;
    fprintf(stderr, "AMX: %s\n", what);
    abort();
}

inline Tile& tile(int index) {
    refuse_unless(state().is_configured, "no tile has a size");
    Tile& tile = state().tiles[index];
    refuse_unless(tile.num_rows && tile.row_bytes, "this tile has no size");
    return tile;
}

inline void clear(Tile& tile) { memset(tile.words, 0, sizeof tile.words); }

inline void configure(const void* sizes) {
    const uint8_t* const bytes = (const uint8_t*)sizes;
    refuse_unless(bytes[0] == 1 && bytes[1] == 0, "not palette 1, from row 0 on");
    for (int i = 2; i < 16; i++) refuse_unless(bytes[i] == 0, "what is reserved is 0");
    for (int i = 0; i < 16; i++) {
        uint16_t row_bytes;
        memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof row_bytes);
        const int num_rows = bytes[48 + i];
        refuse_unless(row_bytes <= 64 && num_rows <= 16, "a tile is too large");
        refuse_unless(i < 8 || (!row_bytes && !num_rows), "there are eight tiles");
        refuse_unless(!row_bytes == !num_rows, "a tile has rows and bytes, or neither");
        if (i >= 8) continue;
        Tile& tile = state().tiles[i];
        tile.num_rows = num_rows;
        tile.row_bytes = row_bytes;
        clear(tile);
    }
    state().is_configured = true;
}

inline void release() { state() = State{}; }

inline void zero(int index) { clear(tile(index)); }

inline void load(int index, const void* from, int64_t stride) {
    Tile& to = tile(index);
    clear(to);
    for (int row = 0; row < to.num_rows; row++)
        memcpy(to.words[row], (const char*)from + row * stride, to.row_bytes);
}

inline void store(int index, void* to, int64_t stride) {
    const Tile& from = tile(index);
    for (int row = 0; row < from.num_rows; row++)
        memcpy((char*)to + row * stride, from.words[row], from.row_bytes);
}

// What is too small for normal numbers is 0.
inline float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0 * value : value; }

inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return flushed(value);
}

inline float sum_of_product(float sum, uint32_t a, uint32_t b) {
    return flushed(std::fma(as_float(a), as_float(b), sum));
}

inline void multiply_bfloat16(int sums, int rows, int columns) {
    Tile &to = tile(sums), &a = tile(rows), &b = tile(columns);
    refuse_unless(sums != rows && sums != columns && rows != columns, "three tiles");
    refuse_unless(to.num_rows == a.num_rows, "as many rows of sums");
    refuse_unless(to.row_bytes == b.row_bytes, "as many columns of sums");
    refuse_unless(a.row_bytes == 4 * b.num_rows, "as many items to sum over");
    for (int m = 0; m < to.num_rows; m++)
        for (int n = 0; n < to.row_bytes / 4; n++) {
            float first = 0, second = 0;
            for (int k = 0; k < b.num_rows; k++) {
                const uint32_t left = a.words[m][k], right = b.words[k][n];
                first = sum_of_product(first, left << 16, right << 16);
                second = sum_of_product(second, left & 0xffff0000, right & 0xffff0000);
            }
            const float sum = flushed(as_float(to.words[m][n]) + flushed(first + second));
            memcpy(&to.words[m][n], &sum, sizeof sum);
        }
}

}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(sizes) emulated::configure(sizes)
#define _tile_release() emulated::release()
#define _tile_zero(tile) emulated::zero(tile)
#define _tile_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated::store(tile, to, stride)
#define _tile_dpbf16ps(sums, rows, columns) emulated::multiply_bfloat16(sums, rows, columns)
