// What happens to values, column by column: a column holds one position of many blocks, so that all its
// items have the same flips, the same table and the same channel.
//
// A finish says how many `columns` it keeps beside those of the input, and makes them in `prepare`. Its
// `reader` gives the output's columns, as `vectors` vectors, and `change` is what lines go through in the
// end. `from` is where a column begins in the scratch memory of a group.
//
// Included by columns-inl.h, after chunks-inl.h.

#include <cstdint>
#include <cstring>
#include <vector>

#include "../../values.h"
#include "floats-inl.h"

namespace blockenc {
namespace {

// The group of blocks whose columns are made at once: as many as a vector has items, of the smaller type.
constexpr int group_blocks(int in_item, int out_item) { return Vector::bytes / std::min(in_item, out_item); }

// Scratch memory of groups of blocks, `bytes` bytes for each.
struct Scratch {
  char* memory;
  int64_t bytes, groups;
};

// Which block of a group the items of a column are, on one side; see spread in columns-inl.h.
inline std::vector<int> blocks_of_column(const Side& side, int group) {
  const int full = kLane / side.item, lanes = Vector::bytes / kLane;
  std::vector<int> blocks(group);
  for (int n = 0; n < group; ++n) {
    const int vector = n / (full * lanes), lane = n / full % lanes, in_lane = n % full;
    const int tile = vector * side.columns + in_lane % side.columns;
    blocks[n] = (tile * lanes + lane) * side.blocks + in_lane / side.columns;
  }
  return blocks;
}

// For each item of an output column: which item of an input column is of the same block.
inline std::vector<int> column_order(const Side& in, const Side& out) {
  const int group = group_blocks(in.item, out.item);
  const std::vector<int> in_block = blocks_of_column(in, group), out_block = blocks_of_column(out, group);
  std::vector<int> item_of(group), order(group);
  for (int n = 0; n < group; ++n) item_of[in_block[n]] = n;
  for (int n = 0; n < group; ++n) order[n] = item_of[out_block[n]];
  return order;
}

// Calls f(index, p) for each column of the output, with the position it holds, or -1.
template <class F>
void each_column(const Side& out, F&& f) {
  for (int line = 0, index = 0; line < out.lines; ++line) {
    for (int column = 0; column < out.columns; ++column, ++index) f(index, out.position(line, column));
  }
}

struct Keep {
  Vector::type operator()(Vector::type x) const { return x; }
};

// Bytes to bytes: columns that go through a table are looked up first; complements are for lines, at last.
class ByteFinish {
 public:
  static constexpr int vectors = 1;
  int columns = 0;

  ByteFinish(const Side& in, const Side& out, const Plan& plan)
      : from_(out.lines * out.columns), after_(out.lines * kLane) {
    const IntegerRows<U8> rows(plan);
    const int in_columns = in.lines * in.columns;
    std::vector<int> known(plan.length, -1);  // columns that were looked up, of each position
    std::vector<int> readers(plan.length);    // of each input position
    for (int p = 0; p < plan.length; ++p) ++readers[plan.source[p]];
    each_column(out, [&](int index, int p) {
      if (p < 0) return;
      bool complement;
      const int table = table_of(rows.row(p), &complement);
      const int64_t source = int64_t{in.column_of(plan.source[p])} * Vector::bytes;
      if (table < 0) {
        from_[index] = source;
      } else {
        if (known[p] < 0) {  // in place, unless another position needs what is there
          known[p] = readers[plan.source[p]] == 1 ? in.column_of(plan.source[p]) : in_columns + columns++;
          looks_[table].push_back({source, int64_t{known[p]} * Vector::bytes});
        }
        from_[index] = int64_t{known[p]} * Vector::bytes;
      }
      const int line = index / out.columns, column = index % out.columns;
      for (int b = 0; complement && b < out.blocks; ++b) {
        after_[line * kLane + b * out.items + column] = 0xff;
      }
    });
  }

  void prepare(const Scratch scratch) const {
    for (size_t t = 0; t < looks_.size(); ++t) {
      const Vector::Table table(tables_.data() + t * kByteValues);
      const Look* const end = looks_[t].data() + looks_[t].size();
      char* at = scratch.memory;
      for (int64_t g = 0; g < scratch.groups; ++g, at += scratch.bytes) {
#pragma GCC unroll 4
        for (const Look* look = looks_[t].data(); look < end; ++look) {
          Vector::store(at + look->to, Vector::lookup(table, Vector::load(at + look->from)));
        }
      }
    }
  }

  auto reader() const {
    const int64_t* offsets = from_.data();
    return [=](int index, const char* scratch, Vector::type(&to)[1]) {
      to[0] = Vector::load(scratch + offsets[index]);
    };
  }

  auto change(int line) const {
    return [after = Vector::repeat(after_.data() + line * kLane)](Vector::type x) {
      return Vector::exclusive_or(x, after);
    };
  }

 private:
  struct Look {
    int64_t from, to;
  };

  // Which table holds these values or their complements; made if there is none. -1 is the identity.
  int table_of(const uint8_t* values, bool* complement) {
    const int count = static_cast<int>(looks_.size());
    for (int t = -1; t < count; ++t) {
      auto same = [&](int mask) {
        for (int v = 0; v < kByteValues; ++v) {
          if (values[v] != ((t < 0 ? v : tables_[t * kByteValues + v]) ^ mask)) return false;
        }
        return true;
      };
      *complement = same(0xff);
      if (*complement || same(0)) return t;
    }
    tables_.insert(tables_.end(), values, values + kByteValues);
    looks_.emplace_back();
    return count;
  }

