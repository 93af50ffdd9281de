// Runs the decoder on random weights in every format, alone and in batches, with one thread and several, and checks that
// they agree; built with sanitizers by test_sanitizers.py.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "decoder.h"

using namespace herd;

namespace {

struct Format {
  int id, block, bytes;
};
const Format FORMATS[] = {{0, 1, 4},    {1, 1, 2},    {30, 1, 2},     {1000, 1, 1},   {2, 32, 18},   {3, 32, 20},
                          {6, 32, 22},  {7, 32, 24},  {8, 32, 34},    {12, 256, 144}, {13, 256, 176}, {14, 256, 210}};

std::vector<uint8_t> random_matrix(const Format& f, int rows, int columns, std::mt19937& rng) {
  std::vector<uint8_t> out(size_t(rows) * size_t(columns / f.block) * size_t(f.bytes));
  for (auto& b : out) b = uint8_t(rng());
  if (f.id == 0) {
    auto* p = reinterpret_cast<float*>(out.data());
    for (size_t i = 0; i < out.size() / 4; i++) p[i] = float(rng() % 2001) / 20000.0f - 0.05f;
  } else if (f.bytes == 2) {  // halves near 0.05: clear the large exponents
    for (size_t i = 1; i < out.size(); i += 2) out[i] = uint8_t(f.id == 1 ? (out[i] & 0x83) | 0x28 : (out[i] & 0x80) | 0x3D);
  } else if (f.id == 1000) {
    for (auto& b : out) b = uint8_t((b & 0x87) | 0x18);
  } else {  // the halves that scale a block
    for (size_t at = 0; at < out.size(); at += size_t(f.bytes)) {
      size_t scale = f.id == 14 ? 208 : 0;
      out[at + scale] = 0;
      out[at + scale + 1] = f.id >= 12 ? 0x04 : 0x18;
      if (f.id == 3 || f.id == 7 || f.id == 12 || f.id == 13) {
        out[at + 2] = 0;
        out[at + 3] = 0x04;
      }
    }
  }
  return out;
}

// Bytes as a mapped file has them: pages that are given back come again.
class Mapped {
 public:
  explicit Mapped(const std::vector<uint8_t>& bytes) : size_(bytes.size()), file_(std::tmpfile()) {
    if (!file_ || std::fwrite(bytes.data(), 1, size_, file_) != size_ || std::fflush(file_)) std::abort();
    data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fileno(file_), 0);
    if (data_ == MAP_FAILED) std::abort();
  }
  Mapped(Mapped&& other) noexcept : size_(other.size_), file_(other.file_), data_(other.data_) { other.data_ = nullptr; }
  ~Mapped() {
    if (!data_) return;
    munmap(data_, size_);
    std::fclose(file_);
  }
  const uint8_t* data() const { return static_cast<const uint8_t*>(data_); }
  size_t size() const { return size_; }

 private:
  size_t size_;
  FILE* file_;
  void* data_;
};

// A cache, how many threads use it, and whether blocks hold what never counts at first: a NaN for each number and scale.
struct Run {
  CacheKind kind;
  int threads;
  bool stale;
};
const Run RUNS[] = {{CacheKind::F16, 1, false}, {CacheKind::F16, 2, false}, {CacheKind::F16, 3, true},
                    {CacheKind::F32, 1, false}, {CacheKind::F32, 3, true},  {CacheKind::INT8, 1, false},
                    {CacheKind::INT8, 2, true}, {CacheKind::INT4, 1, false}, {CacheKind::INT4, 3, true}};
constexpr int BLOCKS = 64, VOCAB = 50;

// Which tokens may come, one mask for each of some places: a third of them, another third at each.
std::vector<uint32_t> masks(int first, int count) {
  std::vector<uint32_t> out(size_t(count) * 2);
  for (int n = 0; n < count; n++)
    for (int t = (first + n) % 3; t < VOCAB; t += 3) out[size_t(n * 2 + t / 32)] |= 1u << t % 32;
  return out;
}

