// The C interface, for ctypes. `is_bfloat16` names the items of T: bfloat16, else float32. What
// returns a bool says whether there was memory for it.
#include <iterator>

#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define TANDEM_ASKS_FOR_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "paged.h"

namespace tandem {

// Whether this processor has AMX for bfloat16, and the system lets this process, which asks for it
// here, use it.
inline bool has_amx() {
#if TANDEM_ASKS_FOR_AMX
    constexpr unsigned BF16 = 1u << 22, TILES = 1u << 24;
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && edx & BF16 && edx & TILES &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

template <class T>
void pack(int32_t* to, const T* from, int64_t n, int64_t k) {
    const int64_t depth = k / PER_WORD<T>;
    const int32_t* rows = (const int32_t*)from;
    for (int64_t i = 0; i < n; i += WIDTH, to += depth * WIDTH)
        for (int64_t j = 0; j < depth; j++)
            for (int64_t column = 0; column < WIDTH; column++)
                to[j * WIDTH + column] = i + column < n ? rows[(i + column) * depth + j] : 0;
}

// Row i of plain packed weights, as float32.
template <class T>
void unpack_row(float* to, const Linear& linear, int64_t i) {
    const int32_t* column = linear.panel<T>(i / WIDTH) + i % WIDTH;
    for (int64_t j = 0; j < linear.depth; j++) {
        const uint32_t word = column[j * WIDTH];
        for (int part = 0; part < PER_WORD<T>; part++) {
            const uint32_t bits = PER_WORD<T> == 1 ? word : part ? word & 0xffff0000 : word << 16;
            memcpy(to + j * PER_WORD<T> + part, &bits, sizeof bits);
        }
    }
}

template <class T>
void embed(const Model& model, const Linear& embedding, const Step& step, const int64_t* token_ids) {
    const int64_t stride = padded(model.hidden_size);
    const int64_t num_shares = least(step.num_rows, 4 * step.team.num_threads);
    step.team.each(num_shares, [&](int64_t share) {
        const int64_t last = step.num_rows * (share + 1) / num_shares;
        for (int64_t i = step.num_rows * share / num_shares; i < last; i++) {
            memset(step.hidden + i * stride, 0, stride * sizeof(float));
            unpack_row<T>(step.hidden + i * stride, embedding, token_ids[i]);
        }
    });
}

template <class T>
void logits(const Model& model, const Step& step, const int64_t* rows, int64_t num_rows, float* to) {
    if (num_rows == 0) return;
    const int64_t stride = padded(model.hidden_size), n = model.lm_head.n;
    T* const normed = (T*)step.normed;
    const Operand<T> operand(model.lm_head, normed, stride, num_rows);
    RowBlock{step.team, 0, num_rows}.each_rows([&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++)
            rms_norm(
                normed + i * stride, step.hidden + rows[i] * stride, model.final_norm,
                model.hidden_size, model.eps
            );
        operand.convert(first, last);
    });
    const int64_t num_panels = model.lm_head.num_panels();
    const int64_t num_shares = least(num_panels, 32 * step.team.num_threads);
    step.team.each(num_shares, [&](int64_t share) {
        operand.multiply(
            num_panels * share / num_shares, num_panels * (share + 1) / num_shares,
            [&](int64_t row, int64_t output, const Sums& sums) {
                memcpy(to + row * n + output, &sums, least(WIDTH, n - output) * sizeof(float));
            }
        );
    });
}

template <class T>
void linear(const Team& team, const Linear& linear, const T* rows, int64_t num_rows, float* to) {
    const Operand<T> operand(linear, rows, linear.k<T>(), num_rows);
    const RowBlock block{team, 0, num_rows};
    block.each_rows([&](int64_t first, int64_t last) { operand.convert(first, last); });
    block.each_share(linear.num_panels(), [&](int64_t first, int64_t last) {
        operand.multiply(first, last, [&](int64_t row, int64_t output, const Sums& sums) {
            const int64_t count = least(WIDTH, linear.n - output);
            memcpy(to + row * linear.n + output, &sums, count * sizeof(float));
        });
    });
}

template <class T>
void before_attention(const Model& model, const Step& step, const Layer& layer) {
    model.has_int8_kv ? Forward<T, int8_t>{model, step, layer}.before_attention()
                      : Forward<T, T>{model, step, layer}.before_attention();
}

template <class T>
void attention(const Model& model, const Step& step, const Layer& layer) {
    model.has_int8_kv ? PagedAttention<T, int8_t>{model, step, layer}.run()
                      : PagedAttention<T, T>{model, step, layer}.run();
}

}  // namespace tandem

using namespace tandem;

#pragma GCC visibility push(default)
extern "C" {

// The instructions that this process can use, from 0 on: none in particular, AVX2 with FMA, AVX-512 with
// bfloat16 and VNNI, and AMX with bfloat16 besides.
int64_t tandem_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
    return !avx2 ? 0 : !avx512 ? 1 : !has_amx() ? 2 : 3;
#else
    return 0;
#endif
}

// What the bits of a result depend on: the sources.
const char* tandem_build() { return TANDEM_BUILD; }

// Outputs of a panel: what pads weights and rows.
int64_t tandem_width() { return WIDTH; }

