// Attention of a whole step: its queries and their ranges of keys, shared out among threads.
#pragma once

#include <memory>
#include <vector>

#include "attention.h"
#include "model.h"

namespace tandem {

template <class T, class Item>
struct PagedAttention {
    using F = Factor<T>;

    const Model& model;
    const Step& step;
    const Layer& layer;

    // Some queries of a sequence, and some KV heads from `head` on.
    struct Task {
        int64_t sequence;
        int64_t row;
        int64_t num_queries;
        int64_t head;
        int64_t num_heads;
    };

    // What is seen by parts takes at most so many floats; the rest of a step takes none beside its
    // threads' own.
    static constexpr int64_t MOST_PARTS = 16 << 20;

    // A task's positions [start, end), of one range, and what is seen of them.
    struct Part {
        int64_t task;
        int64_t start;
        int64_t end;
        int64_t memory;
    };

    int64_t group() const { return model.num_heads / model.num_kv_heads; }
    int64_t width() const { return padded(model.head_dim); }
    float scale() const { return 1.44269504f / std::sqrt(float(model.head_dim)); }

    void run() const {
        std::vector<Task> tasks;
        add_tasks(tasks);
        const int64_t num_tasks = int64_t(tasks.size());
        if (!step.team.is_one() && num_tasks < 4 * step.team.num_threads && run_by_ranges(tasks))
            return;
        step.team.each(num_tasks, [&](int64_t i) { run_task(tasks[i]); });
    }

    // The last queries of a sequence first: they see the most.
    void add_tasks(std::vector<Task>& tasks) const {
        const int64_t most_queries = most(1, QUERY_ROWS / group());
        for (int64_t i = 0; i < step.num_sequences; i++) {
            const int64_t num_queries = step.rows[i + 1] - step.rows[i];
            const int64_t num_tiles = ceil_div(num_queries, most_queries);
            for (int64_t tile = num_tiles - 1; tile >= 0; tile--) {
                const int64_t first = num_queries * tile / num_tiles;
                const int64_t count = num_queries * (tile + 1) / num_tiles - first;
                const int64_t num_heads = heads_of_one(count);
                for (int64_t head = 0; head < model.num_kv_heads; head += num_heads)
                    tasks.push_back({i, step.rows[i] + first, count, head, num_heads});
            }
        }
    }

    // All heads together read memory in one stream; apart they are work for more threads.
    int64_t heads_of_one(int64_t num_queries) const {
        const bool is_many = num_queries * model.num_heads > QUERY_ROWS;
        return is_many || has_few_ranges() ? 1 : model.num_kv_heads;
    }

    // Too few ranges for every thread to have two.
    bool has_few_ranges() const {
        if (step.team.is_one()) return false;
        int64_t num_ranges = 0;
        for (int64_t i = 0; i < step.num_sequences; i++) {
            num_ranges += ceil_div(step.starts[i] + step.rows[i + 1] - step.rows[i], RANGE);
            if (num_ranges >= 2 * step.team.num_threads) return false;
        }
        return true;
    }

    void run_task(const Task& task) const {
        const Queries queries = queries_of(task);
        Scratch<F>& scratch = Scratch<F>::mine();
        Seen all(scratch.seen[0], queries.num_rows(), width());
        all.clear(queries.num_rows());
        gather(task, scratch);
        each_range(queries, [&](int64_t start, int64_t end) {
            Seen some(scratch.seen[1], queries.num_rows(), width());
            see(task, queries, some, start, end, scratch);
            all.merge(some, queries.num_rows(), scale());
        });
        finish(task, all);
    }

