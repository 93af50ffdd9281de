// Cutting text into words: what the regular expressions of pre-tokenizers do, by hand.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "unicode.h"

namespace herd::text {

// LLAMA3: LLAMA3_PATTERN of herd/text/pre_tokenizers.py. GPT2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// SMOLLM: every number character by itself, GPT2 on what lies between.
// QWEN2: LLAMA3, but every number character by itself.
enum class Cut : uint8_t { LLAMA3, GPT2, SMOLLM, QWEN2 };

class Classes {
 public:
  static Class of(uint32_t point) {
    static const Classes classes;
    return point <= LAST_CLASSED ? classes.table_[point] : OTHER;
  }

 private:
  Classes() : table_(LAST_CLASSED + 1, OTHER) {
    for (const Range& range : RANGES)
      for (uint32_t p = range.first; p <= range.last; p++) table_[p] = range.kind;
  }
  std::vector<Class> table_;
};

// A place in UTF-8 text. Text from Python is valid; damaged bytes count as characters of their own.
class Place {
 public:
  Place(std::string_view text, size_t at) : text_(text), at_(at) { read(); }
  bool done() const { return at_ >= text_.size(); }
  size_t at() const { return at_; }
  uint32_t point() const { return point_; }
  Class kind() const { return kind_; }
  bool is(Class kind) const { return !done() && kind_ == kind; }
  bool newline() const { return !done() && (point_ == '\r' || point_ == '\n'); }
  Place next() const { return Place(text_, at_ + length_); }
  void step() {
    at_ += length_;
    read();
  }
  void skip(Class kind) {
    while (is(kind)) step();
  }

 private:
  void read() {
    length_ = 1;
    if (done()) return;
    auto byte = [&](size_t i) { return uint32_t(uint8_t(text_[at_ + i])); };
    auto more = [&](size_t i) { return byte(i) & 63; };
    point_ = byte(0);
    size_t left = text_.size() - at_;
    if (point_ >= 0xF0 && left >= 4) {
      point_ = (point_ & 7) << 18 | more(1) << 12 | more(2) << 6 | more(3);
      length_ = 4;
    } else if (point_ >= 0xE0 && left >= 3) {
      point_ = (point_ & 15) << 12 | more(1) << 6 | more(2);
      length_ = 3;
    } else if (point_ >= 0xC0 && left >= 2) {
      point_ = (point_ & 31) << 6 | more(1);
      length_ = 2;
    }
    kind_ = Classes::of(point_);
  }

  std::string_view text_;
  size_t at_, length_ = 1;
  uint32_t point_ = 0;
  Class kind_ = OTHER;
};

// Bytes of 's 't 're 've 'm 'll 'd at the start of `text`, 0 where there is none. LATIN SMALL LETTER LONG S folds to s.
inline size_t contraction(std::string_view text, bool any_case) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  auto letter = [&](size_t i) {
    char c = i < text.size() ? text[i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  };
  char a = letter(1), b = letter(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  if (any_case && text.substr(1, 2) == "\xC5\xBF") return 3;
  return 0;
}

// The end of a run of whitespace that starts a word: its last character belongs to what follows, unless it is alone.
inline size_t space_end(Place first) {
  Place last = first, end = first;
  for (; end.is(SPACE); end.step()) last = end;
  return end.done() || last.at() == first.at() ? end.at() : last.at();
}

inline size_t gpt2_end(std::string_view text, size_t start) {
  if (size_t length = contraction(text.substr(start), false)) return start + length;
  Place place(text, start);
  if (place.point() == ' ') {
    Place after = place.next();
    if (!after.done() && after.kind() != SPACE) place = after;
  }
  if (place.kind() == SPACE) return space_end(place);
  place.skip(place.kind());
  return place.at();
}

inline size_t llama3_end(std::string_view text, size_t start, int most_digits) {
  if (size_t length = contraction(text.substr(start), true)) return start + length;
  Place place(text, start);
  if (place.kind() == LETTER) {
    place.skip(LETTER);
    return place.at();
  }
  if (place.kind() == NUMBER) {
    for (int i = 0; i < most_digits && place.is(NUMBER); i++) place.step();
    return place.at();
  }
  Place after = place.next();
  if (!place.newline() && after.is(LETTER)) {
    after.skip(LETTER);
    return after.at();
  }
  if (place.kind() == OTHER || (place.point() == ' ' && after.is(OTHER))) {
    if (place.kind() != OTHER) place = after;
    place.skip(OTHER);
    while (place.newline()) place.step();
    return place.at();
  }
  size_t newline_end = 0;
  for (Place run = place; run.is(SPACE);) {
    bool newline = run.newline();
    run.step();
    if (newline) newline_end = run.at();
  }
  return newline_end ? newline_end : space_end(place);
}

// Call take(word) for each word of `text`.
template <class F>
void cut_words(std::string_view text, Cut cut, F&& take) {
  if (cut == Cut::LLAMA3 || cut == Cut::QWEN2) {
    int most_digits = cut == Cut::LLAMA3 ? 3 : 1;
    for (size_t at = 0, end; at < text.size(); at = end)
      take(text.substr(at, (end = llama3_end(text, at, most_digits)) - at));
    return;
  }
  auto gpt2 = [&](std::string_view piece) {
    for (size_t at = 0, end; at < piece.size(); at = end) take(piece.substr(at, (end = gpt2_end(piece, at)) - at));
  };
  if (cut == Cut::GPT2) return gpt2(text);
  size_t start = 0;
  for (Place place(text, 0); !place.done();) {
    size_t at = place.at();
    bool number = place.kind() == NUMBER;
    place.step();
    if (!number) continue;
    gpt2(text.substr(start, at - start));
    take(text.substr(at, place.at() - at));
    start = place.at();
  }
  gpt2(text.substr(start));
}

}  // namespace herd::text
