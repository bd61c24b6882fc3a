// Calls what fuzz.cpp has as libFuzzer would, with some of its options, where there is only g++:
//
//     fuzz [-runs=N] [-max_total_time=SECONDS] [-seed=N] [-artifact_prefix=PATH] CORPUS...
//
// CORPUS: files, and folders of files. They are run as they are, and then changed, N times or for so long,
// whichever ends first. Built with -fsanitize-coverage=trace-pc, inputs that run new code, or run it more
// often, are changed further. An input on which the program ends is written to PATHcrash.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned int seed);
extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kMost = 1 << 17;
constexpr unsigned kHangs = 60;  // seconds that one input may take
constexpr size_t kPlaces = 1 << 16;
uint8_t counts[kPlaces];      // how often each place in the code was met by this input
uint8_t known[kPlaces];       // which powers of two of that there have been
Bytes input;                  // the one that is run
std::string artifact = "./";  // where to write it if it ends the program

void write_input() {
  std::ofstream((artifact + "crash").c_str(), std::ios::binary)
      .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
}

void on_signal(int signal) {
  std::fprintf(stderr, "FAILED: %s\n", signal == SIGALRM ? "it takes too long" : "aborted");
  write_input();
  _exit(1);
}

// Whether the last input did what none did before.
bool is_new() {
  bool found = false;
  for (size_t k = 0; k < kPlaces; ++k) {
    if (!counts[k]) continue;
    uint8_t bit = 1;
    for (int n = counts[k]; n > 1; n /= 2) bit = static_cast<uint8_t>(bit << 1);
    if (!(known[k] & bit)) known[k] |= bit, found = true;
  }
  return found;
}

bool run(const Bytes& data) {
  input = data;
  std::memset(counts, 0, sizeof counts);
  alarm(kHangs);
  LLVMFuzzerTestOneInput(data.data(), data.size());
  alarm(0);
  return is_new();
}

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

}  // namespace

// What -fsanitize-coverage=trace-pc calls in every basic block.
extern "C" __attribute__((no_sanitize_coverage, no_sanitize("address", "undefined"))) void
__sanitizer_cov_trace_pc() {
  const auto place = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  uint8_t& count = counts[(place ^ place >> 16) % kPlaces];
  if (count != UINT8_MAX) ++count;
}

int main(int count, char** arguments) {
  double seconds = 1e9;
  uint64_t runs = UINT64_MAX, seed = 1;
  std::vector<Bytes> corpus;
  for (int k = 1; k < count; ++k) {
    const std::string argument = arguments[k];
    const std::string value = argument.substr(argument.find('=') + 1);
    if (argument.rfind("-runs=", 0) == 0) {
      runs = std::stoull(value);
    } else if (argument.rfind("-max_total_time=", 0) == 0) {
      seconds = std::stod(value);
    } else if (argument.rfind("-seed=", 0) == 0) {
      seed = std::stoull(value);
    } else if (argument.rfind("-artifact_prefix=", 0) == 0) {
      artifact = value;
    } else if (std::filesystem::is_directory(argument)) {
      std::vector<std::filesystem::path> paths;
      for (const auto& entry : std::filesystem::directory_iterator(argument)) paths.push_back(entry.path());
      std::sort(paths.begin(), paths.end());
      for (const auto& path : paths) corpus.push_back(read(path));
    } else if (std::filesystem::exists(argument)) {
      corpus.push_back(read(argument));
    } else {
      std::fprintf(stderr, "fuzz: no option and no file: %s\n", arguments[k]);
      return 2;
    }
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "fuzz: no corpus\n");
    return 2;
  }
  __sanitizer_set_death_callback(write_input);
  for (const int signal : {SIGABRT, SIGALRM}) std::signal(signal, on_signal);
  for (const Bytes& data : corpus) run(data);
  const size_t given = corpus.size();
  std::mt19937_64 draw(seed);
  const auto start = std::chrono::steady_clock::now();
  uint64_t done = 0;
  while (done < runs &&
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
    Bytes data = corpus[draw() % corpus.size()];
    const size_t size = data.size();
    data.resize(std::max(kMost, size));
    data.resize(LLVMFuzzerCustomMutator(data.data(), size, kMost, static_cast<unsigned int>(draw())));
    ++done;
    if (run(data)) corpus.push_back(data);
  }
  std::printf("inputs: %llu, corpus: %zu, kept: %zu\n", static_cast<unsigned long long>(done), given,
              corpus.size() - given);
  return 0;
}
