#include "bpe.h"

#include <algorithm>
#include <cstring>
#include <queue>
#include <stdexcept>
#include <unordered_map>

namespace herd::text {
namespace {

constexpr uint64_t EMPTY = ~uint64_t(0);
constexpr size_t SHORT = 48;  // bytes of a word up to which looking at every pair beats a heap

uint64_t mixed(uint64_t x) {  // SplitMix64's finalizer
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

uint64_t hash_of(std::string_view text) {
  uint64_t h = text.size(), part;
  const char* p = text.data();
  size_t left = text.size();
  for (; left >= 8; left -= 8, p += 8) {
    std::memcpy(&part, p, 8);
    h = mixed(h ^ part);
  }
  part = 0;
  std::memcpy(&part, p, left);
  return mixed(h ^ part);
}

size_t table_size(size_t entries) {
  size_t size = 64;
  while (size < entries * 2) size *= 2;
  return size;
}

// GPT-2's printable alphabet: printable Latin-1 stands for itself, other bytes for the characters from 256 on.
struct Alphabet {
  std::array<int16_t, 324> byte;  // of each character, -1 where it is none of the alphabet
  Alphabet() {
    byte.fill(-1);
    int extra = 256;
    for (int b = 0; b < 256; b++) {
      bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      byte[size_t(printable ? b : extra++)] = int16_t(b);
    }
  }
};

// A plain token's name -> the bytes it stands for; false where a character is outside the alphabet.
bool to_bytes(std::string_view name, std::string& out) {
  static const Alphabet alphabet;
  out.clear();
  for (Place place(name, 0); !place.done(); place.step()) {
    uint32_t point = place.point();
    if (point >= alphabet.byte.size() || alphabet.byte[point] < 0) return false;
    out.push_back(char(alphabet.byte[point]));
  }
  return true;
}

}  // namespace

Strings::Strings(const uint8_t* data, size_t size, size_t at, size_t count) {
  if (at > size || count > (size - at) / 8) throw std::out_of_range("strings");
  ends_.reserve(count);
  size_t begun = at;
  for (size_t i = 0; i < count; i++) {
    uint64_t length;
    if (size - at < 8) throw std::out_of_range("strings");
    std::memcpy(&length, data + at, 8);
    at += 8;
    if (length > size - at) throw std::out_of_range("strings");
    at += length;
    ends_.push_back(at - begun - (i + 1) * 8);
  }
  end_ = at;
  bytes_.reserve(ends_.empty() ? 0 : ends_.back());
  for (size_t i = 0; i < count; i++) {
    size_t start = i ? ends_[i - 1] : 0;
    bytes_.append(reinterpret_cast<const char*>(data) + begun + start + (i + 1) * 8, ends_[i] - start);
  }
}

std::vector<size_t> Strings::find(const std::vector<std::string>& names) const {
  std::vector<size_t> found;
  for (size_t i = 0; i < size(); i++)
    for (const std::string& name : names)
      if ((*this)[i] == name) found.push_back(i);
  return found;
}

Strings::Strings(const std::vector<std::string>& all) {
  for (auto& one : all) add(one);
}

Bpe::Bpe(const Strings& tokens, const std::vector<Kind>& kinds, const Strings& merges, Cut cut, bool whole_words)
    : cut_(cut), whole_words_(whole_words) {
  by_bytes_.assign(table_size(tokens.size()), 0);
  std::string bytes;
  std::vector<bool> reached(tokens.size());  // by text: not by special tokens, nor names outside the alphabet, nor names that come again
  for (size_t i = 0; i < tokens.size(); i++) {
    reached[i] = kinds[i] == Kind::PLAIN && to_bytes(tokens[i], bytes);
    bytes_.add(reached[i] ? std::string_view(bytes) : tokens[i]);
    if (reached[i]) {
      uint32_t& place = by_bytes_[slot_of(bytes)];
      if (place) reached[place - 1] = false;
      place = uint32_t(i) + 1;
    }
    if (kinds[i] == Kind::USER && !tokens[i].empty()) user_[uint8_t(tokens[i][0])].push_back(uint32_t(i));
  }
  for (auto& same : user_)
    std::stable_sort(same.begin(), same.end(), [&](uint32_t a, uint32_t b) { return tokens[a].size() > tokens[b].size(); });
  for (int b = 0; b < 256; b++) {
    char byte = char(b);
    byte_id_[size_t(b)] = find({&byte, 1});
  }
  merges_.assign(table_size(merges.size()), {EMPTY, 0, 0});
  size_t mask = merges_.size() - 1;
  std::string right;
  int32_t whole = 0;
  for (size_t i = 0; i < merges.size(); i++) {
    std::string_view merge = merges[i];
    size_t space = merge.find(' ');
    auto refuse = [&](const char* what) { throw std::invalid_argument("merge '" + std::string(merge) + "' " + what); };
    if (space == std::string_view::npos) refuse("is not two tokens");
    if (!to_bytes(merge.substr(0, space), bytes) || !to_bytes(merge.substr(space + 1), right)) refuse("is of what is no token");
    int32_t a = find(bytes), b = find(right);
    bytes += right;
    size_t next = size_t(whole + 1);  // mostly it is the next token
    whole = bytes_of(next) == bytes && reached[next] ? int32_t(next) : find(bytes);
    if (a < 0 || b < 0 || whole < 0) refuse("is of what is no token");
    uint64_t pair = uint64_t(uint32_t(a)) << 32 | uint32_t(b);
    size_t slot = mixed(pair) & mask;
    while (merges_[slot].pair != EMPTY && merges_[slot].pair != pair) slot = (slot + 1) & mask;
    merges_[slot] = {pair, uint32_t(i), uint32_t(whole)};
  }
}

std::string_view Bpe::bytes_of(size_t token) const { return token < bytes_.size() ? bytes_[token] : std::string_view(); }

// Where the plain token of these bytes is in the table, or would be.
size_t Bpe::slot_of(std::string_view bytes) const {
  size_t mask = by_bytes_.size() - 1, slot = hash_of(bytes) & mask;
  while (by_bytes_[slot] && bytes_[by_bytes_[slot] - 1] != bytes) slot = (slot + 1) & mask;
  return slot;
}

int32_t Bpe::find(std::string_view bytes) const { return int32_t(by_bytes_[slot_of(bytes)]) - 1; }

const Bpe::Merge* Bpe::merge_of(int32_t left, int32_t right) const {
  uint64_t pair = uint64_t(uint32_t(left)) << 32 | uint32_t(right);
  size_t mask = merges_.size() - 1;
  for (size_t slot = mixed(pair) & mask; merges_[slot].pair != EMPTY; slot = (slot + 1) & mask)
    if (merges_[slot].pair == pair) return &merges_[slot];
  return nullptr;
}

// Words of one text that were encoded already: most words come again.
class Bpe::Words {
 public:
  const std::vector<int32_t>* find(std::string_view word) const {
    auto found = known_.find(word);
    return found == known_.end() ? nullptr : &found->second;
  }
  void keep(std::string_view word, std::vector<int32_t> ids) { known_.emplace(word, std::move(ids)); }

