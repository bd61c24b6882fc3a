// The Python module blockenc._native: raw addresses, sizes and strides in; the GIL released while it works.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cpu/kernels.h"
#include "../cpu/plan_cache.h"
#include "../job.h"
#include "../keys/draws.h"
#include "../keys/libcrypto.h"

namespace py = pybind11;

namespace {

void run(uintptr_t in, uintptr_t out, int in_type, int out_type, const py::tuple& shape,
         const py::tuple& in_stride, const py::tuple& out_stride, uintptr_t plan, int64_t plan_bytes,
         int threads, int level) {
  auto numbers = [](const py::tuple& values) { return values.cast<std::vector<int64_t>>(); };
  const blockenc::Job job =
      blockenc::make_job(in, out, in_type, out_type, numbers(shape), numbers(in_stride), numbers(out_stride),
                         plan, plan_bytes, reinterpret_cast<const void*>(plan));
  py::gil_scoped_release release;
  blockenc::run_job(job, threads, level);
}

py::tuple kept_plans() {
  const blockenc::Kept kept = blockenc::kept_plans();
  return py::make_tuple(kept.plans, kept.bytes);
}

// Fisher-Yates from the last place down, for each of `count` arrays of `length` numbers: place k changes with
// the place that was drawn for it. An array has length - 1 draws.
void shuffle(uintptr_t arrays, uintptr_t draws, int64_t count, int64_t length) {
  auto* array = reinterpret_cast<int64_t*>(arrays);
  const auto* drawn = reinterpret_cast<const int64_t*>(draws);
  for (int64_t n = 0; n < count; ++n, array += length) {
    for (int64_t place = length - 1; place > 0; --place, ++drawn) {
      if (*drawn < 0 || *drawn > place) throw std::invalid_argument("draws: expected places not yet taken");
      std::swap(array[place], array[*drawn]);
    }
  }
}

// The numbers of an array of Python's, of which there have to be `count`, in one piece.
template <class Number>
Number* numbers_of(const py::buffer& array, const char* name, int64_t count) {
  const py::buffer_info info = array.request(!std::is_const_v<Number>);
  const bool whole = PyBuffer_IsContiguous(info.view(), 'C') != 0;
  if (!whole || info.itemsize != sizeof(Number) || info.size != count) {
    throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(count) + " numbers of " +
                                std::to_string(sizeof(Number)) + " bytes in one piece");
  }
  return static_cast<Number*>(info.ptr);
}

const uint8_t* subkeys_of(const py::bytes& subkeys, int64_t* count) {
  const std::string_view bytes = subkeys;
  if (bytes.size() % blockenc::kSubkeyBytes) throw std::invalid_argument("subkeys: expected 32 bytes each");
  *count = static_cast<int64_t>(bytes.size() / blockenc::kSubkeyBytes);
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

// The subkeys for the infos, one after the other.
py::bytes expand(const py::bytes& extracted, const py::list& infos, int threads) {
  int64_t count;
  const uint8_t* key = subkeys_of(extracted, &count);
  if (count != 1) throw std::invalid_argument("extracted: expected 32 bytes");
  std::vector<std::string_view> texts;
  texts.reserve(infos.size());
  for (const py::handle info : infos) texts.push_back(info.cast<std::string_view>());
  PyObject* made =
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(texts.size()) * blockenc::kSubkeyBytes);
  if (!made) throw py::error_already_set();
  const auto subkeys = py::reinterpret_steal<py::bytes>(made);
  auto* to = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(made));  // nobody else has it yet
  py::gil_scoped_release release;
  blockenc::expand(key, texts, to, threads);
  return subkeys;
}

blockenc::Keystreams keystreams_of(const py::bytes& subkeys, const py::buffer& used) {
  blockenc::Keystreams streams{};
  streams.subkeys = subkeys_of(subkeys, &streams.count);
  streams.used = numbers_of<int64_t>(used, "used", streams.count);
  if (std::any_of(streams.used, streams.used + streams.count, [](int64_t words) { return words < 0; })) {
    throw std::invalid_argument("used: expected numbers from 0");
  }
  return streams;
}

void draw_uniforms(const py::bytes& subkeys, const py::buffer& used, const py::buffer& bounds,
                   const py::buffer& drawn, int threads) {
  const blockenc::Keystreams streams = keystreams_of(subkeys, used);
  const int64_t numbers = bounds.request().size;
  const int64_t* below = numbers_of<const int64_t>(bounds, "bounds", numbers);
  int64_t* to = numbers_of<int64_t>(drawn, "drawn", streams.count * numbers);
  for (int64_t n = 0; n < numbers; ++n) {
    if (below[n] < 1 || below[n] > int64_t{1} << 32) {
      throw std::invalid_argument("bounds: expected numbers from 1 to 2**32");
    }
  }
  py::gil_scoped_release release;
  blockenc::draw_uniforms(streams, below, numbers, to, threads);
}

void draw_permutations(const py::bytes& subkeys, const py::buffer& used, const py::buffer& drawn,
                       int64_t permutations, int64_t length, int threads) {
  const blockenc::Keystreams streams = keystreams_of(subkeys, used);
  constexpr int64_t kEnd = int64_t{1} << 31;
  if (permutations < 0 || length < 0 || permutations >= kEnd || length >= kEnd) {
    throw std::invalid_argument("permutations, length: expected numbers from 0 to 2**31 - 1");
  }
  int64_t* to = numbers_of<int64_t>(drawn, "drawn", streams.count * permutations * length);
  py::gil_scoped_release release;
  blockenc::draw_permutations(streams, permutations, length, to, threads);
}

void make_byte_tables(const py::bytes& keys, const py::buffer& tables, int threads) {
  int64_t count;
  const uint8_t* from = subkeys_of(keys, &count);
  auto* to = numbers_of<uint16_t>(tables, "tables", count * 256);
  py::gil_scoped_release release;
  blockenc::make_byte_tables(from, count, to, threads);
}

std::string find_libcrypto(const std::optional<std::string>& path) {
  return blockenc::find_libcrypto(path ? path->c_str() : nullptr);
}

py::list level_names() {
  py::list names;
  int count;
  const blockenc::Level* all = blockenc::levels(&count);
  for (int k = 0; k < count; ++k) names.append(py::make_tuple(all[k].name, all[k].supported()));
  return names;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Kernels of blockenc on the CPU; use blockenc.encrypt and blockenc.decrypt.";
  module.def("run", &run, "Applies a plan to a batch, and keeps what it prepared for the next call.");
  module.def("shuffle", &shuffle, "Permutes arrays by what was drawn from a keystream.");
  module.def("find_libcrypto", &find_libcrypto,
             "Where AES and SHA-256 come from; why they cannot, or an empty text.");
  module.def("expand", &expand, "The subkeys for infos.");
  module.def("draw_uniforms", &draw_uniforms, "Numbers out of keystreams.");
  module.def("draw_permutations", &draw_permutations, "Permutations out of keystreams.");
  module.def("make_byte_tables", &make_byte_tables, "FF1 of bytes, for many keys.");
  module.def("kept_plans", &kept_plans, "(number, bytes) of the plans that are kept");
  module.def("levels", &level_names, "(name, supported by this processor) of each level, fastest first");
}
