// Runs the decoder on random weights in every format, alone and in batches, with one thread and several, and checks that
// they agree; built with sanitizers by test_sanitizers.py.
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

std::vector<int> generate(Decoder& decoder, int sequences, int prompt) {
  std::vector<std::vector<int32_t>> tokens(static_cast<size_t>(sequences)), tables(static_cast<size_t>(sequences));
  for (int s = 0; s < sequences; s++) {
    for (int i = 0; i < prompt; i++) tokens[size_t(s)].push_back((s * 31 + i * 7) % 50);
    for (int b = 0; b < 12; b++) tables[size_t(s)].push_back(s * 12 + b);
  }
  std::vector<int> out;
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
      row.state_from = 0;
      rows.push_back(row);
    }
    auto results = decoder.step(rows);
    start = int(tokens[0].size());
    for (int s = 0; s < sequences; s++) {
      tokens[size_t(s)].push_back(results[size_t(s)].choices[0].token);
      out.push_back(results[size_t(s)].choices[0].token);
    }
  }
  return out;
}

// Tokens chosen one by one, and the same of guesses of which the last is wrong.
bool guesses_agree(Decoder& decoder) {
  std::vector<int32_t> tokens, blocks[2];
  for (int i = 0; i < 40; i++) tokens.push_back(i * 7 % 50);
  for (int b = 0; b < 12; b++) blocks[b % 2].push_back(b);
  auto choose = [&](int start, int position, int draft, int which) {
    StepRow row{};
    row.tokens.assign(tokens.begin() + start, tokens.end());
    row.start = start;
    row.blocks = blocks[which];
    row.draft = draft;
    Sampling& sampling = row.sampling.emplace();
    sampling.params.temperature = 0.9f;
    sampling.seed = 5;
    sampling.position = position;
    return decoder.step({row})[0].choices;
  };
  std::vector<int32_t> expected;
  for (int n = 0, start = 0; n < 3; n++) {
    expected.push_back(choose(start, n, 0, 0)[0].token);
    start = int(tokens.size());
    tokens.push_back(expected.back());
  }
  tokens.back() = (tokens.back() + 1) % 50;
  auto found = choose(0, 0, 3, 1);
  if (found.size() != 3) return false;
  for (size_t i = 0; i < 3; i++)
    if (found[i].token != expected[i]) return false;
  return true;
}

}  // namespace

// The instruction set to check, or all that this processor has.
int main(int arguments, char** argument) {
  for (const char* isa : {"avx512bf16", "avx512", "avxvnni", "avx2", "neon", "portable"}) {
    if (!choose_kernels(isa) || (arguments > 1 && std::string(argument[1]) != isa)) continue;
    for (const Format& f : FORMATS) {
      std::vector<int> expected;
      for (int run = 0; run < 6; run++) {  // the last with other caches
        int threads = run % 3 + 1;
        const CacheKind kind = run < 3 ? CacheKind::F16 : run == 3 ? CacheKind::INT8 : run == 4 ? CacheKind::INT4 : CacheKind::F32;
        std::mt19937 rng(7);
        Shape shape{2, 256, 256, 4, 2, 32, 50, 1e-5f, std::vector<float>(16, 0.01f), 1.0f};
        Decoder decoder(shape, threads, 64, isa, kind);
        std::vector<std::vector<uint8_t>> kept;
        auto add = [&](const std::string& name, int rows, int columns, const Format& format) {
          kept.push_back(random_matrix(format, rows, columns, rng));
          decoder.add(name, format.id, rows, columns, kept.back().data(), kept.back().size(), nullptr);
        };
        add("tok_embeddings.weight", 50, 256, f);
        add("output.weight", 50, 256, f);
        add("norm.weight", 1, 256, FORMATS[0]);
        for (int l = 0; l < 2; l++) {
          std::string p = "layers." + std::to_string(l) + ".";
          add(p + "attention_norm.weight", 1, 256, FORMATS[0]);
          add(p + "ffn_norm.weight", 1, 256, FORMATS[0]);
          add(p + "attention.wq.weight", 128, 256, f);
          add(p + "attention.wk.weight", 64, 256, f);
          add(p + "attention.wv.weight", 64, 256, f);
          add(p + "attention.wo.weight", 256, 128, f.block == 256 ? FORMATS[8] : f);
          add(p + "feed_forward.w1.weight", 256, 256, f);
          add(p + "feed_forward.w3.weight", 256, 256, f);
          add(p + "feed_forward.w2.weight", 256, 256, f);
        }
        decoder.finish();
        std::vector<int> batch = generate(decoder, 5, 150);
        std::vector<int> alone = generate(decoder, 1, 150);
        if (!guesses_agree(decoder)) {
          std::printf("%s format %d: guesses change what is chosen\n", isa, f.id);
          return 1;
        }
        for (int n = 0; n < 4; n++)
          if (alone[size_t(n)] != batch[size_t(n * 5)]) {
            std::printf("%s format %d: alone and in a batch differ\n", isa, f.id);
            return 1;
          }
        if (expected.empty()) expected = batch;
        if (expected != batch && kind == CacheKind::F16) {
          std::printf("%s format %d: %d threads differ\n", isa, f.id, threads);
          return 1;
        }
      }
    }
    std::printf("%s agrees\n", isa);
  }
  return 0;
}
