#include "tree.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

namespace herd::page {

namespace {

const std::unordered_map<std::string_view, Tag>& tags() {
  static const std::unordered_map<std::string_view, Tag> table = [] {
    std::unordered_map<std::string_view, Tag> made{
        {"a", Tag::A}, {"annotation", Tag::ANNOTATION}, {"article", Tag::ARTICLE}, {"aside", Tag::ASIDE}, {"blockquote", Tag::BLOCKQUOTE},
        {"body", Tag::BODY}, {"br", Tag::BR}, {"button", Tag::BUTTON}, {"code", Tag::CODE}, {"div", Tag::DIV}, {"dl", Tag::DL},
        {"figcaption", Tag::FIGCAPTION}, {"figure", Tag::FIGURE}, {"footer", Tag::FOOTER}, {"form", Tag::FORM}, {"h1", Tag::H1}, {"h2", Tag::H2}, {"h3", Tag::H3},
        {"h4", Tag::H4}, {"h5", Tag::H5}, {"h6", Tag::H6}, {"header", Tag::HEADER}, {"hr", Tag::HR}, {"html", Tag::HTML}, {"img", Tag::IMG},
        {"label", Tag::LABEL}, {"li", Tag::LI}, {"main", Tag::MAIN}, {"math", Tag::MATH}, {"mjx-container", Tag::MJX}, {"nav", Tag::NAV}, {"noscript", Tag::NOSCRIPT},
        {"ol", Tag::OL}, {"p", Tag::P}, {"pre", Tag::PRE}, {"script", Tag::SCRIPT}, {"section", Tag::SECTION}, {"table", Tag::TABLE},
        {"td", Tag::TD}, {"th", Tag::TH}, {"tr", Tag::TR}, {"ul", Tag::UL},
    };
    for (auto name : {"style", "template", "iframe", "object", "svg", "canvas", "audio", "video", "select", "input", "textarea", "dialog", "menu",
                      "head", "title", "datalist", "xmp", "noembed", "noframes", "plaintext"})
      made[name] = Tag::CUT;
    for (auto name : {"address", "caption", "center", "dd", "details", "dt", "fieldset", "hgroup", "legend", "summary", "dir", "optgroup",
                      "option"})
      made[name] = Tag::BLOCK;
    return made;
  }();
  return table;
}

bool empty(std::string_view name) {
  static const char* const names[] = {"area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "img", "input",
                                      "keygen", "link", "meta", "param", "source", "track", "wbr"};
  return std::any_of(std::begin(names), std::end(names), [&](const char* one) { return name == one; });
}

bool raw_text(std::string_view name) {
  static const char* const names[] = {"script", "style", "xmp", "iframe", "noembed", "noframes", "plaintext"};
  return std::any_of(std::begin(names), std::end(names), [&](const char* one) { return name == one; });
}

}  // namespace

int64_t characters(std::string_view raw) {
  int64_t count = 0;
  for (char c : raw) count += (uint8_t(c) & 0xC0) != 0x80;
  return count;
}

// What writing out escapes: four in text, one more in values.
static const struct {
  std::string_view name, bytes;
} ENTITIES[] = {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&nbsp;", "\xC2\xA0"}, {"&quot;", "\""}};

template <typename Plain, typename Entity>
static void pieces(std::string_view raw, Plain plain, Entity entity) {
  size_t at = 0;
  while (at < raw.size()) {
    size_t sign = std::min(raw.find('&', at), raw.size());
    plain(raw.substr(at, sign - at));
    at = sign;
    if (at == raw.size()) break;
    auto found = std::find_if(std::begin(ENTITIES), std::end(ENTITIES), [&](auto& one) { return raw.compare(at, one.name.size(), one.name) == 0; });
    if (found == std::end(ENTITIES)) {
      plain(raw.substr(at++, 1));
    } else {
      entity(found->bytes);
      at += found->name.size();
    }
  }
}

void decode(std::string_view raw, std::string& out) {
  auto add = [&](std::string_view piece) { out += piece; };
  pieces(raw, add, add);
}

