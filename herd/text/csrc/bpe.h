// Byte-level BPE: a vocabulary and its merges, and text -> token ids. Words are cut as pre-tokenizers cut
// them (words.h), then merged by rank.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "words.h"

namespace herd::text {

// Strings that lie one after another, as in a GGUF array: each is its length (8 bytes, little-endian), then its bytes.
class Strings {
 public:
  // Reads `count` strings at `at` of `size` bytes; throws std::out_of_range when they run past the end.
  Strings(const uint8_t* data, size_t size, size_t at, size_t count);
  explicit Strings(const std::vector<std::string>& all);
  Strings() = default;
  void add(std::string_view one) {
    bytes_ += one;
    ends_.push_back(bytes_.size());
  }
  size_t size() const { return ends_.size(); }
  std::string_view operator[](size_t i) const {
    size_t start = i ? ends_[i - 1] : 0;
    return {bytes_.data() + start, ends_[i] - start};
  }
  size_t end() const { return end_; }  // where reading stopped
  std::vector<size_t> find(const std::vector<std::string>& names) const;  // where any of them stands

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
  size_t end_ = 0;
};

enum class Kind : uint8_t { PLAIN, SPECIAL, USER };

class Bpe {
 public:
  // Token i is named by tokens[i], in GPT-2's printable alphabet where it is plain. Text never becomes a special one; user
  // tokens are found in text before words are cut. `whole_words`: a word that is a token is not merged from its bytes.
  // Throws std::invalid_argument for a merge of what is no token.
  Bpe(const Strings& tokens, const std::vector<Kind>& kinds, const Strings& merges, Cut cut, bool whole_words);

  Bpe(const Bpe&) = delete;

  void encode(std::string_view text, std::vector<int32_t>& out) const;
  std::string_view bytes_of(size_t token) const;  // what a token stands for; a special one's name
  size_t size() const { return bytes_.size(); }

 private:
  struct Merge {
    uint64_t pair;  // left id << 32 | right id
    uint32_t rank, result;
  };
  class Words;

  size_t slot_of(std::string_view bytes, uint64_t hash) const;
  int32_t find(std::string_view bytes, uint64_t hash) const;
  int32_t find(std::string_view bytes) const;
  const Merge* merge_of(int32_t left, int32_t right) const;
  void plain(std::string_view text, Words& words, std::vector<int32_t>& out) const;
  void word(std::string_view bytes, Words& words, std::vector<int32_t>& out) const;
  void merged(std::string_view bytes, std::vector<int32_t>& out) const;
  size_t merge_short(int32_t* ids, size_t count) const;
  size_t merge_long(int32_t* ids, size_t count) const;

  Cut cut_;
  mutable std::vector<std::atomic<bool>> whole_;  // of each token: a word of its bytes is known to become it, for all texts
  Strings bytes_;                   // what each token stands for
  std::vector<uint32_t> by_bytes_;  // open addressing: token + 1 of plain tokens
  std::vector<Merge> merges_;       // open addressing; pair EMPTY where there is none
  std::array<int32_t, 256> byte_id_;
  std::array<std::vector<uint32_t>, 256> user_;  // user tokens by first byte, the longest first
};

}  // namespace herd::text
