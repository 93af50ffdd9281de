// Encodes random bytes, much of them not UTF-8, with random vocabularies, and checks that the tokens stand for those bytes, the
// same for another thread; built with sanitizers by test_sanitizers.py.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <thread>

#include "bpe.h"

using namespace herd::text;

namespace {

std::string named(int byte) {  // in GPT-2's printable alphabet
  bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  int point = byte;
  if (!printable) {
    point = 256;
    for (int b = 0; b < byte; b++) point += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
  }
  if (point < 128) return {char(point)};
  return {char(0xC0 | point >> 6), char(0x80 | (point & 63))};
}

std::string random_text(std::mt19937& rng) {
  static const std::vector<std::string> PIECES = {"a", "ab", " ", "  ", "\n", "\r\n", "'s", "'LL", "'\xC5\xBF", "12345", "\xC3\xA9",
                                                  "\xE4\xB8\x96", "\xF0\x9F\x98\x80", "<user>", "!?", "\xE3\x80\x80", "\xF0\x9F", "\xE4"};
  std::string out;
  for (size_t n = rng() % 300; n > 0; n--) {
    if (rng() % 4) {
      out += PIECES[rng() % PIECES.size()];
    } else {
      out += char(rng());
    }
  }
  if (rng() % 8 == 0) out.insert(out.size() / 2, std::string(5000, "ab "[rng() % 3]));
  return out;
}

}  // namespace

int main() {
  constexpr int CUTS = int(Cut::DEEPSEEK_V3) + 1;
  std::mt19937 rng(3);
  for (int run = 0; run < 300; run++) {
    Strings tokens, merges;
    std::vector<std::string> names;
    for (int b = 0; b < 256; b++) names.push_back(named(b));
    for (int i = 0; i < 400; i++) {
      std::string left = names[i % 3 ? 'a' + rng() % 3 : rng() % names.size()], right = names[i % 2 ? 'a' + rng() % 3 : rng() % names.size()];
      merges.add(left + " " + right);
      names.push_back(left + right);
    }
    for (auto& name : names) tokens.add(name);
    std::vector<Kind> kinds(tokens.size(), Kind::PLAIN);
    tokens.add("<user>");
    kinds.push_back(Kind::USER);
    tokens.add("<special>");
    kinds.push_back(Kind::SPECIAL);
    Bpe bpe(tokens, kinds, merges, Cut(run % CUTS), run % 2);
    for (int n = 0; n < 10; n++) {
      std::string text = random_text(rng), back;
      std::vector<int32_t> ids, others;
      std::thread other([&] { bpe.encode(text, others); });
      bpe.encode(text, ids);
      other.join();
      for (int32_t id : ids) back += bpe.bytes_of(size_t(id));
      if (back != text || ids != others) {
        std::printf("cut %d: tokens do not stand for the text\n", run % CUTS);
        return 1;
      }
    }
    std::vector<uint8_t> damaged(rng() % 200);
    for (auto& b : damaged) b = uint8_t(rng() % 3 ? 0 : rng());
    try {
      Strings strings(damaged.data(), damaged.size(), rng() % 210, rng() % 30);
    } catch (const std::out_of_range&) {
    }
  }
  std::puts("tokens stand for the text");
  return 0;
}
