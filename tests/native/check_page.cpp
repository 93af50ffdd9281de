// Reads mutilated pages, and checks that what was to be kept comes out and that the deep are told; built with sanitizers by
// test_sanitizers.py.
#include <cstdio>
#include <random>

#include "page.h"

int main() {
  const std::string words = "The river runs through the old town and under three bridges before it reaches the sea.";
  const std::string page = "<body class=\"x\"><nav>menu</nav><article id=\"a\"><h2>River</h2><p>" + words + "</p><pre>a &lt; b\n  c</pre><p>" + words +
                           "</p><ol start=\"3\"><li>one</li><li>two<ul><li>in</li></ul></li></ol><table><tr><td>a</td><td>b</td></tr><tr><td>c</td>"
                           "<td>d</td></tr></table><p>So <math display=\"block\"><annotation encoding=\"x-TeX\">x^2</annotation></math> and "
                           "<img class=\"math\" alt=\"y&quot;\"></p><figure><pre>z</pre></figure></article><div class=\"share-bar\">Share this</div>"
                           "<script>var a = '<p>';</script></body>";
  const std::string text = herd::page::main_text(page);
  for (const char* wanted : {"a < b\n  c", "3. one", "a | b\nc | d", "$$x^2$$", "$y\"$"})
    if (text.find(wanted) == std::string::npos) return std::printf("missing: %s\n%s\n", wanted, text.c_str()), 1;
  for (const char* gone : {"menu", "Share", "var a"})
    if (text.find(gone) != std::string::npos) return std::printf("still there: %s\n", gone), 1;
  std::mt19937 rng(1);
  size_t read = 0;
  for (int round = 0; round < 20000; round++) {
    std::string bad = page;
    for (size_t n = rng() % 6; n > 0; n--) {
      size_t at = rng() % bad.size(), length = rng() % 40;
      switch (rng() % 4) {
        case 0: bad.erase(at, length); break;
        case 1: bad.insert(at, page.substr(rng() % page.size(), length)); break;
        case 2: bad[at] = char(rng()); break;
        default: bad.insert(at, std::string(1 + rng() % 3, "<>\"'&/= "[rng() % 8]));
      }
    }
    read += herd::page::main_text(bad).size();
    herd::page::deep(bad, 500, 200000);
  }
  std::string nested;
  for (int i = 0; i < 501; i++) nested += "<DIV>";
  if (!herd::page::deep(nested, 500, 200000) || herd::page::deep(page, 500, 200000)) return std::puts("depth is told wrongly"), 1;
  return std::printf("pages read, %zu bytes of text\n", read), 0;
}