std::string collapsed(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (space(text[i])) {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else {
      out += text[i];
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

std::string_view attribute(std::string_view attributes, std::string_view name, bool& found) {
  size_t at = 0;
  while (at < attributes.size()) {
    while (at < attributes.size() && space(attributes[at])) at++;
    size_t start = at;
    while (at < attributes.size() && attributes[at] != '=' && !space(attributes[at])) at++;
    std::string_view here = attributes.substr(start, at - start), value;
    if (attributes.compare(at, 2, "=\"") == 0) {
      size_t close = std::min(attributes.find('"', at + 2), attributes.size());
      value = attributes.substr(at + 2, close - at - 2);
      at = std::min(close + 1, attributes.size());
    } else if (at < attributes.size() && attributes[at] == '=') {
      at++;
    }
    if (here == name) {
      found = true;
      return value;
    }
  }
  found = false;
  return {};
}

std::string attribute(std::string_view attributes, std::string_view name) {
  bool found;
  std::string out;
  decode(attribute(attributes, name, found), out);
  return out;
}

Tree::Tree(std::string_view markup) {
  nodes_.reserve(markup.size() / 24 + 16);
  open("html", {});
  size_t at = 0;
  while (at < markup.size()) {
    size_t sign = std::min(markup.find('<', at), markup.size());
    if (sign > at) {
      Node text;
      text.parent = stack_.back();
      text.raw = markup.substr(at, sign - at);
      nodes_.push_back(text);
      nodes_.back().end = size();
    }
    at = sign + 1;
    if (at >= markup.size()) break;
    if (markup.compare(at, 3, "!--") == 0) {
      size_t close = markup.find("-->", at + 3);
      at = close == std::string_view::npos ? markup.size() : close + 3;
      continue;
    }
    bool closes = markup[at] == '/';
    size_t start = at + closes;
    size_t name_end = std::min(markup.find_first_of(" >", start), markup.size());
    std::string_view name = markup.substr(start, name_end - start);
    size_t stop = name_end;
    while (stop < markup.size() && markup[stop] != '>') {  // a value may hold a >
      if (markup[stop] == '"') stop = std::min(markup.find('"', stop + 1), markup.size() - 1);
      stop++;
    }
    at = std::min(stop + 1, markup.size());
    if (closes) {
      for (size_t i = opened_.size(); i-- > 1;)
        if (opened_[i] == name) {
          for (size_t j = i; j < stack_.size(); j++) nodes_[size_t(stack_[j])].end = size();
          stack_.resize(i);
          opened_.resize(i);
          break;
        }
      continue;
    }
    open(name, markup.substr(name_end, std::min(stop, markup.size()) - name_end));
    bool raw = raw_text(name);
    if (raw) {
      std::string close = "</" + std::string(name) + ">";
      size_t found = std::min(markup.find(close, at), markup.size());
      Node text;
      text.parent = stack_.back();
      text.raw = markup.substr(at, found - at);
      nodes_.push_back(text);
      nodes_.back().end = size();
      at = std::min(found + close.size(), markup.size());
    }
    if (raw || empty(name)) {
      nodes_[size_t(stack_.back())].end = size();
      stack_.pop_back();
      opened_.pop_back();
    }
  }
  for (int i : stack_) nodes_[size_t(i)].end = size();
  count();
}

void Tree::open(std::string_view name, std::string_view attributes) {
  Node node;
  auto found = tags().find(name);
  node.tag = found == tags().end() ? Tag::OTHER : found->second;
  node.parent = stack_.empty() ? -1 : stack_.back();
  node.raw = attributes;
  if (!attributes.empty()) {
    bool there;
    node.names[0] = attribute(attributes, "class", there);
    node.names[1] = attribute(attributes, "id", there);
  }
  stack_.push_back(size());
  opened_.push_back(name);
  nodes_.push_back(std::move(node));
}

void Tree::count() {
  for (int i = size() - 1; i > 0; i--) {  // what is below comes before what is above it
    Node& node = nodes_[size_t(i)];
    if (node.tag == Tag::TEXT)
      pieces(node.raw, [&](std::string_view piece) { node.length += characters(piece); }, [&](std::string_view) { node.length++; });
    if (node.tag == Tag::A) node.links = node.length;
    if (node.tag == Tag::P) node.paragraphs++;
    Node& parent = nodes_[size_t(node.parent)];
    parent.length += node.length;
    parent.links += node.links;
    parent.paragraphs += node.paragraphs;
  }
}

void Tree::add(int i, int64_t length, int64_t links, int64_t paragraphs) {
  for (; i >= 0; i = nodes_[size_t(i)].parent) {
    nodes_[size_t(i)].length += length;
    nodes_[size_t(i)].links += links;
    nodes_[size_t(i)].paragraphs += paragraphs;
  }
}

void Tree::cut(int i) {
  Node& node = nodes_[size_t(i)];
  if (node.cut) return;
  node.cut = true;
  add(node.parent, -node.length, -node.links, -node.paragraphs);
}

void Tree::keep(int i, std::string text, int64_t length) {
  Node& node = nodes_[size_t(i)];
  add(i, length - node.length, -node.links, -node.paragraphs);
  node.kept = true;
  node.own = std::move(text);
}

std::string Tree::text(int i) const {
  std::string out;
  const Node& top = nodes_[size_t(i)];
  if (top.kept) return top.own;
  if (top.tag == Tag::TEXT) decode(top.raw, out);
  for (int j = first(i); j < top.end; j = next(j, top.end)) {
    const Node& node = nodes_[size_t(j)];
    if (node.kept)
      out += node.own;
    else if (node.tag == Tag::TEXT)
      decode(node.raw, out);
  }
  return out;
}

bool Tree::has(int i, Tag tag) const {
  for (int j = first(i), end = nodes_[size_t(i)].end; j < end; j = next(j, end))
    if (nodes_[size_t(j)].tag == tag) return true;
  return false;
}

}  // namespace herd::page
