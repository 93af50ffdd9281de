// Markdown that a model wrote -> safe elements. marked makes HTML, DOMPurify takes out whatever could run or load.

import { marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";

const ALLOWED = {
  ALLOWED_TAGS: ["a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol", "p", "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ALLOWED_ATTR: ["href", "title", "align", "start", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

export function render(target, text) {
  const fragment = DOMPurify.sanitize(marked.parse(text, { gfm: true, breaks: true, async: false }), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const code of fragment.querySelectorAll("pre > code")) {
    const name = /language-([\w+#.-]+)/.exec(code.className)?.[1] ?? "";
    const box = document.createElement("div");
    box.className = "code";
    const bar = document.createElement("div");
    bar.className = "code-bar";
    const label = document.createElement("span");
    label.textContent = name;
    const copy = document.createElement("button");
    copy.type = "button";
    copy.textContent = "Copy";
    copy.className = "copy";
    copy.setAttribute("aria-label", "Copy this code");
    bar.append(label, copy);
    const pre = code.parentElement;
    pre.tabIndex = 0;
    pre.replaceWith(box);
    box.append(bar, pre);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    table.replaceWith(scroll);
    scroll.append(table);
  }
  target.replaceChildren(fragment);
}
