// Stands before `kernels.cpp` where a processor has no AVX-512: its instructions by those of AVX2,
// from SIMDe's headers and, what these lack or leave to the compiler, from here. It is slow, and sums
// of a vector's floats may be in another order than the processor's.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

namespace emulated {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Words __attribute__((vector_size(64)));
typedef uint16_t Bfloat16s __attribute__((vector_size(32)));

template <class Item, class Vector>
Words widened(Vector from) {
    Item items[16];
    memcpy(items, &from, sizeof items);
    Words to;
    for (int i = 0; i < 16; i++) to[i] = items[i];
    return to;
}

inline Bfloat16s rounded(Floats from) {
    Bfloat16s to;
    for (int i = 0; i < 16; i++) {
        const float value = from[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        to[i] = value == value ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : 0x7fc0;
    }
    return to;
}

inline Words rounded(Floats high, Floats low) {
    const Bfloat16s halves[] = {rounded(low), rounded(high)};
    Words to;
    memcpy(&to, halves, sizeof to);
    return to;
}

template <class Vector>
auto highest(Vector from) {
    auto value = from[0];
    for (int i = 1; i < 16; i++) value = from[i] > value ? from[i] : value;
    return value;
}

template <class Vector>
auto total(Vector from) {
    for (int count = 8; count; count /= 2)
        for (int i = 0; i < count; i++) from[i] += from[i + count];
    return from[0];
}

}  // namespace emulated

#define _mm512_cvtepu16_epi32(a) ((__m512i)emulated::widened<uint16_t>(a))
#define _mm512_cvtepi8_epi32(a) ((__m512i)emulated::widened<int8_t>(a))
#define _mm512_cvtepi32_ps(a) ((__m512)__builtin_convertvector((emulated::Words)(a), emulated::Floats))
#define _mm512_cvtneps_pbh(a) emulated::rounded((emulated::Floats)(a))
#define _mm512_cvtne2ps_pbh(a, b) emulated::rounded((emulated::Floats)(a), (emulated::Floats)(b))
#define _mm512_reduce_max_ps(a) emulated::highest((emulated::Floats)(a))
#define _mm512_reduce_max_epi32(a) emulated::highest((emulated::Words)(a))
#define _mm512_reduce_add_epi32(a) emulated::total((emulated::Words)(a))
#define _mm512_reduce_add_ps(a) emulated::total((emulated::Floats)(a))

// What the kernels take for the instructions. Not before SIMDe's headers, which would believe it.
#define __AVX512BF16__ 1
#define __AVX512VNNI__ 1
