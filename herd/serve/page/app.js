// The chat page: what is on the screen, and what clicks and keys do.

import { chat, models } from "./api.js";
import { render } from "./markdown.js";
import { Store, add, before, path, siblings } from "./store.js";

const $ = (id) => document.getElementById(id);
const store = new Store();
const SETTINGS = ["system", "temperature", "top_p", "top_k", "max_tokens", "seed"];
let current = store.all[0] ?? null;
let served = null;
let running = null; // the AbortController of the reply that is coming
let key = sessionStorage.getItem("herd-key") ?? "";

// Small pieces

function element(tag, properties = {}, ...children) {
  const { label, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  if (label) made.setAttribute("aria-label", label);
  made.append(...children);
  return made;
}

const button = (text, label, onclick) => element("button", { type: "button", textContent: text, title: label, label, onclick });

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

function save() {
  if (!store.save()) notice("This browser has no room for more conversations: export and delete some.");
}

function download(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// The list of conversations

function showList() {
  const items = store.find($("search").value).map((conversation) => {
    const open = button(conversation.title || "New conversation", `Open: ${conversation.title || "New conversation"}`, () => select(conversation));
    if (conversation === current) open.setAttribute("aria-current", "true");
    const remove = button("✕", `Delete: ${conversation.title || "New conversation"}`, () => {
      if (!confirm("Delete this conversation?")) return;
      store.remove(conversation);
      if (conversation === current) select(store.all[0] ?? null);
      save();
      showList();
    });
    remove.className = "icon remove";
    return element("li", {}, open, remove);
  });
  $("conversations").replaceChildren(...items);
}

function select(conversation) {
  running?.abort();
  current = conversation;
  notice("");
  showList();
  showMessages();
  if (matchMedia("(max-width: 700px)").matches) sidebar(false);
  $("input").focus();
}

function sidebar(open) {
  document.body.classList.toggle("no-sidebar", !open);
  $("open-sidebar").setAttribute("aria-expanded", open);
}

// Messages

function showMessages() {
  const shown = current ? path(current) : [];
  $("messages").replaceChildren(...shown.map(message));
  if (!shown.length) $("messages").append(element("p", { className: "welcome", textContent: served ? `Ask ${served.id} something.` : "" }));
  $("messages").scrollTop = $("messages").scrollHeight;
}

function message(node) {
  const text = element("div", { className: "text", dir: "auto" });
  if (node.role === "assistant") render(text, node.content);
  else text.textContent = node.content;
  const box = element("article", { className: node.role, label: node.role === "user" ? "You" : "Model" });
  box.dataset.id = node.id;
  box.append(element("div", { className: "tools" }, ...node.tools.map(tool)), text, actions(node));
  return box;
}

function tool(call) {
  const output = element("pre", { textContent: call.output, tabIndex: 0 });
  const given = element("pre", { textContent: call.arguments.code ?? JSON.stringify(call.arguments, null, 2), tabIndex: 0 });
  return element("details", { className: "tool" }, element("summary", { textContent: `Ran ${call.name}` }), given, output);
}

function actions(node) {
  const row = element("div", { className: "actions" });
  const all = siblings(current, node);
  const at = all.indexOf(node);
  if (all.length > 1) {
    const turn = (to) => () => {
      if (running) return;
      current.chosen[node.parent] = all[to].id;
      save();
      showMessages();
    };
    const back = button("‹", "Previous version", turn(at - 1));
    const forth = button("›", "Next version", turn(at + 1));
    back.disabled = at === 0;
    forth.disabled = at === all.length - 1;
    row.append(back, element("span", { textContent: `${at + 1}/${all.length}` }), forth);
  }
  row.append(button("Copy", "Copy this message", (event) => copy(node.content, event.target)));
  if (node.role === "user") row.append(button("Edit", "Edit this message", () => edit(node)));
  else row.append(button("Regenerate", "Make this reply anew", () => reply(current.nodes[node.parent])));
  if (node.note) row.append(element("span", { className: "note", textContent: node.note }));
  return row;
}

async function copy(text, where) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // without a secure origin there is no clipboard: select an invisible copy instead
    const area = element("textarea", { value: text, className: "offscreen" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = where.textContent;
  where.textContent = "Copied";
  setTimeout(() => (where.textContent = before), 1200);
}

function edit(node) {
  if (running) return;
  const box = document.querySelector(`article[data-id="${CSS.escape(node.id)}"]`);
  const area = element("textarea", { value: node.content, rows: 4, dir: "auto", label: "Edit the message" });
  const done = () => showMessages();
  const form = element("form", { className: "edit" }, area, button("Cancel", "Cancel", done), element("button", { type: "submit", textContent: "Send" }));
  form.onsubmit = (event) => {
    event.preventDefault();
    if (area.value.trim()) reply(add(current, node.parent, "user", area.value.trim()));
  };
  area.onkeydown = (event) => {
    if (event.key === "Escape") done();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  };
  box.replaceChildren(form);
  area.focus();
}

// A reply

function request(conversation, user) {
  const messages = [...before(conversation, user), user].map(({ role, content }) => ({ role, content }));
  const system = $("system").value.trim();
  if (system) messages.unshift({ role: "system", content: system });
  const body = { model: served?.id, messages };
  for (const name of SETTINGS.slice(1)) if ($(name).value !== "") body[name] = Number($(name).value);
  return body;
}

async function reply(user) {
  if (running) return;
  notice("");
  const conversation = current;
  const node = add(conversation, user.id, "assistant", "");
  const stop = (running = new AbortController());
  busy(true);
  showMessages();
  const log = $("messages");
  const box = document.querySelector(`article[data-id="${CSS.escape(node.id)}"]`);
  box.classList.add("coming");
  let first = 0;
  let usage = null;
  let drawn = 0;
  const draw = () => {
    drawn = 0;
    if (conversation !== current) return;
    const below = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    render(box.querySelector(".text"), node.content);
    if (below) log.scrollTop = log.scrollHeight;
  };
  try {
    await chat(request(conversation, user), key, stop.signal, (chunk) => {
      usage = chunk.usage ?? usage;
      for (const call of chunk.executed_tools ?? []) {
        node.tools.push(call);
        box.querySelector(".tools").append(tool(call));
      }
      const piece = chunk.choices[0]?.delta.content;
      if (!piece) return;
      first ||= performance.now();
      node.content += piece;
      drawn ||= setTimeout(draw, 40);
    });
    const seconds = (performance.now() - first) / 1000;
    if (stop.signal.aborted) node.note = "stopped";
    else if (usage?.completion_tokens > 1 && first) node.note = `${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`;
  } catch (error) {
    node.note = "failed";
    if (conversation === current) notice(error.status === 401 ? "The server asks for an API key: give it in the settings." : error.message);
    if (error.status === 401) settings(true);
  } finally {
    clearTimeout(drawn);
    running = null;
    busy(false);
    save();
    showList();
    if (conversation === current) {
      showMessages();
      $("input").focus();
    }
  }
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("messages").setAttribute("aria-busy", is);
}

function send() {
  const text = $("input").value.trim();
  if (!text || running) return;
  if (!current) current = store.create();
  const shown = path(current);
  $("input").value = "";
  grow();
  reply(add(current, shown.at(-1)?.id, "user", text));
}

function grow() {
  const lines = Math.min(10, $("input").value.split("\n").length + Math.floor($("input").value.length / 90));
  $("input").rows = Math.max(1, lines);
}

// Settings

function settings(open) {
  $("settings").hidden = !open;
  $("settings-button").setAttribute("aria-expanded", open);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("herd-theme", name);
}

function use(model) {
  served = model;
  $("models").value = model.id;
  $("model").textContent = $("models").hidden ? model.id : "";
  document.title = `${model.id} · herd`;
  const kept = JSON.parse(localStorage.getItem("herd-settings") ?? "null") ?? model.preset;
  for (const name of SETTINGS) $(name).value = kept[name] ?? "";
  showMessages();
}

async function connect() {
  try {
    const all = await models(key);
    $("models").replaceChildren(...all.map(({ id }) => element("option", { value: id, textContent: id })));
    $("models").hidden = all.length < 2;
    $("models").onchange = () => {
      localStorage.setItem("herd-model", $("models").value);
      use(all.find(({ id }) => id === $("models").value));
    };
    use(all.find(({ id }) => id === localStorage.getItem("herd-model")) ?? all[0]);
  } catch (error) {
    notice(error.status === 401 ? "The server asks for an API key: give it in the settings." : `The server does not answer: ${error.message}`);
    if (error.status === 401) settings(true);
  }
}

for (const name of SETTINGS)
  $(name).onchange = () => localStorage.setItem("herd-settings", JSON.stringify(Object.fromEntries(SETTINGS.map((n) => [n, $(n).value]))));
$("key").value = key;
$("key").onchange = () => {
  key = $("key").value.trim();
  sessionStorage.setItem("herd-key", key);
  notice("");
  connect();
};
$("form").onsubmit = (event) => {
  event.preventDefault();
  send();
};
$("input").oninput = grow;
$("input").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
  if (event.key === "ArrowUp" && !$("input").value && current) {
    const last = path(current).findLast((node) => node.role === "user");
    if (last) edit(last);
  }
};
$("stop").onclick = () => running?.abort();
$("new").onclick = () => select(null);
$("search").oninput = showList;
$("open-sidebar").onclick = () => sidebar(document.body.classList.contains("no-sidebar"));
$("close-sidebar").onclick = () => sidebar(false);
$("settings-button").onclick = () => settings($("settings").hidden);
$("theme").onclick = () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme(dark ? "light" : "dark");
};
$("export").onclick = () => download("herd-conversations.json", JSON.stringify(store.all, null, 1));
$("import").onclick = () => $("import-file").click();
$("import-file").onchange = async () => {
  try {
    const count = store.take(await $("import-file").files[0].text());
    save();
    select(store.all[0]);
    notice(`${count} conversations imported.`);
  } catch (error) {
    notice(`Not imported: ${error.message}`);
  }
  $("import-file").value = "";
};
document.addEventListener("click", (event) => {
  if (event.target.classList.contains("copy")) copy(event.target.closest(".code").querySelector("code").textContent, event.target);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
  if (event.key.toLowerCase() === "o" && event.ctrlKey && event.shiftKey) {
    event.preventDefault();
    select(null);
  }
  if (event.key === "/" && !["INPUT", "TEXTAREA"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    $("input").focus();
  }
});

const kept = localStorage.getItem("herd-theme");
if (kept) theme(kept);
sidebar(!matchMedia("(max-width: 700px)").matches);
showList();
showMessages();
connect();
