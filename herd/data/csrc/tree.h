// A page as a flat tree: elements and texts in document order, read from markup that a parser has written out again (so that every
// element is closed, every value quoted). What lies under a node is the range up to its end; a cut node's range is passed over.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace herd::page {

enum class Tag : uint8_t {
  TEXT, OTHER, A, ANNOTATION, ARTICLE, ASIDE, BLOCKQUOTE, BODY, BR, BUTTON, CODE, DIV, DL, FIGCAPTION, FIGURE, FOOTER, FORM, H1, H2, H3, H4, H5, H6, HEADER,
  HR, HTML, IMG, LABEL, LI, MAIN, MATH, MJX, NAV, NOSCRIPT, OL, P, PRE, SCRIPT, SECTION, TABLE, TD, TH, TR, UL,
  CUT,    // what never holds a page's text: style, svg, select, ...
  BLOCK,  // what only ends lines: dt, dd, address, ...
};

struct Node {
  Tag tag = Tag::TEXT;
  bool cut = false;
  bool kept = false;     // `own` stands for all that is below, as it is
  int parent = -1;
  int end = 0;           // one behind the last node below
  std::string_view raw;  // a text's bytes, with entities; an element's attributes
  std::string_view names[2];  // class, id
  std::string own;
  int64_t length = 0;    // characters of text in and below, of what is not cut
  int64_t links = 0;     // of them in links
  int64_t paragraphs = 0;  // p elements in and below
};

class Tree {
 public:
  // `markup` has to outlive the tree.
  explicit Tree(std::string_view markup);

  Node& operator[](int i) { return nodes_[size_t(i)]; }
  const Node& operator[](int i) const { return nodes_[size_t(i)]; }
  int size() const { return int(nodes_.size()); }

  // The next node behind i and before `end` that is not cut, itself or from above.
  int next(int i, int end) const { return nodes_[size_t(i)].cut || nodes_[size_t(i)].kept ? behind(i, end) : shown(i + 1, end); }
  // The same, behind all that is below i.
  int behind(int i, int end) const { return shown(nodes_[size_t(i)].end, end); }
  // The first of the nodes below i, or its end.
  int first(int i) const { return next(i, nodes_[size_t(i)].end); }

  // Take a node out: lengths above it shrink.
  void cut(int i);
  // Let `text` stand for a node and all that is below; it counts as `length` characters.
  void keep(int i, std::string text, int64_t length);
  // All characters in and below a node, entities decoded.
  std::string text(int i) const;
  bool has(int i, Tag tag) const;

 private:
  int shown(int i, int end) const {
    while (i < end && nodes_[size_t(i)].cut) i = nodes_[size_t(i)].end;
    return i;
  }
  void count();
  void open(std::string_view name, std::string_view attributes);
  void add(int i, int64_t length, int64_t links, int64_t paragraphs);

  std::vector<Node> nodes_;
  std::vector<int> stack_;
  std::vector<std::string_view> opened_;  // names of the elements on the stack
};

// The value of an attribute, or nothing: `found` says whether it is there.
std::string_view attribute(std::string_view attributes, std::string_view name, bool& found);
std::string attribute(std::string_view attributes, std::string_view name);
// Add text with its entities decoded.
void decode(std::string_view raw, std::string& out);
// Characters of UTF-8.
int64_t characters(std::string_view raw);
// Words with one space between them.
std::string collapsed(std::string_view text);
inline bool space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f'; }
inline char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; }

}  // namespace herd::page