    // Few tasks: threads share the ranges of each. False, and nothing is done, if that would take
    // too much memory.
    bool run_by_ranges(const std::vector<Task>& tasks) const {
        std::vector<Part> parts;
        std::vector<size_t> first_parts;
        int64_t size = 0;
        for (size_t i = 0; i < tasks.size(); i++) {
            first_parts.push_back(parts.size());
            const Queries queries = queries_of(tasks[i]);
            each_range(queries, [&](int64_t start, int64_t end) {
                parts.push_back({int64_t(i), start, end, size});
                size += Seen::size(queries.num_rows(), width());
            });
        }
        first_parts.push_back(parts.size());
        if (size > MOST_PARTS) return false;
        const std::unique_ptr<float[]> memory(new float[size]);
        step.team.each(int64_t(parts.size()), [&](int64_t i) {
            const Part& part = parts[i];
            const Queries queries = queries_of(tasks[part.task]);
            Scratch<F>& scratch = Scratch<F>::mine();
            gather(tasks[part.task], scratch);
            Seen some(memory.get() + part.memory, queries.num_rows(), width());
            see(tasks[part.task], queries, some, part.start, part.end, scratch);
        });
        step.team.each(int64_t(tasks.size()), [&](int64_t i) {
            const Queries queries = queries_of(tasks[i]);
            Seen all(Scratch<F>::mine().seen[0], queries.num_rows(), width());
            all.clear(queries.num_rows());
            for (size_t part = first_parts[i]; part < first_parts[i + 1]; part++) {
                const Seen some(memory.get() + parts[part].memory, queries.num_rows(), width());
                all.merge(some, queries.num_rows(), scale());
            }
            finish(tasks[i], all);
        });
        return true;
    }

    Queries queries_of(const Task& task) const {
        const int64_t position = step.starts[task.sequence] + task.row - step.rows[task.sequence];
        return {position, task.num_queries, task.num_heads, group(), layer.window};
    }

    // The positions that any of the queries sees, by ranges, from a tile's start on.
    template <class Range>
    void each_range(const Queries& queries, const Range& range) const {
        const int64_t end = queries.last_of(queries.head_rows() - 1) + 1;
        for (int64_t start = queries.first_of(0) / TILE * TILE; start < end;) {
            const int64_t stop = least(end, (start / RANGE + 1) * RANGE);
            range(start, stop);
            start = stop;
        }
    }

    // The row of a query and KV head: `group` heads side by side.
    template <class Items>
    auto* row_of(Items* items, const Task& task, int64_t head, int64_t query) const {
        const int64_t stride = padded(model.num_heads * model.head_dim);
        const int64_t first = (task.head + head) * group() * model.head_dim;
        return (T*)items + (task.row + query) * stride + first;
    }

    void gather(const Task& task, Scratch<F>& scratch) const {
        F* to = scratch.queries;
        const int64_t items = group() * model.head_dim;
        for (int64_t head = 0; head < task.num_heads; head++)
            for (int64_t query = 0; query < task.num_queries; query++, to += items)
                widen_row(to, row_of(step.queries, task, head, query), items);
    }

    void see(
        const Task& task, const Queries& queries, Seen& seen, int64_t start, int64_t end,
        Scratch<F>& scratch
    ) const {
        const int64_t num_rows = step.rows[task.sequence + 1] - step.rows[task.sequence];
        const int64_t head_items = cached_items<Item>(model);
        const Pages<Item> pages = {
            (const Item*)layer.keys + task.head * head_items,
            (const Item*)layer.values + task.head * head_items,
            step.tables + task.sequence * step.table_width,
            __builtin_ctzll(uint64_t(model.block_size)),
            model.num_kv_heads * head_items,
            head_items,
            model.head_dim,
            step.starts[task.sequence] + num_rows,
        };
        seen.clear(queries.num_rows());
        see_range(seen, queries, pages, scratch, start, end, scale());
    }

    void finish(const Task& task, const Seen& seen) const {
        const int64_t dim = model.head_dim;
        int64_t row = 0;
        for (int64_t head = 0; head < task.num_heads; head++)
            for (int64_t query = 0; query < task.num_queries; query++) {
                T* to = row_of(step.attended, task, head, query);
                for (int64_t i = 0; i < group(); i++, row++, to += dim) {
                    const float* values = seen.values + row * seen.width;
                    const float mass = total(load_floats(seen.mass + row * LANES));
                    for (int64_t j = 0; j < dim; j++) round_to(to[j], values[j] / mass);
                }
            }
    }
};

}  // namespace tandem
