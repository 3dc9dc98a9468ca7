// A decoder's layers over the rows of one step: all of it but the embedding is a few products with
// packed weights, and what happens between them. The structs are those of `structs.py`.
#pragma once

#include "linear.h"
#include "pages.h"
#include "rows.h"
#include "team.h"

namespace tandem {

struct Layer {
    const float* attention_norm;  // [padded hidden_size], as is mlp_norm
    const float* qk_norm;         // [num_heads + num_kv_heads, head_dim], or null
    const float* mlp_norm;
    Linear qkv;
    Linear output;
    Linear gate_up;  // a panel of gates, then the panel of their ups, and so on
    Linear down;
    int64_t window;  // 0: none
    void* keys;      // [num_blocks, block_size, num_kv_heads, cached items], as are values
    void* values;
};

struct Model {
    int64_t hidden_size;
    int64_t inner_size;
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
    int64_t block_size;
    float eps;
    const float* cosines;  // [positions, head_dim], as are sines
    const float* sines;
    const float* final_norm;
    Linear lm_head;
    const Layer* layers;
    int64_t has_int8_kv;  // the cache's items are int8, a scale behind those of each head; else T
    int64_t by_tiles;     // attention multiplies by AMX's
};

// Items that a head takes in the cache.
template <class Item>
constexpr int64_t cached_items(const Model& model) {
    return model.head_dim + SCALE_BYTES<Item> / int64_t(sizeof(Item));
}

// Sequence i has rows [rows[i], rows[i + 1]), from position starts[i] on, and its blocks in
// tables[i]. Buffers have a row each, padded; T is the model's type.
struct Step {
    Team team;
    int64_t num_rows;
    int64_t num_sequences;
    const int64_t* rows;
    const int64_t* starts;
    const int32_t* tables;
    int64_t table_width;
    const int64_t* positions;  // [num_rows], as are slots
    const int64_t* slots;      // block * block_size + offset
    float* hidden;             // [num_rows, hidden_size]: the residual stream
    void* normed;              // T [num_rows, hidden_size]
    float* qkv;                // [num_rows, (num_heads + 2 * num_kv_heads) * head_dim]
    void* queries;             // T [num_rows, num_heads * head_dim], as is attended
    void* attended;
    void* inner;  // T [num_rows, inner_size]
};

// With so many rows for each thread, threads take rows of their own through all products, each
// reading all weights, and wait for each other at attention alone; with fewer they share the weights.
constexpr int64_t ROWS_OF_ONE = 28;
// What is done to fewer rows by themselves takes less time than the threads' waiting for each other.
constexpr int64_t ROWS_OF_A_SHARE = 16;

// Rows [row, row + count) of a step, and the threads that share their products.
struct RowBlock {
    Team team;
    int64_t row;
    int64_t count;

    // work(first, last) for shares of panels.
    template <class Work>
    void each_share(int64_t num_panels, const Work& work) const {
        const int64_t num_shares = team.is_one() ? 1 : least(num_panels, 4 * team.num_threads);
        team.each(num_shares, [&](int64_t i) {
            work(num_panels * i / num_shares, num_panels * (i + 1) / num_shares);
        });
    }

    // work(first, last) for shares of rows, which are counted from the block's first.
    template <class Work>
    void each_rows(const Work& work) const {
        const int64_t num_shares =
            team.is_one() ? 1 : most(1, least(team.num_threads, count / ROWS_OF_A_SHARE));
        team.each(num_shares, [&](int64_t i) {
            work(count * i / num_shares, count * (i + 1) / num_shares);
        });
    }
};

template <class T, class Item>
struct Forward {
    const Model& model;
    const Step& step;
    const Layer& layer;

    int64_t hidden_stride() const { return padded(model.hidden_size); }
    int64_t inner_stride() const { return padded(model.inner_size); }
    int64_t query_stride() const { return padded(model.num_heads * model.head_dim); }
    int64_t qkv_stride() const { return padded(layer.qkv.n); }

    // From the residual stream to the queries, and keys and values in the cache.
    void before_attention() const {
        each_block([&](const RowBlock& block) {
            const Operand<T> normed = operand(block, layer.qkv, step.normed, hidden_stride());
            block.each_rows([&](int64_t first, int64_t last) {
                norm(layer.attention_norm, block.row + first, block.row + last);
                normed.convert(first, last);
            });
            project(block, normed);
            block.each_rows([&](int64_t first, int64_t last) {
                rotate_and_cache(block.row + first, block.row + last);
            });
        });
    }

    // From what attention gathered back to the residual stream.
    void after_attention() const {
        each_block([&](const RowBlock& block) {
            add(block, layer.output, step.attended, query_stride());
            const Operand<T> normed = operand(block, layer.gate_up, step.normed, hidden_stride());
            block.each_rows([&](int64_t first, int64_t last) {
                norm(layer.mlp_norm, block.row + first, block.row + last);
                normed.convert(first, last);
            });
            gate_up(block, normed);
            add(block, layer.down, step.inner, inner_stride());
        });
    }

