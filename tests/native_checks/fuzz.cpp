// A packed plan of any bytes, under sanitizers: make_job and run_job refuse it, or every level makes the same
// of it, reads nothing outside of the input and writes nothing but the elements of the output.
//
// It has the two functions that libFuzzer calls. fuzz_driver.cpp calls them where there is no clang;
// `python -m tests.native_checks` builds and runs either.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/plan_cache.h"
#include "../../csrc/half.h"
#include "../../csrc/job.h"

namespace {

using blockenc::Header;
using blockenc::Job;
using blockenc::Plan;
using blockenc::Type;

constexpr int64_t kMostValues = 1 << 14;  // of images: larger ones take time, and show no more
constexpr int64_t kMostBytes = 1 << 17;   // of a plan that is made by a change
constexpr uint8_t kUntouched = 0xa5;      // what an output is filled with
using Draw = std::minstd_rand;

// What the images of a plan are like. It is read off the header's digest, on which nobody relies: changes of
// a plan's bytes so change that too, and every input says all about its run.
struct Images {
  std::vector<int64_t> shape;
  Type in_type, out_type;
  int layout;
  int64_t in_offset, out_offset;  // of the memory's first element, in elements: other alignments
};

Images images_for(const Header& h) {
  auto drawn = [&](int n, int64_t end) { return h.digest[n] % end; };
  Images images;
  const bool grid = h.rows > 0 && h.columns > 0;
  const int64_t m = std::clamp(h.block_size, 1, 1 << 10), c = std::clamp(h.channels, 1, 1 << 20);
  images.shape = {h.images > 0 ? h.images : 1 + drawn(0, 3), c, m * (grid ? h.rows : 1 + drawn(1, 4)),
                  m * (grid ? h.columns : 1 + drawn(2, 40))};
  const Type floats[] = {Type::f32, Type::f16, Type::bf16};
  const Type integer_in = h.flags & blockenc::kDecimalIn ? Type::u16 : Type::u8;
  const Type integer_out = h.flags & blockenc::kDecimalOut ? Type::u16 : Type::u8;
  images.in_type = h.digest[3] & 1 ? integer_in : floats[drawn(4, 3)];
  // The types that blockenc/dtypes.py admits: floats that no step makes integers stay floats.
  const bool integers = blockenc::is_integer(images.in_type) || h.flags & blockenc::kQuantises;
  images.out_type = integers && h.digest[3] & 2 ? integer_out : floats[drawn(5, 3)];
  images.layout = static_cast<int>(drawn(6, 6));
  images.in_offset = drawn(7, 16);
  images.out_offset = drawn(8, 16);
  return images;
}

// Strides in elements of N, C, H, W. The last two are for inputs only.
std::vector<int64_t> strides(int layout, const std::vector<int64_t>& shape) {
  const int64_t c = shape[1], h = shape[2], w = shape[3];
  switch (layout) {
    case 0:
      return {c * h * w, h * w, w, 1};
    case 1:
      return {h * w * c, 1, w * c, c};
    case 2:
      return {c * h * (w + 5) + 3, h * (w + 5), w + 5, 1};
    case 3:
      return {h * (w * c + 7), 1, w * c + 7, c};
    case 4:
      return {c * h * w, -h * w, w, -1};
    default:
      return {0, 0, w, 1};
  }
}

// Memory of exactly the elements from the lowest to the highest, behind `offset` others.
class Array {
 public:
  Array(const std::vector<int64_t>& shape, const std::vector<int64_t>& stride, Type type, int64_t offset)
      : shape_(shape), stride_(stride), item_(blockenc::item_size(type)) {
    int64_t low = 0, high = 0;
    for (int k = 0; k < 4; ++k) {
      const int64_t reach = (shape[k] - 1) * stride[k];
      (reach < 0 ? low : high) += reach;
    }
    first_ = offset - low;
    bytes_ = (first_ + high + 1) * item_;
    memory_.reset(new uint8_t[bytes_]);
  }
  uint8_t* memory() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }
  uintptr_t address() const { return reinterpret_cast<uintptr_t>(memory() + first_ * item_); }

  // Calls f(index of a byte) for the first byte of each element.
  template <class F>
  void for_each(F&& f) const {
    for (int64_t n = 0; n < shape_[0]; ++n) {
      for (int64_t c = 0; c < shape_[1]; ++c) {
        for (int64_t y = 0; y < shape_[2]; ++y) {
          for (int64_t x = 0; x < shape_[3]; ++x) {
            f((first_ + n * stride_[0] + c * stride_[1] + y * stride_[2] + x * stride_[3]) * item_);
          }
        }
      }
    }
  }

 private:
  std::vector<int64_t> shape_, stride_;
  int64_t item_, first_, bytes_;
  std::unique_ptr<uint8_t[]> memory_;
};