// The largest that attention takes: items of a head, and heads that share a KV head.
int64_t tandem_max_head_dim() { return MAX_HEAD_DIM; }
int64_t tandem_max_group() { return QUERY_ROWS; }

// The bytes of each struct of `structs.py`, in its order; 0 past the last.
int64_t tandem_struct_bytes(int64_t index) {
    const size_t bytes[] = {sizeof(Team), sizeof(Linear), sizeof(Layer), sizeof(Model), sizeof(Step)};
    return index < int64_t(std::size(bytes)) ? bytes[index] : 0;
}

void tandem_pack(bool is_bfloat16, void* to, const void* from, int64_t n, int64_t k) {
    is_bfloat16 ? pack((int32_t*)to, (const bfloat16*)from, n, k)
                : pack((int32_t*)to, (const float*)from, n, k);
}

// The bytes of weights quantised to 4 or 8 bits.
int64_t tandem_quantized_bytes(int64_t bits, int64_t n, int64_t k) {
    const int64_t words = num_groups(k) * (bits == 4 ? GROUP_WORDS<4> : GROUP_WORDS<8>);
    return ceil_div(n, WIDTH) * words * sizeof(int32_t);
}

void tandem_quantize(
    bool is_bfloat16, int64_t bits, void* to, const void* from, int64_t n, int64_t k
) {
    int32_t* panels = (int32_t*)to;
    if (is_bfloat16) {
        const bfloat16* rows = (const bfloat16*)from;
        bits == 4 ? quantize<bfloat16, 4>(panels, rows, n, k)
                  : quantize<bfloat16, 8>(panels, rows, n, k);
    } else {
        const float* rows = (const float*)from;
        bits == 4 ? quantize<float, 4>(panels, rows, n, k) : quantize<float, 8>(panels, rows, n, k);
    }
}

void tandem_embed(
    bool is_bfloat16, const Model* model, const Linear* embedding, const Step* step,
    const int64_t* token_ids
) {
    is_bfloat16 ? embed<bfloat16>(*model, *embedding, *step, token_ids)
                : embed<float>(*model, *embedding, *step, token_ids);
}

bool tandem_before_attention(bool is_bfloat16, const Model* model, const Step* step, int64_t layer) {
    return has_memory_for([&] {
        is_bfloat16 ? before_attention<bfloat16>(*model, *step, model->layers[layer])
                    : before_attention<float>(*model, *step, model->layers[layer]);
    });
}

bool tandem_attention(bool is_bfloat16, const Model* model, const Step* step, int64_t layer) {
    return has_memory_for([&] {
        is_bfloat16 ? attention<bfloat16>(*model, *step, model->layers[layer])
                    : attention<float>(*model, *step, model->layers[layer]);
    });
}

bool tandem_after_attention(bool is_bfloat16, const Model* model, const Step* step, int64_t layer) {
    const Layer& its = model->layers[layer];
    return has_memory_for([&] {
        is_bfloat16 ? Forward<bfloat16, bfloat16>{*model, *step, its}.after_attention()
                    : Forward<float, float>{*model, *step, its}.after_attention();
    });
}

bool tandem_logits(
    bool is_bfloat16, const Model* model, const Step* step, const int64_t* rows, int64_t num_rows,
    float* to
) {
    return has_memory_for([&] {
        is_bfloat16 ? logits<bfloat16>(*model, *step, rows, num_rows, to)
                    : logits<float>(*model, *step, rows, num_rows, to);
    });
}

bool tandem_linear(
    bool is_bfloat16, const Team* team, const Linear* linear_, const void* rows, int64_t num_rows,
    float* to
) {
    return has_memory_for([&] {
        is_bfloat16 ? linear(*team, *linear_, (const bfloat16*)rows, num_rows, to)
                    : linear(*team, *linear_, (const float*)rows, num_rows, to);
    });
}

// Writes to each page of some memory, and changes nothing in it, whoever else writes to it: the system
// gives pages, and clears them, when they are written to first.
void tandem_touch(char* memory, int64_t num_bytes) {
    const int64_t PAGE = 4096;
    static volatile char nothing = 0;
    for (int64_t i = 0; i < num_bytes; i += PAGE)
        __atomic_fetch_add(memory + i, nothing, __ATOMIC_RELAXED);
}

// Reads memory and does nothing with it: how fast that can be. Returns a sum.
int64_t tandem_read(const Team* team, const void* from, int64_t num_bytes) {
    const int64_t SHARE = 1 << 20;
    std::atomic<int64_t> result{0};
    team->each(num_bytes / SHARE, [&](int64_t share) {
        const int32_t* words = (const int32_t*)from + share * SHARE / 4;
        Words sums[4] = {};
        for (int64_t i = 0; i < SHARE / 4; i += 4 * LANES) {
            fetch<For::READING, Level::SECOND>(words + i + 1024, 4 * LANES);
            for (int j = 0; j < 4; j++) sums[j] += load<Words>(words + i + j * LANES);
        }
        const Words sum = sums[0] + sums[1] + sums[2] + sums[3];
        int64_t own = 0;
        for (int i = 0; i < LANES; i++) own += sum[i];
        result += own;
    });
    return result;
}

}  // extern "C"
#pragma GCC visibility pop