   private:
    // Each thread's own blocks, or one of all rows for all threads.
    template <class Work>
    void each_block(const Work& work) const {
        const Team& team = step.team;
        const int64_t num_threads = team.is_one() ? 1 : team.num_threads, num_rows = step.num_rows;
        if (!team.is_one() && num_rows < ROWS_OF_ONE * num_threads)
            return work(RowBlock{team, 0, num_rows});
        const int64_t num_blocks = ceil_div(num_rows, BLOCK_ROWS * num_threads) * num_threads;
        team.each(num_blocks, [&](int64_t i) {
            const int64_t row = num_rows * i / num_blocks;
            work(RowBlock{Team{nullptr, 1}, row, num_rows * (i + 1) / num_blocks - row});
        });
    }

    // A block's rows of a buffer.
    Operand<T> operand(
        const RowBlock& block, const Linear& linear, const void* buffer, int64_t stride
    ) const {
        return Operand<T>(linear, (const T*)buffer + block.row * stride, stride, block.count);
    }

    void norm(const float* weight, int64_t first, int64_t last) const {
        for (int64_t i = first; i < last; i++)
            rms_norm(
                (T*)step.normed + i * hidden_stride(), step.hidden + i * hidden_stride(), weight,
                model.hidden_size, model.eps
            );
    }

    void project(const RowBlock& block, const Operand<T>& normed) const {
        block.each_share(layer.qkv.num_panels(), [&](int64_t first, int64_t last) {
            normed.multiply(first, last, [&](int64_t i, int64_t output, const Sums& sums) {
                float* to = step.qkv + (block.row + i) * qkv_stride() + output;
                store(to, sums.left);
                store(to + LANES, sums.right);
            });
        });
    }

    void rotate_and_cache(int64_t first, int64_t last) const {
        const int64_t num_heads = model.num_heads, num_kv_heads = model.num_kv_heads;
        const int64_t dim = model.head_dim;
        for (int64_t i = first; i < last; i++) {
            float* head = step.qkv + i * qkv_stride();
            const float* cosines = model.cosines + step.positions[i] * dim;
            const float* sines = model.sines + step.positions[i] * dim;
            T* query = (T*)step.queries + i * query_stride();
            const int64_t stride = cached_items<Item>(model);
            Item* key = (Item*)layer.keys + step.slots[i] * num_kv_heads * stride;
            Item* value = (Item*)layer.values + step.slots[i] * num_kv_heads * stride;
            for (int64_t h = 0; h < num_heads + num_kv_heads; h++, head += dim) {
                if (layer.qk_norm) head_norm(head, layer.qk_norm + h * dim, dim, model.eps);
                float rotated[MAX_HEAD_DIM];
                rotate(rotated, head, cosines, sines + dim / 2, dim);
                if (h < num_heads)
                    round_row(query + h * dim, rotated, dim);
                else
                    round_row(key + (h - num_heads) * stride, rotated, dim);
            }
            for (int64_t h = 0; h < num_kv_heads; h++, head += dim)
                cache_value(value + h * stride, key + h * stride, head);
        }
    }

    // Whoever does not see a value takes it 0 times, and 0 times what is no number is none either. So
    // it is the key, at which nobody else looks, that makes no number of who sees this.
    void cache_value(Item* value, Item* key, const float* head) const {
        round_row(value, head, model.head_dim);
        if (is_of_numbers(value, model.head_dim)) return;
        const int64_t num_bytes = cached_items<Item>(model) * sizeof(Item);
        memset(value, 0, num_bytes);
        memset(key, 0xff, num_bytes);  // no numbers, of whichever type
    }

    // The product with rows of a buffer, added to the residual stream.
    void add(const RowBlock& block, const Linear& linear, const void* buffer, int64_t stride) const {
        const Operand<T> rows = operand(block, linear, buffer, stride);
        block.each_rows([&](int64_t first, int64_t last) { rows.convert(first, last); });
        block.each_share(linear.num_panels(), [&](int64_t first, int64_t last) {
            rows.multiply(first, last, [&](int64_t i, int64_t output, const Sums& sums) {
                float* to = step.hidden + (block.row + i) * hidden_stride() + output;
                store(to, load<Floats>(to) + sums.left);
                store(to + LANES, load<Floats>(to + LANES) + sums.right);
            });
        });
    }

    // Panels by pairs: gates, which wait here for their ups.
    void gate_up(const RowBlock& block, const Operand<T>& normed) const {
        block.each_share(layer.gate_up.num_panels() / 2, [&](int64_t first, int64_t last) {
            Sums gates[BLOCK_ROWS];
            normed.multiply(2 * first, 2 * last, [&](int64_t i, int64_t output, const Sums& sums) {
                Sums& gate = gates[i % BLOCK_ROWS];
                if (output / WIDTH % 2 == 0) {
                    gate = sums;
                    return;
                }
                const int64_t inner = output / WIDTH / 2 * WIDTH;
                T* to = (T*)step.inner + (block.row + i) * inner_stride() + inner;
                store_floats(to, silu_mul<T>(gate.left, sums.left));
                store_floats(to + LANES, silu_mul<T>(gate.right, sums.right));
            });
        });
    }
};

}  // namespace tandem
