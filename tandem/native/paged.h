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

    // How many rows ahead queries, and what is made of them, are fetched.
    static constexpr int64_t FETCHED = 8;

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

    // A range of a task's positions, and where what is seen of it lies.
    struct Part {
        int64_t task;
        Span<Item> range;
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
        each_ahead(
            num_tasks, [&](int64_t i) { return span_of(tasks[i]); },
            [&](int64_t i, const Span<Item>& span, Ahead<Item>& ahead) {
                run_task(tasks[i], span, ahead);
            }
        );
    }

    // work(i, span, ahead) for each of `count` spans, where `ahead` brings what is in it, and then the
    // first tile of what is likely to be this thread's next.
    template <class SpanOf, class Work>
    void each_ahead(int64_t count, const SpanOf& span_of, const Work& work) const {
        const int64_t num_threads = step.team.is_one() ? 1 : step.team.num_threads;
        step.team.each_and_next(count, [&](int64_t i, int64_t next) {
            const Span<Item> span = span_of(i), following = span_of(least(next, count - 1));
            Ahead<Item> ahead(span, next < count ? &following : nullptr);
            if (i < num_threads)
                ahead.load_tile();
            else
                ahead.skip_tile();
            work(i, span, ahead);
        });
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

    void run_task(const Task& task, const Span<Item>& span, Ahead<Item>& ahead) const {
        const Queries queries = queries_of(task);
        Scratch<F>& scratch = Scratch<F>::mine();
        const int64_t num_rows = queries.num_rows();
        Seen all(scratch.seen[0], num_rows, width()), some(scratch.seen[1], num_rows, width());
        gather(task, scratch);
        each_range(span, [&](const Span<Item>& range) {
            const bool is_first = range.start == span.start;
            see_range(is_first ? all : some, queries, range, scratch, scale(), ahead, model.by_tiles);
            if (!is_first) all.merge(some, num_rows, scale());
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
            const int64_t size_of_one = Seen::size(queries_of(tasks[i]).num_rows(), width());
            each_range(span_of(tasks[i]), [&](const Span<Item>& range) {
                parts.push_back({int64_t(i), range, size});
                size += size_of_one;
            });
        }
        first_parts.push_back(parts.size());
        if (size > MOST_PARTS) return false;
        const std::unique_ptr<float[]> memory(new float[size]);
        const auto range_of = [&](int64_t i) { return parts[i].range; };
        const auto see = [&](int64_t i, const Span<Item>& range, Ahead<Item>& ahead) {
            const Part& part = parts[i];
            const Queries queries = queries_of(tasks[part.task]);
            Scratch<F>& scratch = Scratch<F>::mine();
            gather(tasks[part.task], scratch);
            Seen some(memory.get() + part.memory, queries.num_rows(), width());
            see_range(some, queries, range, scratch, scale(), ahead, model.by_tiles);
        };
        each_ahead(int64_t(parts.size()), range_of, see);
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

    // What any of a task's queries sees, from a tile's start on.
    Span<Item> span_of(const Task& task) const {
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
        const Queries queries = queries_of(task);
        const int64_t end = queries.last_of(queries.head_rows() - 1) + 1;
        return {pages, task.num_heads, queries.first_of(0) / TILE * TILE, end};
    }

    // The ranges of a span, in order.
    template <class Work>
    void each_range(Span<Item> span, const Work& work) const {
        for (const int64_t end = span.end; span.start < end; span.start = span.end) {
            span.end = least(end, (span.start / RANGE + 1) * RANGE);
            work(span);
        }
    }

    // The row of a query and KV head: `group` heads side by side.
    template <class Items>
    auto* row_of(Items* items, const Task& task, int64_t head, int64_t query) const {
        const int64_t first = (task.head + head) * group() * model.head_dim;
        return (T*)items + (task.row + query) * row_stride() + first;
    }

    int64_t row_stride() const { return padded(model.num_heads * model.head_dim); }

    // Rows of as many words as a key has.
    void gather(const Task& task, Scratch<F>& scratch) const {
        const int64_t dim = model.head_dim, num_items = key_words<F, Item>(dim) * PER_WORD<F>;
        F* to = scratch.queries;
        for (int64_t head = 0; head < task.num_heads; head++)
            for (int64_t query = 0; query < task.num_queries; query++) {
                const T* from = row_of(step.queries, task, head, query);
                fetch<For::READING>(from + FETCHED * row_stride(), group() * dim);
                if (dim == num_items) {
                    widen_row(to, from, group() * dim);
                    to += group() * dim;
                    continue;
                }
                for (int64_t i = 0; i < group(); i++, from += dim, to += num_items) {
                    widen_row(to, from, dim);
                    memset(to + dim, 0, (num_items - dim) * sizeof(F));
                }
            }
    }

    void finish(const Task& task, const Seen& seen) const {
        const int64_t dim = model.head_dim;
        int64_t row = 0;
        for (int64_t head = 0; head < task.num_heads; head++)
            for (int64_t query = 0; query < task.num_queries; query++) {
                T* to = row_of(step.attended, task, head, query);
                fetch<For::WRITING>(to + FETCHED * row_stride(), group() * dim);
                for (int64_t i = 0; i < group(); i++, row++, to += dim) {
                    const float* values = seen.values + row * seen.width;
                    const float mass = total(load_floats(seen.mass + row * LANES));
                    for (int64_t j = 0; j < dim; j += WIDTH) {
                        const Sums panel = in_order<F, Item>(load<Sums>(values + j));
                        // Plus 0, as whoever merges more ranges adds it: there is no -0.
                        float items[WIDTH];
                        store(items, (panel.left + 0.0f) / mass);
                        store(items + LANES, (panel.right + 0.0f) / mass);
                        round_row(to + j, items, least(WIDTH, dim - j));
                    }
                }
            }
    }
};

}  // namespace tandem