struct Found {
  std::vector<int> tokens;
  std::vector<double> states;
  bool sound = true;  // no NaN, and no token that its mask forbids
};

// Four steps of some sequences, every third of them masked.
Found generate(Decoder& decoder, int sequences, int prompt) {
  std::vector<std::vector<int32_t>> tokens(static_cast<size_t>(sequences)), tables(static_cast<size_t>(sequences));
  for (int s = 0; s < sequences; s++) {
    for (int i = 0; i < prompt; i++) tokens[size_t(s)].push_back((s * 31 + i * 7) % VOCAB);
    for (int b = 0; b < 12; b++) tables[size_t(s)].push_back(s * 12 + b);
  }
  Found out;
  int start = 0;
  for (int n = 0; n < 4; n++) {
    std::vector<StepRow> rows;
    for (int s = 0; s < sequences; s++) {
      StepRow row{};
      row.tokens.assign(tokens[size_t(s)].begin() + start, tokens[size_t(s)].end());
      row.start = start;
      row.blocks = tables[size_t(s)];
      Sampling& sampling = row.sampling.emplace();
      sampling.params.temperature = s % 2 ? 0.8f : 0.0f;
      sampling.params.top_p = 0.9f;
      sampling.seed = uint64_t(s);
      sampling.position = n;
      row.top = 3;
      row.targets = {3};
      row.state_from = n ? 0 : s;
      rows.push_back(row);
    }
    auto results = decoder.step(rows, [&] {  // late, as the binding gives them
      for (size_t s = 0; s < rows.size(); s += 3) {
        rows[s].sampling->masks = masks(n, 1);
        rows[s].sampling->mask_words = 2;
      }
    });
    start = int(tokens[0].size());
    for (int s = 0; s < sequences; s++) {
      const StepResult& result = results[size_t(s)];
      out.sound &= result.finite() && result.choices.size() == 1 && result.state.size() == 256;
      if (!out.sound) return out;
      const int token = result.choices[0].token;
      out.sound &= s % 3 != 0 || token % 3 == n % 3;
      tokens[size_t(s)].push_back(token);
      out.tokens.push_back(token);
      out.states.insert(out.states.end(), result.state.begin(), result.state.end());
    }
  }
  return out;
}

// Tokens chosen one by one, and the same of guesses of which the last is wrong: without masks, with one for each guess, with too few.
bool guesses_agree(Decoder& decoder, int mask_count) {
  std::vector<int32_t> tokens, blocks[2];
  for (int i = 0; i < 40; i++) tokens.push_back(i * 7 % VOCAB);
  for (int b = 0; b < 12; b++) blocks[b % 2].push_back(b);
  auto choose = [&](int start, int position, int draft, int which) {
    StepRow row{};
    row.tokens.assign(tokens.begin() + start, tokens.end());
    row.start = start;
    row.blocks = blocks[which];
    row.draft = draft;
    Sampling& sampling = row.sampling.emplace();
    sampling.params.temperature = 0.9f;
    sampling.params.presence_penalty = 0.5f;
    sampling.history.assign(tokens.begin(), tokens.end() - draft);
    sampling.prompt_length = 40;
    sampling.seed = 5;
    sampling.position = position;
    std::vector<StepRow> rows{row};
    return decoder.step(rows, [&] {
      if (!mask_count) return;
      rows[0].sampling->masks = masks(position, draft ? mask_count : 1);
      rows[0].sampling->mask_words = 2;
    })[0].choices;
  };
  std::vector<int32_t> expected;
  for (int n = 0, start = 0; n < 3; n++) {
    auto found = choose(start, n, 0, 0);
    if (found.size() != 1) return false;
    expected.push_back(found[0].token);
    start = int(tokens.size());
    tokens.push_back(expected.back());
  }
  tokens.back() = (tokens.back() + 1) % VOCAB;
  auto found = choose(0, 0, 3, 1);
  if (found.size() != (mask_count ? std::min<size_t>(size_t(mask_count), 3) : 3)) return false;
  for (size_t i = 0; i < found.size(); i++)
    if (found[i].token != expected[i] || (mask_count && expected[i] % 3 != int(i))) return false;
  return true;
}

}  // namespace

