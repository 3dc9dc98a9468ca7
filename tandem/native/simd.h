// Vectors of float32 for the instruction set that this file is compiled for: AVX-512 with bfloat16
// and VNNI, AVX2 with FMA, or whatever the compiler makes of vectors of four.
//
// Built with -ffp-contract=off: a product and a sum are fused where `fma` says so and nowhere else,
// so that a value has the same bits in whichever loop the compiler puts it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tandem {

#if defined(__AVX512BF16__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Words __attribute__((vector_size(LANES * 4)));
typedef int16_t Halves __attribute__((vector_size(LANES * 4)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

struct bfloat16 {
    uint16_t bits;
};

// Matrices are read by words of 32 bits: one float32, or two neighbouring bfloat16.
template <class T>
constexpr int PER_WORD = sizeof(int32_t) / sizeof(T);

template <class V>
inline V load(const void* from) {
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}

template <class V>
inline void store(void* to, V value) {
    memcpy(to, &value, sizeof value);
}

enum class For { READING, WRITING };

// The cache that they come to.
enum class Level { FIRST = 3, SECOND = 2 };

// Has the items come that are wanted soon.
template <For FOR, Level LEVEL = Level::FIRST, class Item>
inline void fetch(const Item* items, int64_t num_items) {
    constexpr int64_t LINE = 64 / sizeof(Item);
    for (int64_t i = 0; i < num_items; i += LINE)
        __builtin_prefetch(items + i, FOR == For::WRITING, int(LEVEL));
}

inline Floats splat(float value) { return value - Floats{}; }

inline Words splat_word(const int32_t* from) {
#if defined(__AVX512BF16__)
    return (Words)_mm512_set1_epi32(*from);
#elif defined(__AVX2__)
    return (Words)_mm256_set1_epi32(*from);
#else
    return *from - Words{};
#endif
}

inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

// Where one of them is no number, it is `b`.
inline Floats max(Floats a, Floats b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

// Of a vector's items.
#if defined(__AVX512BF16__)
inline float highest(Floats a) { return _mm512_reduce_max_ps((__m512)a); }
inline int32_t highest(Words a) { return _mm512_reduce_max_epi32((__m512i)a); }
inline float total(Floats a) { return _mm512_reduce_add_ps((__m512)a); }
inline int32_t total(Words a) { return _mm512_reduce_add_epi32((__m512i)a); }
#else
template <class V>
inline auto highest(V a) {
    auto value = a[0];
    for (int i = 1; i < LANES; i++) value = a[i] > value ? a[i] : value;
    return value;
}

template <class V>
inline auto total(V a) {
    auto value = a[0];
    for (int i = 1; i < LANES; i++) value += a[i];
    return value;
}

#if defined(__AVX2__)
// Of integers by halves, which is the same.
template <class Combine>
inline int32_t combined(Words a, const Combine& combine) {
    __m128i half = combine(_mm256_castsi256_si128((__m256i)a), _mm256_extracti128_si256((__m256i)a, 1));
    half = combine(half, _mm_shuffle_epi32(half, 0b01001110));
    half = combine(half, _mm_shuffle_epi32(half, 0b10110001));
    return _mm_cvtsi128_si32(half);
}
inline int32_t highest(Words a) {
    return combined(a, [](__m128i x, __m128i y) { return _mm_max_epi32(x, y); });
}
inline int32_t total(Words a) {
    return combined(a, [](__m128i x, __m128i y) { return _mm_add_epi32(x, y); });
}
#endif
#endif

// 1.5 * 2^23: added to what is less than 2^22, it leaves no bits for a fraction.
constexpr float WHOLE = 12582912.0f;

// To the nearest integers, ties to even.
inline Words nearest(Floats x) { return (Words)(x + WHOLE) - (Words)splat(WHOLE); }

// 32 words that fit into bytes.
inline void store_bytes(void* to, const Words (&words)[32 / LANES]) {
#if defined(__AVX2__) && !defined(__AVX512BF16__)
    const __m256i low = _mm256_packs_epi32((__m256i)words[0], (__m256i)words[1]);
    const __m256i high = _mm256_packs_epi32((__m256i)words[2], (__m256i)words[3]);
    // Packed by halves of a vector: words of four bytes, 0, 2, 4, 6 of the first half and so on.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    store(to, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
#else
    for (int i = 0; i < 32 / LANES; i++)
        store((int8_t*)to + i * LANES, __builtin_convertvector(words[i], Bytes));
#endif
}

// The two bfloat16 of each word.
inline Floats low_half(Words words) { return (Floats)(words << 16); }
inline Floats high_half(Words words) { return (Floats)(words & int32_t(0xffff0000)); }

// Of each lane of 128 bits, the lower (upper) halves of `a` and `b`: their words in turn, or one half
// after the other.
#if defined(__AVX512BF16__)
inline Words zip_low(Words a, Words b) {
    return (Words)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b);
}
inline Words zip_high(Words a, Words b) {
    return (Words)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b);
}
inline Words join_low(Words a, Words b) {
    return (Words)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}
inline Words join_high(Words a, Words b) {
    return (Words)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b);
}
#elif defined(__AVX2__)
inline Words zip_low(Words a, Words b) {
    return (Words)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b);
}
inline Words zip_high(Words a, Words b) {
    return (Words)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b);
}
inline Words join_low(Words a, Words b) {
    return (Words)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
}
inline Words join_high(Words a, Words b) {
    return (Words)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
}
#else
inline Words zip_low(Words a, Words b) { return Words{a[0], b[0], a[1], b[1]}; }
inline Words zip_high(Words a, Words b) { return Words{a[2], b[2], a[3], b[3]}; }
inline Words join_low(Words a, Words b) { return Words{a[0], a[1], b[0], b[1]}; }
inline Words join_high(Words a, Words b) { return Words{a[2], a[3], b[2], b[3]}; }
#endif