 private:
  struct Hash {
    size_t operator()(std::string_view text) const { return hash_of(text); }
  };
  std::unordered_map<std::string_view, std::vector<int32_t>, Hash> known_;
};

void Bpe::encode(std::string_view text, std::vector<int32_t>& out) const {
  Words words;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const uint32_t* token = nullptr;
    for (const uint32_t& candidate : user_[uint8_t(text[at])])
      if (!token && text.substr(at, bytes_[candidate].size()) == bytes_[candidate]) token = &candidate;
    if (!token) {
      at++;
      continue;
    }
    plain(text.substr(start, at - start), words, out);
    out.push_back(int32_t(*token));
    start = at += bytes_[*token].size();
  }
  plain(text.substr(start), words, out);
}

void Bpe::plain(std::string_view text, Words& words, std::vector<int32_t>& out) const {
  std::vector<int32_t> ids;
  cut_words(text, cut_, [&](std::string_view bytes) {
    if (const std::vector<int32_t>* known = words.find(bytes)) {
      out.insert(out.end(), known->begin(), known->end());
      return;
    }
    ids.clear();
    word(bytes, ids);
    out.insert(out.end(), ids.begin(), ids.end());
    if (bytes.size() <= SHORT) words.keep(bytes, ids);
  });
}

void Bpe::word(std::string_view bytes, std::vector<int32_t>& ids) const {
  if (whole_words_)
    if (int32_t whole = find(bytes); whole >= 0) {
      ids.push_back(whole);
      return;
    }
  for (char byte : bytes)  // a byte that is no token is left out, as tokenizers and llama.cpp do
    if (int32_t id = byte_id_[uint8_t(byte)]; id >= 0) ids.push_back(id);
  if (ids.size() <= SHORT) {
    merge_short(ids);
  } else {
    merge_long(ids);
  }
}

// Merge the pair of lowest rank, the leftmost of equals, until none is left.
void Bpe::merge_short(std::vector<int32_t>& ids) const {
  const Merge* merges[SHORT];
  size_t count = ids.size();
  for (size_t i = 0; i + 1 < count; i++) merges[i] = merge_of(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = count;
    for (size_t i = 0; i + 1 < count; i++)
      if (merges[i] && (best == count || merges[i]->rank < merges[best]->rank)) best = i;
    if (best == count) break;
    ids[best] = int32_t(merges[best]->result);
    std::copy(ids.begin() + long(best) + 2, ids.begin() + long(count), ids.begin() + long(best) + 1);
    std::copy(merges + best + 2, merges + std::max(count - 1, best + 2), merges + best + 1);
    count--;
    if (best > 0) merges[best - 1] = merge_of(ids[best - 1], ids[best]);
    if (best + 1 < count) merges[best] = merge_of(ids[best], ids[best + 1]);
  }
  ids.resize(count);
}

// The same with a heap of pairs, for words of thousands of bytes.
void Bpe::merge_long(std::vector<int32_t>& ids) const {
  struct Pair {
    uint32_t rank;
    size_t left, right;
    int32_t left_id, right_id;
    uint32_t result;
    bool operator<(const Pair& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
  };
  size_t count = ids.size();
  std::vector<size_t> before(count), after(count);
  for (size_t i = 0; i < count; i++) {
    before[i] = i - 1;
    after[i] = i + 1;
  }
  std::priority_queue<Pair> heap;
  auto offer = [&](size_t left, size_t right) {
    if (const Merge* m = merge_of(ids[left], ids[right])) heap.push({m->rank, left, right, ids[left], ids[right], m->result});
  };
  for (size_t i = 0; i + 1 < count; i++) offer(i, i + 1);
  while (!heap.empty()) {
    Pair p = heap.top();
    heap.pop();
    if (ids[p.left] != p.left_id || ids[p.right] != p.right_id || after[p.left] != p.right) continue;  // gone by now
    ids[p.left] = int32_t(p.result);
    ids[p.right] = -1;
    after[p.left] = after[p.right];
    if (after[p.left] < count) {
      before[after[p.left]] = p.left;
      offer(p.left, after[p.left]);
    }
    if (p.left > 0) offer(before[p.left], p.left);
  }
  size_t kept = 0;
  for (size_t i = 0; i < count; i++)
    if (ids[i] >= 0) ids[kept++] = ids[i];
  ids.resize(kept);
}

}  // namespace herd::text