  std::vector<int64_t> from_;
  std::vector<uint8_t> after_;            // [line][kLane]: what a lane is XORed with
  std::vector<uint8_t> tables_;           // [table][256]
  std::vector<std::vector<Look>> looks_;  // of each table
};

// Bytes to wider types: each byte of a result is a look-up of its own.
template <class Out, class V>  // V is Vector, where that has what it takes
class TableFinish {
 public:
  static constexpr int vectors = sizeof(typename Out::Storage);
  static constexpr int columns = 0;

  TableFinish(const Side& in, const Side& out, const Plan& plan) : columns_(out.lines * out.columns) {
    const std::vector<int> order = column_order(in, out);
    for (int n = 0; n < V::bytes; ++n) {  // in lanes of bytes: where they are interleaved from
      const int full = kLane / vectors;
      const int vector = n / (V::bytes / vectors), lane = n / full % (V::bytes / kLane), in_lane = n % full;
      order_[lane * kLane + vector * full + in_lane] = static_cast<uint8_t>(order[n]);
    }
    const IntegerRows<Out> rows(plan);
    std::vector<const typename Out::Storage*> known;
    each_column(out, [&](int index, int p) {
      if (p < 0) return;
      size_t t = 0;
      while (t < known.size() && known[t] != rows.row(p)) ++t;
      if (t == known.size()) {
        known.push_back(rows.row(p));
        for (int b = 0; b < vectors; ++b) {
          for (int v = 0; v < kByteValues; ++v) {
            uint8_t bytes[vectors];
            std::memcpy(bytes, rows.row(p) + v, vectors);
            tables_.push_back(bytes[b]);
          }
        }
      }
      columns_[index] = {int64_t{in.column_of(plan.source[p])} * V::bytes,
                         static_cast<int64_t>(t) * vectors * kByteValues};
    });
  }

  void prepare(const Scratch&) const {}
  Keep change(int) const { return {}; }

  auto reader() const {
    return
        [this](int index, const char* scratch, typename V::type(&to)[vectors]) { read(index, scratch, to); };
  }

 private:
  void read(int index, const char* scratch, typename V::type (&to)[vectors]) const {
    const auto in = V::permute(V::load(scratch + columns_[index].from), order_);
    for (int b = 0; b < vectors; ++b) {
      const typename V::Table table(tables_.data() + columns_[index].table + b * kByteValues);
      to[b] = V::lookup(table, in);
    }
    interleave(to);
  }

  static void interleave(typename V::type (&x)[2]) {
    const auto low = V::template low<1>(x[0], x[1]);
    x[1] = V::template high<1>(x[0], x[1]);
    x[0] = low;
  }
  static void interleave(typename V::type (&x)[4]) {
    typename V::type front[2] = {x[0], x[1]}, back[2] = {x[2], x[3]};
    interleave(front);
    interleave(back);
    for (int k = 0; k < 2; ++k) {
      x[2 * k] = V::template low<2>(front[k], back[k]);
      x[2 * k + 1] = V::template high<2>(front[k], back[k]);
    }
  }

  struct Column {
    int64_t from, table;
  };
  std::vector<Column> columns_;
  uint8_t order_[V::bytes];
  std::vector<uint8_t> tables_;  // [table][byte of the result][256]
};

// Floats, item by item.
template <class In, class Out>
class FloatFinish {
 public:
  static constexpr int in_bytes = sizeof(typename In::Storage), out_bytes = sizeof(typename Out::Storage);
  static constexpr int vectors = std::max(out_bytes / in_bytes, 1);
  static constexpr int columns = 0;

  FloatFinish(const Side& in, const Side& out, const Plan& plan)
      : plan_(plan),
        rows_(plan, plan.flags & kNearest),
        negatives_(plan),
        columns_(out.lines * out.columns),
        order_(column_order(in, out)) {
    const int64_t column_bytes = int64_t{group_blocks(in_bytes, out_bytes)} * in_bytes;
    each_column(out, [&](int index, int p) {
      if (p >= 0) columns_[index] = {in.column_of(plan.source[p]) * column_bytes, p};
    });
  }

  void prepare(const Scratch&) const {}
  Keep change(int) const { return {}; }

  auto reader() const {
    return [this](int index, const char* scratch, Vector::type(&to)[vectors]) { read(index, scratch, to); };
  }

 private:
  // In no case is the call what takes time, and there are many callers.
  __attribute__((noinline)) void read(int index, const char* scratch, Vector::type (&to)[vectors]) const {
    constexpr int group = group_blocks(in_bytes, out_bytes);
    const auto* in = reinterpret_cast<const typename In::Storage*>(scratch + columns_[index].from);
    typename Out::Storage out[group] = {};
    transform_floats<In, Out>(
        plan_, rows_, negatives_, columns_[index].position, group,
        [&](int64_t n) { return in[in_bytes == out_bytes ? n : order_[n]]; },
        [&](int64_t n, auto v) { out[n] = v; });
    for (int v = 0; v < vectors; ++v) to[v] = Vector::load(reinterpret_cast<char*>(out) + v * Vector::bytes);
  }

  struct Column {
    int64_t from;
    int position;
  };
  const Plan& plan_;
  IntegerRows<Out> rows_;
  Negatives<In> negatives_;
  std::vector<Column> columns_;
  std::vector<int> order_;
};

}  // namespace
}  // namespace blockenc
