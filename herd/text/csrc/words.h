// Cutting text into words: what the regular expressions of pre-tokenizers do, by hand.
#pragma once

#include "place.h"

namespace herd::text {

// The expressions stand in herd/text/pre_tokenizers.py, in this order.
enum class Cut : uint8_t {
  LLAMA3, GPT2, SMOLLM, QWEN2, SEED_CODER, TEKKEN, O200K, DEEPSEEK_LLM, DEEPSEEK_CODER, DEEPSEEK_V3
};

// Bytes of 's 't 're 've 'm 'll 'd at the start of `text`, 0 where there is none. LATIN SMALL LETTER LONG S folds to s.
inline size_t contraction(std::string_view text, bool any_case) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  auto letter = [&](size_t i) {
    char c = i < text.size() ? text[i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  };
  char a = letter(1), b = letter(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  if (any_case && text.substr(1, 2) == "\xC5\xBF") return 3;
  return 0;
}

// The end of a run of whitespace that starts a word: its last character belongs to what follows, unless it is alone.
inline size_t space_end(Place first) {
  Place last = first, end = first;
  for (; end.is(SPACE); end.step()) last = end;
  return end.done() || last.at() == first.at() ? end.at() : last.at();
}

inline size_t gpt2_end(std::string_view text, size_t start) {
  if (size_t length = contraction(text.substr(start), false)) return start + length;
  Place place(text, start);
  if (place.point() == ' ') {
    Place after = place.next();
    if (!after.done() && !after.is(SPACE)) place = after;
  }
  if (place.is(SPACE)) return space_end(place);
  if (place.is(LETTER)) {
    place.skip(LETTER);
  } else if (place.is(NUMBER)) {
    place.skip(NUMBER);
  } else {
    place.skip_others();
  }
  return place.at();
}

// \s*[\r\n]+|\s+(?!\S)|\s+ at a space.
inline size_t line_or_space_end(Place place) {
  size_t newline_end = 0;
  for (Place run = place; run.is(SPACE);) {
    bool newline = run.newline();
    run.step();
    if (newline) newline_end = run.at();
  }
  return newline_end ? newline_end : space_end(place);
}

// How the patterns that came after GPT-2's differ.
struct Style {
  int most_digits;       // \p{N}{1,most_digits}
  bool newlines, slash;  // what is neither letter, number nor space takes newlines, and slashes, behind it
};

// \p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ where no letter starts a word.
inline size_t rest_end(Place place, Style style) {
  if (place.is(NUMBER)) {
    for (int i = 0; i < style.most_digits && place.is(NUMBER); i++) place.step();
    return place.at();
  }
  Place after = place.next();
  if (place.is_other() || (place.point() == ' ' && after.is_other())) {
    if (!place.is_other()) place = after;
    place.skip_others();
    if (style.newlines)
      while (place.newline() || (style.slash && !place.done() && place.point() == '/')) place.step();
    return place.at();
  }
  return line_or_space_end(place);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| and the rest.
inline size_t llama3_end(std::string_view text, size_t start, Style style) {
  if (size_t length = contraction(text.substr(start), true)) return start + length;
  Place place(text, start);
  Place word = place.is(LETTER | NUMBER) || place.newline() ? place : place.next();
  if (word.is(LETTER)) {
    word.skip(LETTER);
    return word.at();
  }
  return rest_end(place, style);
}

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ at `place`, 0 for none; `capitals`: their end.
inline size_t lower_end(Place place, size_t& capitals) {
  size_t backtracked = 0;  // after the last character that may be of either part
  while (place.is(WORD & ~LOWER)) {
    bool either = place.is(CASELESS | MARK);
    place.step();
    if (either) backtracked = place.at();
  }
  capitals = place.at();
  if (!place.is(LOWER)) return backtracked;
  place.skip(WORD & ~UPPER);
  return place.at();
}

// Words end where capitals begin: with a character before, with small letters, then without either.
inline size_t cased_end(std::string_view text, size_t start, bool contractions, Style style) {
  Place place(text, start);
  Place after = place.is(LETTER | NUMBER) || place.newline() ? place : place.next();
  size_t capitals_after = 0, capitals = 0;
  size_t end = lower_end(after, capitals_after);
  if (!end && after.at() != start) end = lower_end(place, capitals);
  if (!end && capitals_after > after.at()) end = capitals_after;
  if (!end && capitals > start) end = capitals;
  if (!end) return rest_end(place, style);
  return end + (contractions ? contraction(text.substr(end), true) : 0);
}

// Call take(piece) for each match and for what lies between. `match` gives the end of one that starts at a place, or 0.
template <class Match, class Take>
void split(std::string_view text, Match&& match, Take&& take) {
  size_t gap = 0;
  for (Place place(text, 0); !place.done();) {
    size_t end = match(place);
    if (!end) {
      place.step();
      continue;
    }
    if (gap < place.at()) take(text.substr(gap, place.at() - gap));
    take(text.substr(place.at(), end - place.at()));
    place = Place(text, gap = end);
  }
  if (gap < text.size()) take(text.substr(gap));
}

// The same for an expression that matches everywhere.
template <class End, class Take>
void cut_all(std::string_view text, End&& end_of, Take&& take) {
  for (size_t at = 0, end; at < text.size(); at = end) take(text.substr(at, (end = end_of(text, at)) - at));
}

inline size_t one_number(Place place) { return place.is(NUMBER) ? place.next().at() : 0; }
inline size_t three_numbers(Place place) { return place.is(NUMBER) ? rest_end(place, {3, false, false}) : 0; }
inline size_t one_newline(Place place) { return place.newline() ? place.next().at() : 0; }

// X+ for a set of characters.
template <class Set>
size_t run_end(Place place, Set&& set) {
  size_t start = place.at();
  while (!place.done() && set(place)) place.step();
  return place.at() > start ? place.at() : 0;
}

// \s?X+
template <class Set>
size_t spaced_end(Place place, Set&& set) {
  size_t end = place.is(SPACE) ? run_end(place.next(), set) : 0;
  return end ? end : run_end(place, set);
}

inline bool in(uint32_t point, uint32_t first, uint32_t last) { return point >= first && point <= last; }

inline bool deepseek_letter(Place place) {
  auto after = std::upper_bound(std::begin(DEEPSEEK_LETTERS), std::end(DEEPSEEK_LETTERS), place.point(),
                                [](uint32_t point, const Span& span) { return point < span.first; });
  return after != std::begin(DEEPSEEK_LETTERS) && place.point() <= std::prev(after)->last;
}

// [!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002], which holds ASCII's letters too
inline bool deepseek_sign(Place place) {
  uint32_t p = place.point();
  return in(p, '!', '/') || in(p, ':', '~') || in(p, 0xFF01, 0xFF0F) || in(p, 0xFF1A, 0xFF5E) ||
         in(p, 0x2018, 0x201F) || in(p, 0x3000, 0x3002);
}

// [\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]
inline size_t deepseek_east(Place place) {
  return run_end(place, [](Place p) { return in(p.point(), 0x800, 0x9FA5) || in(p.point(), 0xAC00, 0xD7FF); });
}

// [\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]
inline size_t deepseek_v3_east(Place place) {
  return run_end(place, [](Place p) { return in(p.point(), 0x4E00, 0x9FA5) || in(p.point(), 0x3040, 0x30FF); });
}

// [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
inline size_t deepseek_v3_end(Place place) {
  constexpr uint8_t SIGN = PUNCTUATION | SYMBOL;
  auto ascii_letter = [](Place p) { return in(p.point() | 32, 'a', 'z'); };
  Place after = place.next();
  if (place.point() < 128 && place.is(SIGN))
    if (size_t end = run_end(after, ascii_letter)) return end;
  Place word = place.is(WORD | SIGN) || place.newline() ? place : after;
  if (word.is(WORD)) {
    word.skip(WORD);
    return word.at();
  }
  if (place.is(SIGN) || (place.point() == ' ' && after.is(SIGN))) {
    if (place.is(SPACE)) place = after;
    place.skip(SIGN);
    while (place.newline()) place.step();
    return place.at();
  }
  return place.is(SPACE) ? line_or_space_end(place) : 0;
}

// Call take(piece) for the spaces at the end of `text` and for what is before them: \s+$
template <class Take>
void split_trailing(std::string_view text, Take&& take) {
  size_t end = 0;
  for (Place place(text, 0); !place.done();) {
    bool space = place.is(SPACE);
    place.step();
    if (!space) end = place.at();
  }
  if (end) take(text.substr(0, end));
  if (end < text.size()) take(text.substr(end));
}

// Call take(word) for each word of `text`. Steps of a pre-tokenizer cut the pieces of the step before.
template <class F>
void cut_words(std::string_view text, Cut cut, F&& take) {
  auto by_gpt2 = [&](std::string_view piece) { cut_all(piece, gpt2_end, take); };
  auto by_llama3 = [&](Style style) {
    cut_all(text, [=](std::string_view all, size_t at) { return llama3_end(all, at, style); }, take);
  };
  auto by_case = [&](bool contractions, int most_digits) {
    Style style{most_digits, true, true};
    cut_all(text, [=](std::string_view all, size_t at) { return cased_end(all, at, contractions, style); }, take);
  };
  auto letters = [](Place place) { return place.is(LETTER); };
  auto marks = [](Place place) { return place.is(PUNCTUATION); };
  auto by_number = [&](std::string_view piece) { split(piece, one_number, take); };
  auto by_east = [&](std::string_view piece) { split(piece, deepseek_east, by_number); };
  switch (cut) {
    case Cut::LLAMA3:
      return by_llama3({3, true, false});
    case Cut::QWEN2:
      return by_llama3({1, true, false});
    case Cut::SEED_CODER:
      return by_llama3({1, false, false});
    case Cut::GPT2:
      return by_gpt2(text);
    case Cut::SMOLLM:
      return split(text, one_number, by_gpt2);
    case Cut::TEKKEN:
      return by_case(false, 1);
    case Cut::O200K:
      return by_case(true, 3);
    case Cut::DEEPSEEK_LLM:
      return split(text, one_newline, [&](std::string_view line) {
        split(line, [&](Place p) { return spaced_end(p, deepseek_letter); }, [&](std::string_view piece) {
          split(piece, [&](Place p) { return spaced_end(p, deepseek_sign); }, [&](std::string_view part) {
            split_trailing(part, by_east);
          });
        });
      });
    case Cut::DEEPSEEK_CODER:
      return split(text, one_newline, [&](std::string_view line) {
        split(line, [&](Place p) { return spaced_end(p, letters); }, [&](std::string_view piece) {
          split(piece, [&](Place p) { return spaced_end(p, marks); }, by_east);
        });
      });
    case Cut::DEEPSEEK_V3:
      return split(text, three_numbers, [&](std::string_view piece) {
        split(piece, deepseek_v3_east, [&](std::string_view part) { split(part, deepseek_v3_end, take); });
      });
  }
}

}  // namespace herd::text
