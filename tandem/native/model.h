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
// As many rows' activations as the level-2 cache holds beside a panel.
constexpr int64_t BLOCK_ROWS = 112;

template <class T, class Item>
struct Forward {
    const Model& model;
    const Step& step;
    const Layer& layer;

    int64_t hidden_stride() const { return padded(model.hidden_size); }
    int64_t inner_stride() const { return padded(model.inner_size); }
    int64_t query_stride() const { return padded(model.num_heads * model.head_dim); }
    int64_t qkv_stride() const { return padded(layer.qkv.n); }

    // Each stage for rows [row, row + count), the products for panels [first, last) of theirs.
    void norm(const float* weight, int64_t row, int64_t count) const {
        for (int64_t i = row; i < row + count; i++)
            rms_norm(
                (T*)step.normed + i * hidden_stride(), step.hidden + i * hidden_stride(), weight,
                model.hidden_size, model.eps
            );
    }

    void project(int64_t row, int64_t count, int64_t first, int64_t last) const {
        multiply(
            layer.qkv, (const T*)step.normed + row * hidden_stride(), hidden_stride(), count, first,
            last,
            [&](int64_t i, int64_t output, const Sums& sums) {
                float* to = step.qkv + (row + i) * qkv_stride() + output;
                store(to, sums.left);
                store(to + LANES, sums.right);
            }
        );
    }

    void rotate_and_cache(int64_t row, int64_t count) const {
        const int64_t num_heads = model.num_heads, num_kv_heads = model.num_kv_heads;
        const int64_t dim = model.head_dim;
        for (int64_t i = row; i < row + count; i++) {
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
                round_row(value + h * stride, head, dim);
        }
    }

    // What a product adds to the residual stream.
    void add(
        const Linear& linear, const void* rows, int64_t stride, int64_t row, int64_t count,
        int64_t first, int64_t last
    ) const {
        multiply(
            linear, (const T*)rows + row * stride, stride, count, first, last,
            [&](int64_t i, int64_t output, const Sums& sums) {
                float* to = step.hidden + (row + i) * hidden_stride() + output;
                store(to, load<Floats>(to) + sums.left);
                store(to + LANES, load<Floats>(to + LANES) + sums.right);
            }
        );
    }

    void output(int64_t row, int64_t count, int64_t first, int64_t last) const {
        add(layer.output, step.attended, query_stride(), row, count, first, last);
    }

    void down(int64_t row, int64_t count, int64_t first, int64_t last) const {
        add(layer.down, step.inner, inner_stride(), row, count, first, last);
    }

    // Panels by pairs: gates, which wait here for their ups.
    void gate_up(int64_t row, int64_t count, int64_t first, int64_t last) const {
        for (; count > BLOCK_ROWS; row += BLOCK_ROWS, count -= BLOCK_ROWS)
            gate_up(row, BLOCK_ROWS, first, last);
        Sums gates[BLOCK_ROWS];
        multiply(
            layer.gate_up, (const T*)step.normed + row * hidden_stride(), hidden_stride(), count,
            2 * first, 2 * last,
            [&](int64_t i, int64_t output, const Sums& sums) {
                if (output / WIDTH % 2 == 0) {
                    gates[i] = sums;
                    return;
                }
                T* to = (T*)step.inner + (row + i) * inner_stride() + output / WIDTH / 2 * WIDTH;
                store_floats(to, silu_mul<T>(gates[i].left, sums.left));
                store_floats(to + LANES, silu_mul<T>(gates[i].right, sums.right));
            }
        );
    }

    bool by_rows() const {
        return step.team.is_one() || step.num_rows >= ROWS_OF_ONE * step.team.num_threads;
    }

    // stage(row, count) for blocks of rows, as many for each thread.
    template <class Stage>
    void each_block(const Stage& stage) const {
        const int64_t num_threads = step.team.is_one() ? 1 : step.team.num_threads;
        const int64_t num_blocks = ceil_div(step.num_rows, BLOCK_ROWS * num_threads) * num_threads;
        step.team.each(num_blocks, [&](int64_t i) {
            const int64_t row = step.num_rows * i / num_blocks;
            stage(row, step.num_rows * (i + 1) / num_blocks - row);
        });
    }

    // stage(first, last) for shares of panels.
    template <class Stage>
    void each_share(int64_t num_panels, const Stage& stage) const {
        const int64_t num_shares = least(num_panels, 4 * step.team.num_threads);
        step.team.each(num_shares, [&](int64_t i) {
            stage(num_panels * i / num_shares, num_panels * (i + 1) / num_shares);
        });
    }

    // From the residual stream to the queries, and keys and values in the cache.
    void before_attention() const {
        const int64_t num_panels = layer.qkv.num_panels(), num_rows = step.num_rows;
        if (by_rows()) {
            each_block([&](int64_t row, int64_t count) {
                norm(layer.attention_norm, row, count);
                project(row, count, 0, num_panels);
                rotate_and_cache(row, count);
            });
            return;
        }
        norm(layer.attention_norm, 0, num_rows);
        each_share(num_panels, [&](int64_t first, int64_t last) {
            project(0, num_rows, first, last);
        });
        rotate_and_cache(0, num_rows);
    }

    // From what attention gathered back to the residual stream.
    void after_attention() const {
        const int64_t num_outputs = layer.output.num_panels(), num_rows = step.num_rows;
        const int64_t num_pairs = layer.gate_up.num_panels() / 2;
        if (by_rows()) {
            each_block([&](int64_t row, int64_t count) {
                output(row, count, 0, num_outputs);
                norm(layer.mlp_norm, row, count);
                gate_up(row, count, 0, num_pairs);
                down(row, count, 0, num_outputs);
            });
            return;
        }
        each_share(num_outputs, [&](int64_t first, int64_t last) {
            output(0, num_rows, first, last);
        });
        norm(layer.mlp_norm, 0, num_rows);
        each_share(num_pairs, [&](int64_t first, int64_t last) {
            gate_up(0, num_rows, first, last);
        });
        each_share(num_outputs, [&](int64_t first, int64_t last) { down(0, num_rows, first, last); });
    }
};

}  // namespace tandem
