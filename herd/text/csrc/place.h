// A place in UTF-8 text, and the class of the character there.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <vector>

#include "unicode.h"

namespace herd::text {

// Sets of classes: a regular expression's \p{L}, and what is neither \p{L}, \p{N} nor \s.
constexpr uint8_t LETTER = UPPER | LOWER | CASELESS, WORD = LETTER | MARK;

constexpr std::array<uint8_t, 128> ASCII_CLASSES = [] {
  std::array<uint8_t, 128> classes{};
  for (const Range& range : RANGES)
    for (uint32_t p = range.first; p <= range.last && p < 128; p += range.step) classes[p] = range.kind;
  return classes;
}();

class Classes {
 public:
  static uint8_t of(uint32_t point) {
    static const Classes classes;
    if (point < TABLE) return classes.table_[point];
    return point >= LATE_MARKS.first && point <= LATE_MARKS.last ? MARK : REST;
  }

 private:
  static constexpr uint32_t TABLE = LAST_CLASSED + 1;
  Classes() : table_(TABLE, REST) {
    for (const Range& range : RANGES)
      for (uint32_t p = range.first; p <= range.last; p += range.step) table_[p] = range.kind;
  }
  std::vector<uint8_t> table_;
};

// A place in UTF-8 text. Text from Python is valid; damaged bytes count as characters of their own.
class Place {
 public:
  Place(std::string_view text, size_t at) : text_(text), at_(at) { read(); }
  bool done() const { return at_ >= text_.size(); }
  size_t at() const { return at_; }
  uint32_t point() const { return point_; }
  uint8_t kind() const { return kind_; }
  bool is(uint8_t kinds) const { return !done() && kind_ & kinds; }
  bool is_other() const { return !done() && !(kind_ & (LETTER | NUMBER | SPACE)); }
  bool newline() const { return !done() && (point_ == '\r' || point_ == '\n'); }
  Place next() const { return Place(text_, at_ + length_); }
  void step() {
    at_ += length_;
    read();
  }
  void skip(uint8_t kinds) {
    while (is(kinds)) step();
  }
  void skip_others() {
    while (is_other()) step();
  }

 private:
  void read() {
    length_ = 1;
    if (done()) return;
    auto byte = [&](size_t i) { return uint32_t(uint8_t(text_[at_ + i])); };
    auto more = [&](size_t i) { return byte(i) & 63; };
    point_ = byte(0);
    if (point_ < 0x80) {
      kind_ = ASCII_CLASSES[point_];
      return;
    }
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
  uint8_t kind_ = REST;
};

}  // namespace herd::text
