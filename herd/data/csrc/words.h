// What the first words of a block say of it.
#pragma once

#include <string_view>

namespace herd::page {

// "Read more", "Share this", "Subscribe", ...: the block only leads elsewhere.
bool leads_elsewhere(std::string_view text);
// "Related stories", "Comments", ...: a heading behind which the text is over.
bool ends_the_text(std::string_view text);

}  // namespace herd::page