// sum + a * b, over the items of each word.
template <class T>
inline Floats dot(Floats sum, Words a, Words b);

template <>
inline Floats dot<float>(Floats sum, Words a, Words b) {
    return fma((Floats)a, (Floats)b, sum);
}

template <>
inline Floats dot<bfloat16>(Floats sum, Words a, Words b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512i)a, (__m512bh)(__m512i)b);
#else
    sum = fma(low_half(a), low_half(b), sum);
    return fma(high_half(a), high_half(b), sum);
#endif
}

inline Floats load_floats(const float* from) { return load<Floats>(from); }

inline Floats load_floats(const bfloat16* from) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(from)), 16);
#elif defined(__AVX2__)
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16);
#else
    Words words;
    for (int i = 0; i < LANES; i++) words[i] = int32_t(uint32_t(from[i].bits) << 16);
    return (Floats)words;
#endif
}

inline Floats load_floats(const int8_t* from) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from)));
#elif defined(__AVX2__)
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
    Floats values;
    for (int i = 0; i < LANES; i++) values[i] = from[i];
    return values;
#endif
}

inline void store_floats(float* to, Floats value) { store(to, value); }

inline void store_floats(bfloat16* to, Floats value) {
#if defined(__AVX512BF16__)
    store(to, (__m256i)_mm512_cvtneps_pbh((__m512)value));
#else
    // To the nearest, ties to even. What is no number stays none.
    const Words bits = (Words)value;
    Words rounded = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) & 0xffff;
    rounded = value == value ? rounded : Words{} + 0x7fc0;
#if defined(__AVX2__)
    const __m256i packed = _mm256_packus_epi32((__m256i)rounded, (__m256i)rounded);
    store(to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0b1000)));
#else
    for (int i = 0; i < LANES; i++) to[i].bits = uint16_t(rounded[i]);
#endif
#endif
}

inline void round_to(float& to, float from) { to = from; }

inline void round_to(bfloat16& to, float from) {
    uint32_t bits;
    memcpy(&bits, &from, sizeof bits);
    to.bits = from == from ? uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fc0;
}

inline float to_float(float from) { return from; }

inline float to_float(bfloat16 from) {
    const uint32_t bits = uint32_t(from.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// 2^x, 1 for 0, and 0 from -150 down (AVX-512: below -126 what is too small for float32's normal
// numbers, else 0); `x` below 126. What is no number stays none. Good to 9e-8 for float32; what is
// rounded to bfloat16 afterwards gets 3e-6.
template <class T>
inline Floats exp2(Floats x) {
    x = max(splat(-200.0f), x);
#if defined(__AVX512BF16__)
    const Floats whole = (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#else
    const Floats shifted = x + WHOLE;
    const Floats whole = shifted - WHOLE;
#endif
    const Floats rest = x - whole;
    Floats sum;
    if constexpr (sizeof(T) == 4) {
        sum = fma(splat(1.326472396e-3f), rest, splat(9.671512946e-3f));
        sum = fma(sum, rest, splat(5.550733755e-2f));
        sum = fma(sum, rest, splat(2.402224208e-1f));
        sum = fma(sum, rest, splat(6.931469776e-1f));
    } else {
        sum = fma(splat(9.582850759e-3f), rest, splat(5.590642892e-2f));
        sum = fma(sum, rest, splat(2.402409869e-1f));
        sum = fma(sum, rest, splat(6.931241927e-1f));
    }
    sum = fma(sum, rest, splat(1.0f));
#if defined(__AVX512BF16__)
    return (Floats)_mm512_scalef_ps((__m512)sum, (__m512)whole);
#else
    // A product, which is exact, and not a sum of exponents: that would make numbers of some that
    // are none.
    const Floats power = (Floats)(((Words)shifted - ((Words)splat(WHOLE) - 127)) << 23);
    return x < splat(-126.0f) ? Floats{} : sum * power;
#endif
}

}  // namespace tandem