// Floats mostly between 0 and 1, as images have them: k / 255, others, and some that are none.
void fill(const Array& array, Type type, uint32_t seed) {
  Draw draw(seed + 1);
  const float special[] = {-0.0f, 2.0f, -3.0f, 1e-45f, 1.0f, INFINITY, -INFINITY, NAN};
  array.for_each([&](int64_t at) {
    uint8_t* to = array.memory() + at;
    const uint32_t number = static_cast<uint32_t>(draw()) >> 7;
    if (blockenc::is_integer(type)) {
      const uint16_t value = static_cast<uint16_t>(number % (type == Type::u8 ? 256 : 1100));
      std::memcpy(to, &value, blockenc::item_size(type));
      return;
    }
    float value = static_cast<float>(number >> 4 & 255) / 255;
    if (number % 16 == 0) value = special[number >> 4 & 7];
    if (number % 16 == 1) value = static_cast<float>(number >> 4 & 0xfff) / 0xfff;
    if (type == Type::f32) {
      std::memcpy(to, &value, 4);
    } else {
      const uint16_t half =
          type == Type::f16 ? blockenc::float_to_f16(value) : blockenc::float_to_bf16(value);
      std::memcpy(to, &half, 2);
    }
  });
}

bool is_nan(Type type, const uint8_t* at) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, blockenc::item_size(type));
  if (type == Type::f16) return (bits & 0x7fff) > 0x7c00;
  if (type == Type::bf16) bits <<= 16;
  return (type == Type::f32 || type == Type::bf16) && (bits & 0x7fffffff) > 0x7f800000;
}

[[noreturn]] void fail(const char* level, const char* what) {
  std::fprintf(stderr, "FAILED level %s: %s\n", level, what);
  std::abort();
}

// Whether a level takes the plan; if so, what it makes of the input in `out`.
bool applied(int level, const std::vector<char>& packed, const Images& images, const Array& in,
             const Array& out) {
  std::memset(out.memory(), kUntouched, out.bytes());
  try {
    // `packed` has exactly its size, so that ASan sees what reads behind it.
    const Job job = blockenc::make_job(
        in.address(), out.address(), static_cast<int>(images.in_type), static_cast<int>(images.out_type),
        images.shape, strides(images.layout, images.shape), strides(images.layout % 4, images.shape),
        reinterpret_cast<uintptr_t>(packed.data()), static_cast<int64_t>(packed.size()), packed.data());
    blockenc::run_job(job, 1, level);
  } catch (const std::invalid_argument&) {
    return false;
  }
  return true;
}

// --- changes of plans ---

constexpr int32_t kNumbers[] = {-1, 0,  1,  2,  3,  4,   5,   7,   8,     14,
                                16, 24, 32, 63, 64, 255, 256, 999, 65535, 1 << 20};

// Mostly a number near what it was, or one that is often at an end of something.
uint32_t drawn_number(uint32_t was, Draw& draw) {
  if (draw() % 3 == 0) return was + static_cast<uint32_t>(draw() % 3) - 1;
  return draw() % 4 ? static_cast<uint32_t>(kNumbers[draw() % std::size(kNumbers)])
                    : static_cast<uint32_t>(draw());
}

void change_header(Header* h, Draw& draw) {
  int32_t* const counts[] = {&h->block_size, &h->channels, &h->tables,  &h->variants,
                             &h->keys,       &h->rows,     &h->columns, &h->images};
  const auto kind = draw() % 4;
  if (kind == 0) {
    h->flags ^= 1 << draw() % 7;
  } else if (kind == 1) {
    h->digest[draw() % 16] = static_cast<uint8_t>(draw());
  } else {
    int32_t* const count = counts[draw() % std::size(counts)];
    *count = static_cast<int32_t>(drawn_number(static_cast<uint32_t>(*count), draw));
  }
}

