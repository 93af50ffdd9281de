// What is cut of a page: first by element, role, class and place; then, of pages that do not say themselves where their text is, all
// but the element with most of the paragraphs' text near to itself (after Readability), and lists of links within it.
#include "page.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "words.h"

namespace herd::page {

bool deep(std::string_view markup, int depth, int64_t tags) {
  static const char* const open_ended[] = {"p", "li", "br", "img", "input", "meta", "link", "hr", "td", "th", "tr", "dd", "dt", "option", "wbr",
                                           "col", "source", "base", "area", "embed", "param", "track", "tbody", "thead"};
  std::unordered_map<std::string, int> opened;
  int now = 0;
  int64_t seen = 0;
  std::string name;
  for (size_t at = 0; (at = markup.find('<', at)) != std::string_view::npos;) {
    if (++seen > tags) return true;
    bool closes = ++at < markup.size() && markup[at] == '/';
    size_t i = at + closes, start = i;
    while (i < markup.size() && ((lower(markup[i]) >= 'a' && lower(markup[i]) <= 'z') || (i > start && markup[i] >= '0' && markup[i] <= '9'))) i++;
    if (i == start || i - start > 64) continue;  // no element that nests has so long a name
    name.assign(markup.substr(start, i - start));
    std::transform(name.begin(), name.end(), name.begin(), lower);
    at = i;
    if (std::any_of(std::begin(open_ended), std::end(open_ended), [&](const char* one) { return name == one; })) continue;
    int& count = opened[name];
    if (!closes) {
      count++;
      if (++now > depth) return true;
    } else if (count) {
      count--;
      now--;
    }
  }
  return false;
}

namespace {

bool one_of(std::string_view value, std::initializer_list<std::string_view> values) { return std::find(values.begin(), values.end(), value) != values.end(); }

bool has_word(std::string_view classes, std::initializer_list<std::string_view> words) {
  for (size_t at = 0; at < classes.size();) {
    size_t end = std::min(classes.find_first_of(" \n\t\r\f", at), classes.size());
    if (one_of(classes.substr(at, end - at), words)) return true;
    at = end + 1;
  }
  return false;
}

// No text of its page, by what it is.
bool cut_by_kind(const Node& node) {
  switch (node.tag) {
    case Tag::CUT: case Tag::SCRIPT: case Tag::NOSCRIPT: case Tag::NAV: case Tag::FOOTER: case Tag::FORM: case Tag::BUTTON: return true;
    case Tag::TEXT: return false;
    default: break;
  }
  if (node.raw.empty()) return false;
  if (!node.names[0].empty()) {
    if (has_word(node.names[0], {"MathJax", "MathJax_Display", "MathJax_Preview", "MathJax_SVG", "katex-html"})) return true;
    if (node.tag == Tag::A && has_word(node.names[0], {"headerlink"})) return true;
  }
  bool there = false;
  if (node.raw.find("hidden") != std::string_view::npos) attribute(node.raw, "hidden", there);
  if (there) return true;
  if (node.raw.find("role=") == std::string_view::npos) return false;
  return one_of(attribute(node.raw, "role", there), {"navigation", "banner", "contentinfo", "search", "complementary", "dialog"});
}

bool says_main(const Node& node) {
  if (node.tag == Tag::MAIN || node.tag == Tag::TEXT) return node.tag == Tag::MAIN;
  bool there;
  return attribute(node.raw, "role", there) == "main" || attribute(node.raw, "itemprop", there) == "articleBody";
}

bool block(Tag tag) {
  switch (tag) {
    case Tag::DIV: case Tag::SECTION: case Tag::ASIDE: case Tag::UL: case Tag::OL: case Tag::HEADER: case Tag::P: case Tag::FIGURE:
    case Tag::BLOCKQUOTE: case Tag::DL: case Tag::TABLE: case Tag::H2: case Tag::H3: case Tag::H4: return true;
    default: return false;
  }
}

// The element that the page itself calls its main one, or -1.
int prune(Tree& tree, int body) {
  for (int i = tree.first(body); i < tree.size(); i = tree.next(i, tree.size())) {
    if (tree[i].kept || !cut_by_kind(tree[i])) continue;
    Tag tag = tree[i].tag;
    bool may_stay = tag == Tag::FORM || tag == Tag::NOSCRIPT || tag == Tag::BUTTON || tag == Tag::NAV || tag == Tag::FOOTER;
    if (!may_stay || tree[i].paragraphs < 5) tree.cut(i);
  }
  const int64_t whole = tree[body].length;
  int main = -1;
  for (int i = tree.first(body); i < tree.size() && main < 0; i = tree.next(i, tree.size()))
    if (says_main(tree[i]) && 4 * tree[i].length > whole) main = i;
  const int top = main < 0 ? body : main;
  for (int i = tree.first(top), end = tree[top].end; i < end; i = tree.next(i, end)) {
    const Node& node = tree[i];
    if (!block(node.tag) || (node.tag != Tag::ASIDE && !beside_the_text(node.names[0], node.names[1]))) continue;
    if (5 * node.length < whole || (2 * node.length < whole && !(node.paragraphs - (node.tag == Tag::P)))) tree.cut(i);
  }
  return main;
}

// Each paragraph gives its parent its length and its parent's parent half; the best grows to one that holds half as much again.
int densest(const Tree& tree, int body) {
  std::vector<int64_t> own(size_t(tree.size())), under(size_t(tree.size()));
  std::vector<double> scores(size_t(tree.size()));
  std::vector<int> parents, scored;
  for (int i = tree.first(body), end = tree[body].end; i < end; i = tree.next(i, end)) {
    Tag tag = tree[i].tag;
    if ((tag != Tag::P && tag != Tag::BLOCKQUOTE && tag != Tag::H2 && tag != Tag::H3) || tree[i].length < 25) continue;
    int parent = tree[i].parent;
    if (!own[size_t(parent)]) parents.push_back(parent);
    own[size_t(parent)] += tree[i].length;
  }
  auto add = [&](int i, double score) {
    if (scores[size_t(i)] == 0) scored.push_back(i);
    scores[size_t(i)] += score;
  };
  for (int parent : parents) {
    const int64_t size = own[size_t(parent)];
    add(parent, double(size));
    int above = parent;
    for (int d = 0; above >= 0 && d < 30; d++, above = tree[above].parent) {
      under[size_t(above)] += size;
      if (d == 1) add(above, double(size) / 2);
    }
  }
  if (scored.empty()) return body;
  int best = scored[0];
  for (int i : scored)
    if (scores[size_t(i)] > scores[size_t(best)]) best = i;
  int above = tree[best].parent;
  for (int i = 0; i < 6 && above > 0; i++, above = tree[above].parent)
    if (2 * under[size_t(above)] > 3 * under[size_t(best)]) best = above;
  return best == 0 ? body : best;
}

// Cut a heading that ends a text, and what stands behind it beside it, if that is short.
void cut_from(Tree& tree, int heading, int root) {
  const int end = tree[tree[heading].parent].end;
  int64_t size = 0;
  auto behind = [&](int i) {
    do i = tree[i].end;
    while (i < end && (tree[i].cut || tree[i].tag == Tag::TEXT));
    return i;
  };
  for (int i = heading; i < end; i = behind(i))
    if (5 * (size += tree[i].length) >= 2 * tree[root].length) return;
  for (int i = heading; i < end; i = behind(i)) tree.cut(i);
}

void trim(Tree& tree, int root) {
  for (int i = tree.first(root), end = tree[root].end; i < end; i = tree.next(i, end)) {
    const Node& node = tree[i];
    const Tag tag = node.tag;
    const bool holds = tag == Tag::UL || tag == Tag::OL || tag == Tag::DIV || tag == Tag::SECTION;
    if ((!holds && tag != Tag::P && tag != Tag::H2 && tag != Tag::H3 && tag != Tag::H4) || node.kept) continue;
    if (node.length < 60 && tag != Tag::P && ends_the_text(tree.text(i)))
      cut_from(tree, i, root);
    else if (node.length < 90 && leads_elsewhere(tree.text(i)))
      tree.cut(i);
    else if (node.length <= 3000 && holds && 5 * node.links > 3 * node.length)
      tree.cut(i);
  }
}

}  // namespace

std::string main_text(std::string_view markup) {
  Tree tree(markup);
  int body = 0;
  while (body < tree.size() && tree[body].tag != Tag::BODY) body++;
  if (body == tree.size()) body = 0;
  keep_mathematics(tree);
  keep_code(tree);
  int root = prune(tree, body);
  if (root < 0 || !(tree.has(root, Tag::PRE) || tree.has(root, Tag::DL) || tree.has(root, Tag::CODE))) {
    root = densest(tree, root < 0 ? body : root);
    trim(tree, root);
  }
  keep_tables(tree, root);
  return lines(tree, root);
}

}  // namespace herd::page
