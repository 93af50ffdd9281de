// A tree -> lines: white space collapsed as a browser does, blocks on lines of their own, items with bullets or numbers.
#include <algorithm>
#include <cstdlib>

#include "page.h"

namespace herd::page {

namespace {

// New lines that a browser would see around an element: 2 is an empty line between.
int around(Tag tag) {
  switch (tag) {
    case Tag::P: case Tag::PRE: case Tag::BLOCKQUOTE: case Tag::TABLE: case Tag::H1: case Tag::H2: case Tag::H3: case Tag::H4: case Tag::H5: case Tag::H6:
      return 2;
    case Tag::ARTICLE: case Tag::ASIDE: case Tag::BODY: case Tag::DIV: case Tag::DL: case Tag::FIGURE: case Tag::FOOTER: case Tag::FORM: case Tag::HEADER:
    case Tag::HR: case Tag::LI: case Tag::MAIN: case Tag::NAV: case Tag::SECTION: case Tag::TR: case Tag::BLOCK:
      return 1;
    default: return 0;
  }
}

class Writer {
 public:
  void block(int lines) { wanted_ = std::max(wanted_, lines); }
  void line() { wanted_ = std::min(wanted_ + 1, 2); }
  void cell() {
    if (!out_.empty() && !wanted_) tab_ = true;
  }
  void open_list(bool numbered, int first) {
    block(lists_.empty() ? 2 : 1);
    lists_.push_back(numbered ? first : -1);
  }
  void close_list() {
    lists_.pop_back();
    block(lists_.empty() ? 2 : 1);
  }
  void item() {
    block(1);
    if (lists_.empty()) return;
    int& number = lists_.back();
    bullet_ = number < 0 ? "• " : std::to_string(number++) + ". ";
  }
  void text(std::string_view piece) {
    for (size_t i = 0; i < piece.size();) {
      if (space(piece[i])) {
        space_ = true;
        i++;
        continue;
      }
      size_t end = i;
      while (end < piece.size() && !space(piece[end])) end++;
      begin();
      decode(piece.substr(i, end - i), out_);
      i = end;
    }
  }
  // As it is; on lines of its own where `apart`.
  void verbatim(const std::string& piece, bool apart) {
    if (piece.empty()) return;
    if (apart) {
      bullet_.clear();
      block(2);
      end_line();
    } else {
      begin();
    }
    out_ += piece;
    if (apart) block(2);
  }
  std::string take() { return std::move(out_); }

 private:
  bool end_line() {  // whether a new line begins
    bool fresh = out_.empty() || wanted_;
    if (wanted_ && !out_.empty()) {
      int have = 0;
      while (have < wanted_ && size_t(have) < out_.size() && out_[out_.size() - 1 - size_t(have)] == '\n') have++;
      out_.append(size_t(wanted_ - have), '\n');
    }
    wanted_ = 0;
    if (fresh) space_ = tab_ = false;
    return fresh;
  }
  void begin() {
    if (end_line()) {
      if (!lists_.empty()) out_.append(2 * lists_.size() + (bullet_.empty() ? 2 : 0), ' ');
      out_ += bullet_;
      bullet_.clear();
    } else if (tab_) {
      out_ += '\t';
    } else if (space_) {
      out_ += ' ';
    }
    space_ = tab_ = false;
  }

  std::string out_, bullet_;
  int wanted_ = 0;
  bool space_ = false, tab_ = false;
  std::vector<int> lists_;  // the next item's number, or -1
};

void enter(Writer& writer, const Node& node) {
  if (node.tag == Tag::UL || node.tag == Tag::OL) {
    std::string start = attribute(node.raw, "start");
    writer.open_list(node.tag == Tag::OL, start.empty() ? 1 : std::clamp(std::atoi(start.c_str()), 0, 1'000'000));
  } else if (node.tag == Tag::BR)
    writer.line();
  else if (node.tag == Tag::TD || node.tag == Tag::TH)
    writer.cell();
  else
    writer.block(around(node.tag));
  if (node.tag == Tag::LI) writer.item();
}

void leave(Writer& writer, const Node& node) {
  if (node.tag == Tag::UL || node.tag == Tag::OL)
    writer.close_list();
  else
    writer.block(around(node.tag));
}

// Captions, pictures without code or tables in them, names of fields.
bool beside(const Tree& tree, int i) {
  const Tag tag = tree[i].tag;
  return tag == Tag::NOSCRIPT || tag == Tag::FIGCAPTION || tag == Tag::LABEL ||
         (tag == Tag::FIGURE && !tree.has(i, Tag::PRE) && !tree.has(i, Tag::TABLE));
}

}  // namespace

std::string lines(const Tree& tree, int root) {
  Writer writer;
  std::vector<int> open;
  const int end = tree[root].end;
  for (int i = root; i < end;) {
    for (; !open.empty() && tree[open.back()].end <= i; open.pop_back()) leave(writer, tree[open.back()]);
    const Node& node = tree[i];
    if (i != root && beside(tree, i)) {
      i = tree.behind(i, end);
      continue;
    }
    if (node.kept) {
      writer.verbatim(node.own, node.tag == Tag::PRE || node.tag == Tag::TABLE);
    } else if (node.tag == Tag::TEXT) {
      writer.text(node.raw);
    } else {
      enter(writer, node);
      open.push_back(i);
    }
    i = tree.next(i, end);
  }
  return writer.take();
}

}  // namespace herd::page
