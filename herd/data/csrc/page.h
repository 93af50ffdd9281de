// The text of a page that a reader came for: formulas, code and tables kept; boilerplate cut; what is left written as lines.
#pragma once

#include <string>
#include <string_view>

#include "tree.h"

namespace herd::page {

// Whether elements nest deeper than `depth`, or there are more than `tags` of them: what a parser is slow on.
bool deep(std::string_view markup, int depth, int64_t tags);
// Markup of a body, as a parser writes it out -> its main text.
std::string main_text(std::string_view markup);
// Formulas, code and tables as they are to come out.
void keep_mathematics(Tree& tree);
void keep_code(Tree& tree);
void keep_tables(Tree& tree, int root);
// Lines of what is not cut below `root`: paragraphs apart by an empty line, items with their bullets or numbers.
std::string lines(const Tree& tree, int root);
// Words of a class or an id that say a block is no part of its page's text.
bool beside_the_text(std::string_view classes, std::string_view id);

}  // namespace herd::page