// A plan whose size is what its header says, if it is not too large; its indices in range.
void repair(std::vector<uint8_t>* data, size_t most) {
  Header h;
  std::memcpy(&h, data->data(), sizeof h);
  // A plan has that many variants. Without a grid they are the keys.
  if (h.rows == 0 || h.columns == 0) h.rows = h.columns = 0, h.variants = h.keys;
  if (h.images == 0 && h.keys > 1) h.images = 3;
  const int32_t counts[] = {h.block_size, h.channels, h.tables,  h.variants,
                            h.keys,       h.rows,     h.columns, h.images};
  if (std::any_of(std::begin(counts), std::end(counts), [](int32_t n) { return n < 0 || n > 1 << 12; }))
    return;
  if (h.block_size * h.block_size > 1 << 12 || h.flags < 0 || h.flags > blockenc::kAllFlags) return;
  Plan plan;
  h.bytes = blockenc::unpack_plan(h, nullptr, &plan);
  if (h.bytes > static_cast<int64_t>(std::min(most, size_t{kMostBytes}))) return;
  std::memcpy(data->data(), &h, sizeof h);
  data->resize(h.bytes);
  blockenc::unpack_plan(h, data->data(), &plan);
  auto reduce = [](const auto* values, int64_t count, int64_t end) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(values)>>;
    for (int64_t k = 0; k < count && end > 0; ++k) {
      T value;  // the vector's memory is aligned for bytes
      std::memcpy(&value, values + k, sizeof value);
      if (value >= 0 && value < end) continue;
      value = static_cast<T>((value % end + end) % end);
      std::memcpy(const_cast<T*>(values + k), &value, sizeof value);
    }
  };
  reduce(plan.source, int64_t{plan.variants} * plan.cells, plan.cells);
  reduce(plan.table_of, plan.positions(), plan.table_count + 1);
  reduce(plan.tables, int64_t{plan.table_count} * plan.in_values, plan.out_values);
  reduce(plan.moves, plan.keys * plan.blocks(), plan.blocks());
  reduce(plan.variant, plan.keys * plan.blocks(), plan.variants);
  reduce(plan.key_of_image, plan.images, plan.keys);
  float scale;
  std::memcpy(&scale, plan.in_scale, sizeof scale);
  if (!(scale >= 0 && scale < static_cast<float>(plan.in_values))) {
    scale = static_cast<float>(plan.in_values - 1);
    std::memcpy(const_cast<float*>(plan.in_scale), &scale, sizeof scale);
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned int seed) {
  Draw draw(seed);
  std::vector<uint8_t> changed(data, data + size);
  if (changed.size() < sizeof(Header)) changed.resize(sizeof(Header));
  for (auto changes = 1 + draw() % 3; changes > 0; --changes) {
    const auto kind = draw() % 8;
    if (kind < 4) {
      Header h;
      std::memcpy(&h, changed.data(), sizeof h);
      change_header(&h, draw);
      std::memcpy(changed.data(), &h, sizeof h);
    } else if (kind < 7) {  // a number in the arrays, of 1, 2 or 4 bytes
      const size_t width = size_t{1} << draw() % 3, places = changed.size() / width;
      uint8_t* const at = changed.data() + draw() % places * width;
      uint32_t value = 0;
      std::memcpy(&value, at, width);
      value = drawn_number(value, draw);
      std::memcpy(at, &value, width);
    } else if (draw() % 4) {  // as it is, a run of the arrays somewhere else
      const size_t from = draw() % changed.size(), to = draw() % changed.size();
      const size_t count = std::min(changed.size() - std::max(from, to), size_t{1} + draw() % 256);
      std::memmove(changed.data() + to, changed.data() + from, count);
    } else {
      changed.resize(draw() % (changed.size() + 1));
      if (changed.size() < sizeof(Header)) break;
    }
  }
  if (changed.size() >= sizeof(Header) && draw() % 8) repair(&changed, most);
  changed.resize(std::min(changed.size(), most));
  if (!changed.empty()) std::memcpy(data, changed.data(), changed.size());
  return changed.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<char> packed(data, data + size);
  Header header{};
  std::memcpy(&header, data, std::min(size, sizeof header));
  const Images images = images_for(header);
  double values = 1;  // of any header, also one that is refused
  for (const int64_t side : images.shape) values *= static_cast<double>(side);
  if (values > kMostValues) {
    try {
      blockenc::make_job(0, 0, 0, 0, images.shape, {0, 0, 0, 0}, {0, 0, 0, 0},
                         reinterpret_cast<uintptr_t>(packed.data()), static_cast<int64_t>(size),
                         packed.data());
    } catch (const std::invalid_argument&) {
    }
    return 0;
  }
  const Array in(images.shape, strides(images.layout, images.shape), images.in_type, images.in_offset);
  const Array out(images.shape, strides(images.layout % 4, images.shape), images.out_type, images.out_offset);
  std::memset(in.memory(), kUntouched, in.bytes());
  fill(in, images.in_type, header.digest[9]);
  int count;
  const blockenc::Level* const levels = blockenc::levels(&count);
  const bool taken = applied(count - 1, packed, images, in, out);  // the last level is in standard C++
  std::vector<uint8_t> expected(out.memory(), out.memory() + out.bytes());
  const int item = blockenc::item_size(images.out_type);
  std::vector<uint8_t> holes(out.memory(), out.memory() + out.bytes());
  out.for_each([&](int64_t at) { std::memset(holes.data() + at, kUntouched, item); });
  if (std::any_of(holes.begin(), holes.end(), [](uint8_t byte) { return byte != kUntouched; })) {
    fail("portable", "it wrote beside the elements of the output");
  }
  for (int level = 0; level < count - 1; ++level) {
    if (!levels[level].supported()) continue;
    if (applied(level, packed, images, in, out) != taken)
      fail(levels[level].name, "it alone takes the plan, or refuses it");
    out.for_each([&](int64_t at) {
      uint8_t* const value = out.memory() + at;
      if (std::memcmp(value, expected.data() + at, item) != 0 &&
          !(is_nan(images.out_type, value) && is_nan(images.out_type, expected.data() + at))) {
        fail(levels[level].name, "other values than in standard C++");
      }
      std::memcpy(value, expected.data() + at, item);  // as NaN has several forms
    });
    if (std::memcmp(out.memory(), expected.data(), out.bytes()) != 0) {
      fail(levels[level].name, "it wrote beside the elements of the output");
    }
  }
  return 0;
}