// The instruction set to check, or all that this processor has.
int main(int arguments, char** argument) {
  for (const char* isa : {"avx512bf16", "avx512", "avxvnni", "avx2", "neon", "portable"}) {
    if (!choose_kernels(isa) || (arguments > 1 && std::string(argument[1]) != isa)) continue;
    for (const Format& f : FORMATS) {
      Found expected;
      for (const auto& [kind, threads, stale] : RUNS) {
        auto wrong = [&, id = f.id, kind = int(kind)](const char* what) {
          std::printf("%s format %d cache %d: %s\n", isa, id, kind, what);
          return 1;
        };
        std::mt19937 rng(7);
        Shape shape{2, 256, 256, 4, 2, 32, VOCAB, 1e-5f, std::vector<float>(16, 0.01f), 1.0f};
        Decoder decoder(shape, threads, BLOCKS, isa, kind);
        std::vector<uint8_t> block(decoder.block_bytes(), 0xFF);
        for (int b = 0; stale && b < BLOCKS; b++) decoder.write_block(b, block.data());
        std::vector<Mapped> kept;
        decoder.packed_a_step = 20'000;  // of some 300,000: the last steps still meet matrices that are not packed
        auto add = [&](const std::string& name, int rows, int columns, const Format& format, float times = 1.0f) {
          std::vector<uint8_t> bytes = random_matrix(format, rows, columns, rng);
          if (format.id == 0)
            for (size_t i = 0; i < bytes.size() / 4; i++) reinterpret_cast<float*>(bytes.data())[i] *= times;
          const Mapped& raw = kept.emplace_back(bytes);
          decoder.add(name, format.id, rows, columns, raw.data(), raw.size(), nullptr, threads != 2);
        };
        add("tok_embeddings.weight", VOCAB, 256, f);
        add("output.weight", VOCAB, 256, f);
        add("norm.weight", 1, 256, FORMATS[0]);
        for (int l = 0; l < 2; l++) {
          std::string p = "layers." + std::to_string(l) + ".";
          add(p + "attention_norm.weight", 1, 256, FORMATS[0]);
          add(p + "ffn_norm.weight", 1, 256, FORMATS[0]);
          add(p + "attention.wq.weight", 128, 256, f);
          add(p + "attention.wk.weight", 64, 256, f, l ? 1e-37f : 1.0f);  // keys so small that 1 / their scale is too large
          add(p + "attention.wv.weight", 64, 256, f);
          add(p + "attention.wo.weight", 256, 128, f.block == 256 ? FORMATS[8] : f);
          add(p + "feed_forward.w1.weight", 256, 256, f);
          add(p + "feed_forward.w3.weight", 256, 256, f);
          add(p + "feed_forward.w2.weight", 256, 256, f);
        }
        decoder.finish();
        Found batch = generate(decoder, 5, 150), alone = generate(decoder, 1, 150);
        if (!batch.sound || !alone.sound) return wrong("a step gives a NaN or a forbidden token");
        for (int masked : {0, 2, 4})
          if (!guesses_agree(decoder, masked)) return wrong("guesses change what is chosen");
        for (size_t n = 0; n < 4; n++)
          if (alone.tokens[n] != batch.tokens[n * 5]) return wrong("alone and in a batch differ");
        if (threads == 1) expected = batch;
        if (expected.tokens != batch.tokens || expected.states != batch.states) return wrong("threads differ");
      }
    }
    std::printf("%s agrees\n", isa);
  }
  return 0;
}
