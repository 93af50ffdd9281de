#include "bpe.h"

#include <algorithm>
#include <cstring>
#include <queue>
#include <stdexcept>

namespace herd::text {
namespace {

constexpr uint64_t EMPTY = ~uint64_t(0);
constexpr size_t SHORT = 48;  // bytes of a word up to which looking at every pair beats a heap

uint64_t mixed(uint64_t x) {  // SplitMix64's finalizer
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

template <class T>
uint64_t read(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

uint64_t hash_of(std::string_view text) {
  uint64_t h = text.size(), tail = 0;
  const char* p = text.data();
  size_t left = text.size();
  for (; left >= 8; left -= 8, p += 8) h = mixed(h ^ read<uint64_t>(p));
  if (left >= 4) {  // reads that overlap: copying a number of bytes that is not known before costs a call
    tail = read<uint32_t>(p) | read<uint32_t>(p + left - 4) << 32;
  } else if (left) {
    tail = read<uint8_t>(p) | read<uint8_t>(p + left / 2) << 8 | read<uint8_t>(p + left - 1) << 16;
  }
  return mixed(h ^ tail);
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
    : cut_(cut), whole_(tokens.size()) {
  for (auto& whole : whole_) whole.store(whole_words, std::memory_order_relaxed);
  by_bytes_.assign(table_size(tokens.size()), 0);
  std::string bytes;
  std::vector<bool> reached(tokens.size());  // by text: not by special tokens, nor names outside the alphabet, nor names that come again
  for (size_t i = 0; i < tokens.size(); i++) {
    reached[i] = kinds[i] == Kind::PLAIN && to_bytes(tokens[i], bytes);
    bytes_.add(reached[i] ? std::string_view(bytes) : tokens[i]);
    if (reached[i]) {
      uint32_t& place = by_bytes_[slot_of(bytes, hash_of(bytes))];
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
size_t Bpe::slot_of(std::string_view bytes, uint64_t hash) const {
  size_t mask = by_bytes_.size() - 1, slot = hash & mask;
  while (by_bytes_[slot] && bytes_[by_bytes_[slot] - 1] != bytes) slot = (slot + 1) & mask;
  return slot;
}

int32_t Bpe::find(std::string_view bytes, uint64_t hash) const { return int32_t(by_bytes_[slot_of(bytes, hash)]) - 1; }
int32_t Bpe::find(std::string_view bytes) const { return find(bytes, hash_of(bytes)); }

const Bpe::Merge* Bpe::merge_of(int32_t left, int32_t right) const {
  uint64_t pair = uint64_t(uint32_t(left)) << 32 | uint32_t(right);
  size_t mask = merges_.size() - 1;
  for (size_t slot = mixed(pair) & mask; merges_[slot].pair != EMPTY; slot = (slot + 1) & mask)
    if (merges_[slot].pair == pair) return &merges_[slot];
  return nullptr;
}

// Words of one text that were encoded already, as most words come again: open addressing.
class Bpe::Words {
 public:
  struct Word {
    uint64_t hash;
    const char* bytes;
    uint32_t length, first, count;  // ids `first` to `first + count`; count 0: no word is here
  };
  // The word, or where it would be.
  Word& at(std::string_view bytes, uint64_t hash) {
    size_t mask = words_.size() - 1, slot = hash & mask;
    while (words_[slot].count && !same(words_[slot], bytes, hash)) slot = (slot + 1) & mask;
    return words_[slot];
  }
  void keep(std::string_view bytes, uint64_t hash, const int32_t* ids, size_t count) {
    if (2 * ++kept_ > words_.size()) grow();
    at(bytes, hash) = {hash, bytes.data(), uint32_t(bytes.size()), uint32_t(ids_.size()), uint32_t(count)};
    ids_.insert(ids_.end(), ids, ids + count);
  }
  const int32_t* ids(const Word& word) const { return ids_.data() + word.first; }

 private:
  // Up to 8 bytes of one length have each a hash of their own: each step of hash_of can be undone.
  static bool same(const Word& word, std::string_view bytes, uint64_t hash) {
    if (word.hash != hash || word.length != bytes.size()) return false;
    return bytes.size() <= 8 || std::memcmp(word.bytes, bytes.data(), bytes.size()) == 0;
  }
  void grow() {
    std::vector<Word> old(2 * words_.size());
    old.swap(words_);
    for (const Word& word : old)
      if (word.count) at({word.bytes, word.length}, word.hash) = word;
  }

  std::vector<Word> words_{256};
  std::vector<int32_t> ids_;
  size_t kept_ = 0;
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
  cut_words(text, cut_, [&](std::string_view bytes) { word(bytes, words, out); });
}

void Bpe::word(std::string_view bytes, Words& words, std::vector<int32_t>& out) const {
  uint64_t hash = hash_of(bytes);
  if (const Words::Word& known = words.at(bytes, hash); known.count) {
    const int32_t* ids = words.ids(known);
    if (known.count == 1) return out.push_back(*ids);
    out.insert(out.end(), ids, ids + known.count);
    return;
  }
  size_t before = out.size();
  if (int32_t token = find(bytes, hash); token < 0) {
    merged(bytes, out);
  } else if (whole_[size_t(token)].load(std::memory_order_relaxed)) {
    out.push_back(token);
  } else {
    merged(bytes, out);
    if (out.size() == before + 1 && out.back() == token) whole_[size_t(token)].store(true, std::memory_order_relaxed);
  }
  size_t count = out.size() - before;
  if (count && bytes.size() <= SHORT) words.keep(bytes, hash, &out[before], count);
}

// The ids of a word, by its merges.
void Bpe::merged(std::string_view bytes, std::vector<int32_t>& out) const {
  size_t before = out.size();
  for (char byte : bytes)  // a byte that is no token is left out, as tokenizers and llama.cpp do
    if (int32_t id = byte_id_[uint8_t(byte)]; id >= 0) out.push_back(id);
  size_t count = out.size() - before;
  int32_t* ids = out.data() + before;
  out.resize(before + (count <= SHORT ? merge_short(ids, count) : merge_long(ids, count)));
}

// Merge the pair of lowest rank, the leftmost of equals, until none is left: how many ids are left.
size_t Bpe::merge_short(int32_t* ids, size_t count) const {
  const Merge* merges[SHORT];
  for (size_t i = 0; i + 1 < count; i++) merges[i] = merge_of(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = count;
    for (size_t i = 0; i + 1 < count; i++)
      if (merges[i] && (best == count || merges[i]->rank < merges[best]->rank)) best = i;
    if (best == count) break;
    ids[best] = int32_t(merges[best]->result);
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(merges + best + 2, merges + std::max(count - 1, best + 2), merges + best + 1);
    count--;
    if (best > 0) merges[best - 1] = merge_of(ids[best - 1], ids[best]);
    if (best + 1 < count) merges[best] = merge_of(ids[best], ids[best + 1]);
  }
  return count;
}

// The same with a heap of pairs, for words of thousands of bytes.
size_t Bpe::merge_long(int32_t* ids, size_t count) const {
  struct Pair {
    uint32_t rank;
    size_t left, right;
    int32_t left_id, right_id;
    uint32_t result;
    bool operator<(const Pair& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
  };
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
  return kept;
}

}  // namespace herd::text
