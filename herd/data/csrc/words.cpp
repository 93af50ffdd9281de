// Whether a tag's class or id says that it holds no text of its page, and whether its first words do.
#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>

#include "page.h"
#include "words.h"

namespace herd::page {

namespace {

// Words that stand alone in a class or an id, between spaces, _, - and digits.
const char* const ASIDE[] = {
    "ad", "ads", "adsbygoogle", "advert", "advertisement", "article-meta", "articlemeta", "author", "author-bio", "author-box", "author-info", "authorbio",
    "authorbox", "authorinfo", "banner", "breadcrumb", "breadcrumbs", "byline", "caption", "carousel", "catlinks", "comment", "comments",
    "consent", "cookie", "cookies", "copyright", "credit", "credits", "dateline", "disqus", "editsection", "entry-meta", "entrymeta", "footer", "footnav",
    "gallery", "gdpr", "hatnote", "hidden", "masthead", "menu", "meta", "modal", "more-from", "more-news", "more-on", "more-stories", "morefrom",
    "morenews", "moreon", "morestories", "most-popular", "most-read", "mostpopular", "mostread", "mw-editsection", "nav", "navbar", "navbox", "newsletter",
    "outbrain", "overlay", "pager", "pagination", "popular", "popup", "post-meta", "postmeta", "printfooter", "promo", "promos", "promotion", "pub-date",
    "pubdate", "publish-date", "publish-on", "publish-time", "published-date", "published-on", "published-time", "publishdate", "publisheddate",
    "publishedon", "publishedtime", "publishon", "publishtime", "recommend", "recommendation", "recommendations", "recommended", "related", "respond",
    "screen-reader-text", "share", "sharedaddy", "sharing", "side-bar", "sidebar", "sidebars", "sign-up", "signup", "skip", "slideshow", "social",
    "sphinxsidebar", "sponsor", "sponsored", "sr-only", "subscribe", "subscription", "taboola", "tag", "tag-list", "taglist", "tags", "teaser",
    "timestamp", "toc", "toolbar", "topics", "trending", "visually-hidden", "widget", "wp-caption-text"};
// And those that say the contrary; they may go on.
const char* const BODY[] = {"article-body", "article-content", "article-text", "articlebody", "articlecontent", "articletext", "body-text", "bodytext",
                            "entry-content", "entrycontent", "post-body", "post-content", "postbody", "postcontent", "story-body", "story-content",
                            "story-text", "storybody", "storycontent", "storytext"};

bool apart(char c) { return space(c) || c == '_' || c == '-' || c == '\v'; }

using Index = std::array<std::vector<std::string_view>, 26>;
Index by_letter(const char* const* begin, const char* const* end) {
  Index made;
  for (; begin != end; begin++) made[size_t((*begin)[0] - 'a')].emplace_back(*begin);
  return made;
}

bool starts(std::string_view text, std::string_view word) {
  return text.size() >= word.size() && std::equal(word.begin(), word.end(), text.begin(), [](char a, char b) { return a == lower(b); });
}

bool any(std::string_view names, const Index& words, bool whole) {
  for (size_t i = 0; i < names.size(); i++) {
    if (i && !apart(names[i - 1])) continue;
    char first = lower(names[i]);
    if (first < 'a' || first > 'z') continue;
    std::string_view rest = names.substr(i);
    for (std::string_view word : words[size_t(first - 'a')]) {
      if (!starts(rest, word)) continue;
      if (!whole || rest.size() == word.size() || apart(rest[word.size()]) || (rest[word.size()] >= '0' && rest[word.size()] <= '9')) return true;
    }
  }
  return false;
}

// The first letter or digit of a text: signs and spaces before it are passed over. `copyright`: whether © is among them.
std::string_view first_word(std::string_view text, bool& copyright) {
  size_t i = 0;
  copyright = false;
  while (i < text.size()) {
    auto c = uint8_t(text[i]);
    if (c < 0x80) {
      if ((c >= '0' && c <= '9') || c == '_' || (lower(char(c)) >= 'a' && lower(char(c)) <= 'z')) break;
      i++;
    } else if (c == 0xC2 && i + 1 < text.size() && uint8_t(text[i + 1]) < 0xC0 && !strchr("\xAA\xB5\xBA", text[i + 1])) {
      copyright = copyright || uint8_t(text[i + 1]) == 0xA9;  // U+0080 to U+00BF
      i += 2;
    } else if ((c == 0xE2 || (c == 0xE3 && i + 1 < text.size() && uint8_t(text[i + 1]) == 0x80)) && i + 2 < text.size()) {
      i += 3;  // punctuation, arrows, signs; U+3000 on
    } else {
      break;
    }
  }
  return text.substr(std::min(i, text.size()));
}

bool letter(std::string_view text, size_t i) {
  return i < text.size() && (uint8_t(text[i]) >= 0x80 || text[i] == '_' || (text[i] >= '0' && text[i] <= '9') || (lower(text[i]) >= 'a' && lower(text[i]) <= 'z'));
}

// Nothing but signs follows.
bool alone(std::string_view rest) {
  bool ignored;
  return first_word(rest, ignored).empty();
}

bool starts_any(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) { return starts(text, word); });
}

}  // namespace

bool beside_the_text(std::string_view classes, std::string_view id) {
  static const Index aside = by_letter(std::begin(ASIDE), std::end(ASIDE)), body = by_letter(std::begin(BODY), std::end(BODY));
  if (classes.size() + id.size() + 1 >= 1000 || (classes.empty() && id.empty())) return false;
  return (any(classes, aside, true) || any(id, aside, true)) && !any(classes, body, false) && !any(id, body, false);
}

bool leads_elsewhere(std::string_view text) {
  bool copyright;
  std::string_view words = first_word(text, copyright);
  if (copyright) return true;
  for (std::string_view word : {"comments", "comment"})
    if (starts(words, word) && !letter(words, word.size())) return true;
  return starts_any(words, {"read more", "related", "see also", "you may also", "more from", "more on", "also read", "read also", "recommended",
                            "share this", "follow us", "most read", "most popular", "sign up", "subscribe", "leave a reply", "leave a comment",
                            "tag:", "tags:", "filed under", "copyright", "advertisement"});
}

bool ends_the_text(std::string_view text) {
  bool ignored;
  std::string_view words = first_word(text, ignored);
  for (std::string_view word : {"comments", "comment", "resources"})
    if (starts(words, word) && alone(words.substr(word.size()))) return true;
  for (std::string_view word : {"more stories", "more news", "more from", "more in"})
    if (starts(words, word) && !letter(words, word.size())) return true;
  return starts_any(words, {"you may also", "you might also", "related stories", "related articles", "related posts", "related content",
                            "related news", "read next", "recommended", "trending", "leave a reply", "most read", "most popular", "latest news",
                            "top stories"});
}

}  // namespace herd::page
