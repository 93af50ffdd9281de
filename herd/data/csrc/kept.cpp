// Formulas once as TeX, code byte for byte, tables of data as rows.
#include <algorithm>

#include "page.h"

namespace herd::page {

namespace {

bool has_class(std::string_view classes, std::string_view wanted) {
  for (size_t at = 0; (at = classes.find(wanted, at)) != std::string_view::npos; at += wanted.size())
    if ((at == 0 || space(classes[at - 1])) && (at + wanted.size() == classes.size() || space(classes[at + wanted.size()]))) return true;
  return false;
}

void formula(Tree& tree, int i, const std::string& tex, bool display) {
  std::string edge = display ? "$$" : "$";
  std::string whole = edge + collapsed(tex) + edge;
  tree.keep(i, whole, characters(whole));
}

bool says_tex(const Node& node) {
  std::string kind = attribute(node.raw, "encoding");
  std::transform(kind.begin(), kind.end(), kind.begin(), lower);
  return kind.find("tex") != std::string::npos;
}

void picture(Tree& tree, int i) {
  const Node& node = tree[i];
  std::string_view classes = node.names[0];
  bool image = node.tag == Tag::IMG && (has_class(classes, "math") || has_class(classes, "tex") ||
                                        has_class(classes, "mwe-math-fallback-image-inline") || classes.find("latex") != std::string_view::npos);
  if (!image && node.tag != Tag::MJX) return;
  std::string label = collapsed(attribute(node.raw, image ? "alt" : "aria-label"));
  if (label.empty()) return;
  if (classes.find("mwe") != std::string_view::npos) {  // its MathML may have given the formula already
    int around = node.parent;
    while (around > 0 && !has_class(tree[around].names[0], "mwe-math-element")) around = tree[around].parent;
    if (around > 0 && tree.text(around).find('$') != std::string::npos) return;
  }
  formula(tree, i, label, false);
}

}  // namespace

void keep_mathematics(Tree& tree) {
  for (int i = tree.first(0); i < tree.size(); i = tree.next(i, tree.size())) {
    const Node& node = tree[i];
    if (node.tag == Tag::SCRIPT && attribute(node.raw, "type").starts_with("math/tex")) {
      formula(tree, i, tree.text(i), attribute(node.raw, "type").find("display") != std::string::npos);
    } else if (node.tag == Tag::MATH) {
      std::string tex = attribute(node.raw, "alttext");
      if (tex.empty()) tex = tree.text(i);
      for (int j = tree.first(i); j < node.end; j = tree.next(j, node.end))
        if (tree[j].tag == Tag::ANNOTATION && says_tex(tree[j])) {
          tex = tree.text(j);
          break;
        }
      formula(tree, i, tex, attribute(node.raw, "display") == "block");
    } else if (node.tag == Tag::IMG || node.tag == Tag::MJX) {
      picture(tree, i);
    }
  }
}

void keep_code(Tree& tree) {
  for (int i = tree.first(0); i < tree.size(); i = tree.next(i, tree.size()))
    if (tree[i].tag == Tag::PRE) {
      std::string code = tree.text(i);
      if (code.starts_with('\n')) code.erase(0, 1);
      tree.keep(i, std::move(code), 0);  // code is no sign of where the paragraphs are
    }
}

// A table that lays a page out (one cell a row, long cells, tables within) stays.
static bool rows_of(const Tree& tree, int table, std::string& out) {
  size_t rows = 0, most = 0, cells_of_all = 0;
  int64_t size = 0;
  const int end = tree[table].end;
  for (int i = tree.first(table); i < end; i = tree.next(i, end)) {
    if (tree[i].tag == Tag::TABLE) return false;
    if (tree[i].tag != Tag::TR || rows >= 5000) continue;
    std::string row;
    size_t cells = 0;
    bool any = false;
    for (int j = tree.first(i); j < tree[i].end && cells < 200; j = tree.next(j, tree[i].end)) {
      if (tree[j].tag != Tag::TD && tree[j].tag != Tag::TH) continue;
      std::string cell = collapsed(tree.text(j));
      if (cells++) row += " | ";
      row += cell;
      size += characters(cell);
      any = any || !cell.empty();
    }
    if (!any) continue;
    out += row + "\n";
    most = std::max(most, cells);
    cells_of_all += cells;
    rows++;
  }
  return rows >= 2 && most >= 2 && size <= int64_t(500 * cells_of_all);
}

void keep_tables(Tree& tree, int root) {
  for (int i = tree.first(root), end = tree[root].end; i < end; i = tree.next(i, end)) {
    std::string rows;
    if (tree[i].tag != Tag::TABLE || !rows_of(tree, i, rows)) continue;
    rows.pop_back();
    int64_t size = characters(rows);
    tree.keep(i, std::move(rows), size);
  }
}

}  // namespace herd::page
